# SPDX-License-Identifier: Apache-2.0
"""Times outlive the agent, also if it ends while it switches them on or off."""

from pathlib import Path

import pytest

from tests.kernel.conftest import expect
from tests.kernel.forked import observing
from tests.kernel.lab import Lab, addressed, frame
from tests.kernel.observing import Observer
from tests.kernel.pinned import READ_ONLY
from tests.kernel.test_latency import OFF, SIZES, measure, times
from tests.kernel.test_pins import pin_path  # noqa: F401 - a fixture

pytestmark = pytest.mark.every_kernel


@pytest.mark.parametrize("name", ["verdicts", "flows"])
def test_an_agent_that_ends_while_it_switches(lab: Lab, pin_path: Path, name: str) -> None:  # noqa: F811
    """The next one goes on with counts and times."""
    veth = lab.veth("xst0")
    lab.attach(lab.load(READ_ONLY, "flows"), veth)
    data = addressed(frame(60), what=1)

    def check(observer: Observer, packets: int, measured: int) -> None:
        expect(observer, {(READ_ONLY, "xst0", "drop"): (packets, packets * 60)})
        if measured:
            assert times(observer)[READ_ONLY].packets == measured

    with observing(pin_path, SIZES[name]) as observer:
        measure(observer)
        veth.send(data, times=5)
        check(observer, 5, 5)
        observer._engine.handover.begin(timed=False)
        veth.send(data, times=7)
        check(observer, 12, 5)
    veth.send(data, times=11)
    with observing(pin_path, SIZES[name]) as observer:
        measure(observer)
        check(observer, 23, 5)
        veth.send(data, times=13)
        check(observer, 36, 18)
        # As an agent leaves it that ends before it detaches what it has replaced.
        observer.measure(OFF)
        (target,) = observer._targets
        target.tracer._drop = lambda *_: None
        observer._engine.end_handover = lambda: None
        observer.scan(0)
        veth.send(data, times=17)
    veth.send(data, times=19)
    with observing(pin_path, SIZES[name]) as observer:
        measure(observer, OFF)
        check(observer, 72, 0)
