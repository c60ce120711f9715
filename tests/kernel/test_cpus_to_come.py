# SPDX-License-Identifier: Apache-2.0
"""Where most possible CPUs are not there, flow tables are plain arrays: exact all the same."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kernel.conftest import counted
from tests.kernel.flows import Expected, check_sums, expect_flows, held, mac_verdict, observing
from tests.kernel.lab import Lab
from xdpscope import doctor
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes
from xdpscope.kernel.machine import cpus_to_serve
from xdpscope.libbpf import possible_cpus

pytestmark = pytest.mark.every_kernel

PROGRAM = "decide_by_source_mac"
SETS = 4096


def frames(count: int) -> list[bytes]:
    """Frames of as many flows, half of them IPv4, that are dropped."""
    found = []
    ends = bytes([192, 0, 2, 1, 198, 51, 100, 1])
    for number in range(count):
        udp = (1024 + number).to_bytes(2, "big") + b"\0\x35\0\x08\0\0"
        kind, ip = b"\x08\0", b"\x45\0\0\x1c\0\0\0\0\x40\x11\0\0" + ends
        if number % 2:
            kind, ip = b"\x86\xdd", b"\x60\0\0\0\0\x08\x11\x40" + 8 * b"\x20\x01" + 2 * ends
        found.append((bytes(5) + b"\x02" + bytes(5) + b"\x01" + kind + ip + udp).ljust(80, b"\0"))
    return found


@contextmanager
def each_cpu() -> Iterator[list[int]]:
    """All CPUs, for this thread to move to."""
    allowed = os.sched_getaffinity(0)
    try:
        yield sorted(allowed)
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("program", [PROGRAM, "write_and_decide"])
def test_each_cpu_has_sets_of_its_own(lab: Lab, program: str) -> None:
    made, expected = frames(300), Expected()
    veths = [lab.veth("xst0"), lab.veth("xst1")]
    sizes = FlowSizes(SETS, 1, cpus=cpus_to_serve())
    with Engine(sizes) as engine, observing(engine) as observer, each_cpu() as cpus:
        loaded = lab.load(program, "flows")
        for veth in veths:
            lab.attach(loaded, veth)
        observer.scan(0)
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            for times, veth in enumerate(veths, 1):
                for _ in range(times):
                    veth.send(*made)
        for times, veth in enumerate(veths, 1):
            for frame in made:
                verdict = mac_verdict(frame)
                expected.add(program, veth.name, verdict, frame, times * len(cpus))
        expect_flows(observer, expected.sums)


@pytest.mark.first_kernel
def test_a_cpu_that_came_later_has_its_flows_in_other(lab: Lab) -> None:
    """And takes no set of the others."""
    made, expected = frames(100), Expected()
    veth = lab.veth("xst0")
    with Engine(FlowSizes(SETS, 1, cpus=1)) as engine, observing(engine) as observer:
        lab.attach(lab.load(PROGRAM, "flows"), veth)
        observer.scan(0)
        with each_cpu() as cpus:
            assert len(cpus) > 1
            for cpu in cpus:
                os.sched_setaffinity(0, {cpu})
                veth.send(*made)
        for frame in made:
            expected.add(PROGRAM, "xst0", mac_verdict(frame), frame)
        check_sums(observer)
        assert held(observer) == expected.sums
        packets = sum(packets for packets, _ in counted(observer).values())
        assert packets == len(cpus) * len(made)


@pytest.mark.first_kernel
def test_doctor_reports_cpus_that_are_not_there() -> None:
    (found,) = (each for each in doctor.examine() if each.check == "CPUs")
    assert found.found.startswith(f"{cpus_to_serve()} online of {possible_cpus()} possible")
    sparse = possible_cpus() > 2 * cpus_to_serve()
    assert found.status is (doctor.Status.WARN if sparse else doctor.Status.OK)
