# SPDX-License-Identifier: Apache-2.0
"""An agent may end while it replaces tracing programs by those of another kind."""

from pathlib import Path

import pytest

from tests.kernel.conftest import expect
from tests.kernel.flows import unaccounted
from tests.kernel.forked import observing
from tests.kernel.lab import Lab, addressed, frame
from tests.kernel.observing import Observer
from tests.kernel.pinned import READ_ONLY, WRITING
from tests.kernel.test_latency import OFF, SIZES, measure, times
from tests.kernel.test_pins import pin_path  # noqa: F401 - a fixture
from tests.waiting import wait_for
from xdpscope.attach.spec import Spec

pytestmark = pytest.mark.every_kernel


@pytest.mark.matrix
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
        observer._engine.handover.begin(Spec.FLOWS)
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


@pytest.mark.parametrize("name", [pytest.param(READ_ONLY, marks=pytest.mark.matrix), WRITING])
def test_an_agent_that_ends_while_it_takes_no_packet(lab: Lab, pin_path: Path, name: str) -> None:  # noqa: F811
    """The next one counts flows again, as it has no reason not to."""
    veth = lab.veth("xst0")
    program = lab.load(name, "flows")
    lab.attach(program, veth)
    data = addressed(frame(60), what=1)
    without = {program.info().id}

    def check(observer: Observer, packets: int, sampled_out: int) -> None:
        expect(observer, {(name, "xst0", "drop"): (packets, packets * 60)})
        found = unaccounted(observer).get((name, "xst0", "drop", "sampled_out"), (0, 0))
        assert found == (sampled_out, sampled_out * 60)

    def apply(observer: Observer) -> None:
        wait_for(lambda: observer.scan(0) or not observer._targets.incomplete())

    with observing(pin_path, SIZES["flows"]) as observer:
        apply(observer)
        veth.send(data, times=5)
        check(observer, 5, 0)
        observer.sample_flows(0, without)
        apply(observer)
        veth.send(data, times=7)
        check(observer, 12, 7)
    veth.send(data, times=11)
    with observing(pin_path, SIZES["flows"]) as observer:
        apply(observer)
        check(observer, 23, 18)
        veth.send(data, times=13)
        check(observer, 36, 18)
        # As an agent leaves it that ends before it detaches what it has replaced.
        (target,) = observer._targets
        target.tracer._drop = lambda *_: None
        observer._engine.end_handover = lambda: None
        observer.sample_flows(0, without)
        observer.scan(0)
        veth.send(data, times=17)
    veth.send(data, times=19)
    with observing(pin_path, SIZES["flows"]) as observer:
        apply(observer)
        check(observer, 72, 18 + 17 + 19)
        veth.send(data, times=23)
        check(observer, 95, 18 + 17 + 19)
