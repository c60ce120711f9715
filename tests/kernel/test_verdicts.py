# SPDX-License-Identifier: Apache-2.0
"""Every counter equals what was sent: packets and bytes, no more and no less."""

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.kernel.conftest import counted, expect, preempts
from tests.kernel.lab import VERDICT_BYTE, Lab, frame
from tests.kernel.observing import Observer
from xdpscope.libbpf import possible_cpus

pytestmark = [pytest.mark.every_kernel, pytest.mark.at_once]

MODES = ["native", "generic"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        ("decide_aborted", "aborted"),
        ("decide_drop", "drop"),
        ("decide_pass", "pass"),
        ("decide_tx", "tx"),
        ("decide_redirect", "redirect"),
        ("decide_seventy_seven", "unknown"),
        ("decide_minus_one", "unknown"),
    ],
)
def test_one_verdict(lab: Lab, observer: Observer, function: str, verdict: str, mode: str) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load(function), veth, mode)
    observer.scan(0)

    veth.send(frame(60), frame(1514), frame(100), times=20)

    expect(observer, {(function, "xst0", verdict): (60, 20 * (60 + 1514 + 100))})


@pytest.mark.parametrize("mode", MODES)
def test_each_packet_its_own_verdict(lab: Lab, observer: Observer, mode: str) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_by_first_payload_byte"), veth, mode)
    observer.scan(0)

    for number, value in enumerate(VERDICT_BYTE.values(), start=1):
        veth.send(frame(60 + number, bytes([value])), times=number * 10)

    expect(
        observer,
        {
            ("decide_by_first_payload_byte", "xst0", verdict): (n * 10, n * 10 * (60 + n))
            for n, verdict in enumerate(VERDICT_BYTE, start=1)
        },
    )


def test_bytes_are_counted_as_the_packet_leaves(lab: Lab, observer: Observer) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("cut_four_bytes"), veth)
    observer.scan(0)

    veth.send(frame(100), times=10)

    expect(observer, {("cut_four_bytes", "xst0", "drop"): (10, 10 * 96)})


def test_multi_buffer_packets_count_whole(lab: Lab, observer: Observer) -> None:
    if not kernel_has_fragments():
        pytest.skip("no multi-buffer XDP: this kernel has no bpf_xdp_get_buff_len (5.18)")
    veth = lab.veth("xst0", mtu=9000)
    lab.attach(lab.load("drop_fragments_too", "fragments"), veth)
    observer.scan(0)

    veth.send(frame(9000), frame(200), times=10)

    expect(observer, {("drop_fragments_too", "xst0", "drop"): (20, 10 * 9200)})


def test_one_program_on_many_interfaces(lab: Lab, observer: Observer) -> None:
    """More of them than a target's own record has places for."""
    program = lab.load("decide_by_first_payload_byte")
    veths = [lab.veth(f"xst{number}") for number in range(10)]
    for veth in veths:
        lab.attach(program, veth)
    observer.scan(0)

    for _ in range(3):
        for number, veth in enumerate(veths, start=1):
            veth.send(frame(60, b"\1"), frame(70, b"\2"), times=number)

    function = "decide_by_first_payload_byte"
    expected = {}
    for number in range(1, 11):
        name, packets = f"xst{number - 1}", 3 * number
        expected[function, name, "drop"] = (packets, packets * 60)
        expected[function, name, "pass"] = (packets, packets * 70)
    expect(observer, expected)


def test_cpus_that_meet_the_interfaces_in_different_order(lab: Lab, observer: Observer) -> None:
    """What has a place of its own on one CPU spills on another, or on both."""
    program = lab.load("decide_drop")
    veths = [lab.veth(f"xst{number}") for number in range(10)]
    for veth in veths:
        lab.attach(program, veth)
    observer.scan(0)

    allowed = sorted(os.sched_getaffinity(0))
    try:
        for cpu, order in zip(allowed, itertools.cycle((veths, veths[::-1])), strict=False):
            os.sched_setaffinity(0, {cpu})
            for veth in order:
                veth.send(frame(60), times=3)
    finally:
        os.sched_setaffinity(0, allowed)

    each = 3 * len(allowed)
    expect(
        observer,
        {("decide_drop", veth.name, "drop"): (each, 60 * each) for veth in veths},
    )


def test_two_programs_one_interface_each(lab: Lab, observer: Observer) -> None:
    drop, passing = lab.veth("xst0"), lab.veth("xst1")
    lab.attach(lab.load("decide_drop"), drop)
    lab.attach(lab.load("decide_pass"), passing, "generic")
    observer.scan(0)

    drop.send(frame(60), times=5)
    passing.send(frame(60), times=7)

    expect(
        observer,
        {
            ("decide_drop", "xst0", "drop"): (5, 300),
            ("decide_pass", "xst1", "pass"): (7, 420),
        },
    )


def _run_on(cpu: int, fd: int, packet: bytes, repeat: int) -> None:
    from xdpscope.libbpf import Program

    os.sched_setaffinity(0, {cpu})
    program = Program.duplicate(fd)
    for _ in range(10):
        program.test_run(packet, repeat // 10)
    program.close()


def test_several_cpus_at_once(lab: Lab, observer: Observer) -> None:
    """The kernel runs the program on every CPU at the same time, the given number of times."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU: nothing runs at once")
    program = lab.load("decide_by_first_payload_byte")
    lab.attach(program, lab.veth("xst0"))
    observer.scan(0)

    each = 20_000
    context = multiprocessing.get_context("fork")
    runs = [
        context.Process(target=_run_on, args=(cpu, program.fileno(), frame(64, bytes([n])), each))
        for cpu in cpus
        for n in (1, 2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    assert [run.exitcode for run in runs] == [0] * len(runs)
    status = observer.statuses()[0]
    total = each * len(cpus)
    found = counted(observer)
    assert set(found) == {
        ("decide_by_first_payload_byte", "lo", "drop"),
        ("decide_by_first_payload_byte", "lo", "pass"),
    }
    assert sum(packets for packets, _ in found.values()) + status.missed == 2 * total
    assert all(size == 64 * packets for packets, size in found.values())
    if not preempts():
        assert status.missed == 0
        assert set(found.values()) == {(total, total * 64)}


def test_senders_on_several_cpus(lab: Lab, observer: Observer) -> None:
    """One program, four interfaces, as many processes sending as there are."""
    program = lab.load("decide_drop")
    veths = [lab.veth(f"xst{number}") for number in range(4)]
    for veth in veths:
        lab.attach(program, veth)
    observer.scan(0)

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(len(veths), mp_context=context) as pool:
        runs = [pool.submit(veth.send, frame(64), times=500) for veth in veths]
        arrived = {
            veth.name: run.result() - veth.lost for veth, run in zip(veths, runs, strict=True)
        }

    assert min(arrived.values()) > 0
    expect(
        observer,
        {("decide_drop", name, "drop"): (n, 64 * n) for name, n in arrived.items()},
    )


def kernel_has_fragments() -> bool:
    from xdpscope.libbpf import Btf

    with Btf.of_kernel() as btf:
        return btf.has_function("bpf_xdp_get_buff_len")


def test_all_possible_cpus_are_summed() -> None:
    assert possible_cpus() >= len(os.sched_getaffinity(0))
