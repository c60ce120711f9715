# SPDX-License-Identifier: Apache-2.0
"""A short torture; ``torture.py`` says how to have the whole of it, with times."""

import pytest

from tests.kernel.agent import QUICK
from tests.kernel.conftest import kernel
from tests.kernel.lab import kernel_objects, settled_objects
from tests.kernel.pinned import BPFFS, tree, wipe
from tests.kernel.test_chains import needs_loader
from tests.kernel.torture import observed
from tests.waiting import wait_for

pytestmark = pytest.mark.every_kernel

PIN_PATH = BPFFS / "xst"
PINNING = QUICK + f"state: {{pin_path: {PIN_PATH}}}\n"


@pytest.mark.first_kernel
@needs_loader
@pytest.mark.timeout(400)
def test_nothing_fails_and_all_is_counted_while_everything_changes() -> None:
    """And each change is an event, once and in order."""
    before = settled_objects()
    # Before 5.13 the kernel does not say which program an extension replaces: to the agent, each is
    # attached wherever a dispatcher is.
    report = observed(seed=1, count=6, config=PINNING, events=kernel() >= (5, 13))
    assert report.failures == []
    assert tree(PIN_PATH) != []
    wipe(PIN_PATH)
    wait_for(lambda: kernel_objects() == before, patience=60)
