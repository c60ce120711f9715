# SPDX-License-Identifier: Apache-2.0
"""Of which programs it can be told that they leave their packets as they are."""

import pytest

from tests.kernel.lab import Lab, function_names
from xdpscope.tracing.alteration import alters_packets, harmless_calls

pytestmark = pytest.mark.every_kernel

PROGRAMS = [name for name in function_names("alteration") if name.startswith(("keeps", "alters"))]


@pytest.fixture(scope="module")
def harmless() -> frozenset[int]:
    return harmless_calls()


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_may_alter_packets_is_known(lab: Lab, name: str, harmless: frozenset[int]) -> None:
    instructions = lab.load(name, "alteration").instructions()
    assert alters_packets(instructions, harmless) == name.startswith("alters")


def test_without_knowing_helpers_only_what_calls_none_is_certain(lab: Lab) -> None:
    assert alters_packets(lab.load("keeps_counting", "alteration").instructions(), frozenset())
    assert not alters_packets(lab.load("decide_drop").instructions(), frozenset())


def test_what_is_secret_may_alter_packets(harmless: frozenset[int]) -> None:
    assert alters_packets([], harmless)
