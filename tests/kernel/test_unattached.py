# SPDX-License-Identifier: Apache-2.0
"""Programs that run while they are attached nowhere: BPF_PROG_RUN, as xdp-trafficgen does it."""

import pytest

from tests.kernel.conftest import counted, expect, reasons
from tests.kernel.flows import check_sums, observing
from tests.kernel.lab import Lab, frame
from tests.kernel.observing import Observer
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes

pytestmark = pytest.mark.every_kernel


def test_runs_of_a_program_that_is_not_attached(lab: Lab, observer: Observer) -> None:
    """Counts agree with the status: there are none, before and after it was attached."""
    veth, program = lab.veth("xst0"), lab.load("decide_pass")
    observer.scan(0)
    for _ in range(2):
        program.test_run(frame(64), 1000)
        assert counted(observer) == {}
        observer.scan(0)
        assert reasons(observer) == {"decide_pass": "not_attached"}
        assert list(observer.counts()) == []

    lab.attach(program, veth)
    observer.scan(0)
    veth.send(frame(60), times=3)
    expected = {("decide_pass", "xst0", "pass"): (3, 180)}
    expect(observer, expected)

    # While it is attached, whatever runs it counts.
    program.test_run(frame(64), 10)
    expected["decide_pass", "lo", "pass"] = (10, 640)
    expect(observer, expected)

    lab.attach(None, veth)
    observer.scan(0)
    assert reasons(observer) == {"decide_pass": "not_attached"}
    for _ in range(2):
        program.test_run(frame(64), 1000)
        expect(observer, expected)
        observer.scan(0)
    lab.attach(program, veth)
    observer.scan(0)
    veth.send(frame(60), times=4)
    expected["decide_pass", "xst0", "pass"] = (7, 420)
    expect(observer, expected)


@pytest.mark.matrix
def test_flows_of_a_program_that_comes_and_goes(lab: Lab) -> None:
    """Its flows go on where they were, and have nothing of the runs in between."""
    veth, program = lab.veth("xst0"), lab.load("decide_by_source_mac", "flows")
    other = lab.veth("xst1")
    lab.attach(lab.load("decide_drop"), other)
    data = bytes.fromhex("02000000000202000000000108004500002e0000000040110000c6336401")
    data += bytes.fromhex("c633640204d20035001a0000") + bytes(18)
    with Engine(FlowSizes(sets=256, sample_rate=1)) as engine, observing(engine) as observer:
        observer.scan(0)
        for round_ in range(1, 4):
            program.test_run(data, 100)
            observer.scan(0)
            lab.attach(program, veth)
            observer.scan(0)
            veth.send(data, times=5)
            expect(
                observer,
                {("decide_by_source_mac", "xst0", "drop"): (5 * round_, 5 * len(data) * round_)},
            )
            check_sums(observer)
            lab.attach(None, veth)
            observer.scan(0)
            observer.scan(0)  # flows are counted until a second scan finds it idle
        assert [flow.packets for flow in observer.held_flows().flows] == [15]
        flows = observer.flow_counts()
        assert flows is not None
        # The first five came before its series: they are in `other`.
        assert [flow.packets for flow in flows.exported] == [10]
