# SPDX-License-Identifier: Apache-2.0
"""A CPU that stands still in the middle of counting, as one of a virtual machine may."""

import multiprocessing
import os
import time

import pytest

from tests.kernel.flows import check_sums, observing
from tests.kernel.lab import Lab
from tests.kernel.test_flow_flood import FLOOD, ROUND, Monotone, everything, packet
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes
from xdpscope.libbpf import Program

pytestmark = pytest.mark.one_kernel

SETS = 16
"""Few, so that a reading is over while the CPU still stands."""


def flood(cpu: int, descriptor: int, seconds: float, sent: "multiprocessing.Value[int]") -> None:  # type: ignore[type-arg]
    os.sched_setaffinity(0, {cpu})
    program = Program.duplicate(descriptor)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        program.test_run(packet(4, sent.value, FLOOD), ROUND)
        sent.value += ROUND
    program.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "seconds",
    [3, pytest.param(60, marks=[pytest.mark.nightly, pytest.mark.stalled])],
)
def test_nothing_is_in_two_series_when_a_cpu_stands_still(lab: Lab, seconds: int) -> None:
    """Every packet is of a new flow: the table changes all the time, and is read all the time."""
    program = lab.load("next_source4", "flows")
    lab.attach(program, lab.veth("xst0"))
    ours, theirs, *_ = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("fork")
    sent, monotone = context.Value("Q", 0), Monotone()
    with (
        Engine(FlowSizes(sets=SETS, sample_rate=1)) as engine,
        observing(engine) as observer,
    ):
        observer.scan(0)
        other = context.Process(target=flood, args=(theirs, program.fileno(), seconds, sent))
        other.start()
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {ours})
        try:
            while other.is_alive():
                monotone.check(everything(observer))
            other.join()
            assert other.exitcode == 0
            for _ in range(2):
                monotone.check(everything(observer))
                check_sums(observer)
        finally:
            os.sched_setaffinity(0, allowed)
        counted = sum(sum(count.tally.packets) for count in observer.counts())
    assert counted == sent.value > 0
