# SPDX-License-Identifier: Apache-2.0
"""Every flow equals what was sent of it: packets and bytes by verdict, no more and no less."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.kernel.conftest import preempts
from tests.kernel.flows import (
    CAPTURES,
    TEST_RUN_DEVICE,
    Expected,
    check_sums,
    differs,
    expect_flows,
    frames_of,
    held,
    key_of,
    mac_verdict,
    observing,
    on_one_cpu,
    sum_of,
    unaccounted,
)
from tests.kernel.lab import Lab, frame
from tests.kernel.mixture import FLOWS, samples
from tests.kernel.observing import Observer
from tests.kernel.test_lifecycle import extension_of
from tests.reference import NOT_IP, TRUNCATED, Flow, flow_of
from xdpscope.attach.engine import Engine
from xdpscope.attach.spec import Spec
from xdpscope.attach.tracer import Tracer
from xdpscope.attach.variants import FlowSizes
from xdpscope.counters.records import of_target
from xdpscope.discovery.inventory import Inventory
from xdpscope.libbpf import Program
from xdpscope.program_types.xdp import VERDICTS

pytestmark = pytest.mark.every_kernel

SETS = 16384
"""So many that none of the flows here finds its places taken."""

PROGRAM = "decide_by_source_mac"
WRITING = "write_and_decide"
"""The same, but it writes to its packets: these are read where they come in, the others' where
they leave."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(FlowSizes(sets=SETS, sample_rate=1)) as engine:
        yield engine


@pytest.fixture
def observer(engine: Engine) -> Iterator[Observer]:
    with observing(engine) as observer:
        yield observer


def deciding(verdict: str, data: bytes) -> bytes:
    """Return the frame with a source address that has ``decide_by_source_mac`` say this."""
    value = VERDICTS.index(verdict) if verdict != "unknown" else 77
    return data[:11] + bytes([value]) + data[12:]


def udp4(number: int, size: int = 100) -> bytes:
    """Return a frame of a flow of this number."""
    addresses = bytes([192, 0, 2, 1, 198, 51, 100, 1])
    ip = bytes([0x45, 0, 0, size - 14, 0, 0, 0, 0, 64, 17, 0, 0]) + addresses
    ports = (1024 + number).to_bytes(2, "big") + b"\0\x35"
    return (frame(14)[:12] + b"\x08\0" + ip + ports).ljust(size, b"\0")


@pytest.mark.first_kernel
def test_the_reference_reads_what_scapy_was_told() -> None:
    made = samples()
    assert len({sample.flow for sample in made}) > FLOWS
    assert {sample.flow for sample in made} > {NOT_IP, TRUNCATED}
    assert [flow_of(sample.frame) for sample in made] == [sample.flow for sample in made]


@pytest.mark.parametrize(
    ("program", "mode"),
    [
        (PROGRAM, "native"),
        pytest.param(WRITING, "native", marks=pytest.mark.first_kernel),
        pytest.param(PROGRAM, "generic", marks=pytest.mark.matrix),
    ],
)
def test_thousands_of_flows_of_all_kinds(
    lab: Lab, observer: Observer, program: str, mode: str
) -> None:
    veth, made = lab.veth("xst0"), samples()
    lab.attach(lab.load(program, "flows"), veth, mode)
    observer.scan(0)
    expected = Expected()
    rounds = 3
    for _ in range(rounds):
        veth.send(*(sample.frame for sample in made))
    for sample in made:
        expected.add(program, "xst0", mac_verdict(sample.frame), sample.frame, rounds)

    assert {verdict for _, _, verdict, _ in expected.sums} == set(VERDICTS)
    expect_flows(observer, expected.sums)


@pytest.mark.matrix
def test_every_flow_can_be_exported(lab: Lab, engine: Engine) -> None:
    """With room for all of them, a series for each, for all that comes once it is there."""
    made = samples()[:600]
    program = lab.load(PROGRAM, "flows")
    lab.attach(program, lab.veth("xst0"))
    with observing(engine, top=1000) as observer:
        observer.scan(0)
        expected, later = Expected(), Expected()
        for times, sums in (1, (expected,)), (2, (expected, later)):
            for sample in made:
                program.test_run(sample.frame, times)
                verdict = mac_verdict(sample.frame)
                for each in sums:
                    each.add(PROGRAM, TEST_RUN_DEVICE, verdict, sample.frame, times)
            check_sums(observer)
        flows = observer.flow_counts()
        in_flows = {key: sums for key, sums in later.sums.items() if not isinstance(key[3], str)}
        assert len(flows.exported) == flows.entries
        exported = {key_of(flow): (flow.packets, flow.bytes) for flow in flows.exported}
        differs(exported, in_flows)
        before = sum(packets for packets, _ in in_flows.values()) // 2
        assert sum(sum(count.tally.packets) for count in flows.others) == before
        differs(held(observer) | unaccounted(observer), expected.sums)


def captures() -> list[Path]:
    return sorted(CAPTURES.glob("*.pcap"))


@pytest.mark.matrix
@pytest.mark.parametrize("name", [PROGRAM, WRITING])
def test_captures_by_others(lab: Lab, observer: Observer, name: str) -> None:
    program = lab.load(name, "flows")
    lab.attach(program, lab.veth("xst0"))
    observer.scan(0)
    expected = Expected()
    for number, capture in enumerate(captures()):
        for data in frames_of(capture):
            data = deciding(VERDICTS[number % len(VERDICTS)], data)
            program.test_run(data)
            expected.add(name, TEST_RUN_DEVICE, mac_verdict(data), data)

    kinds = {flow if isinstance(flow, str) else flow.protocol for *_, flow in expected.sums}
    assert kinds > {"tcp", "udp", "sctp", "icmp", "icmpv6", "47", "50", "89", "112"}
    assert kinds > {NOT_IP, TRUNCATED}
    expect_flows(observer, expected.sums)


def _run_on(cpu: int, fd: int, frames: list[bytes], rounds: int, repeat: int) -> None:
    os.sched_setaffinity(0, {cpu})
    program = Program.duplicate(fd)
    for _ in range(rounds):
        for data in frames:
            program.test_run(data, repeat)
    program.close()


@pytest.mark.parametrize("name", [PROGRAM, pytest.param(WRITING, marks=pytest.mark.first_kernel)])
def test_several_cpus_at_once(lab: Lab, observer: Observer, name: str) -> None:
    """Each flow on every CPU, and two processes on each: one is stopped amid the other."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("one CPU: nothing runs at once")
    program = lab.load(name, "flows")
    lab.attach(program, lab.veth("xst0"))
    observer.scan(0)

    frames = [sample.frame for sample in samples()[::20]]
    rounds, repeat, each = 4, 50, 2
    context = multiprocessing.get_context("fork")
    runs = [
        context.Process(target=_run_on, args=(cpu, program.fileno(), frames, rounds, repeat))
        for cpu in cpus
        for _ in range(each)
    ]
    for run in runs:
        run.start()
    while any(run.is_alive() for run in runs):
        observer.flow_counts()  # a reader that has no influence
        runs[0].join(0.2)
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0] * len(runs)
    expected = Expected()
    for data in frames:
        times = rounds * repeat * each * len(cpus)
        expected.add(name, TEST_RUN_DEVICE, mac_verdict(data), data, times)
    missed = observer.statuses()[0].missed
    if not preempts():
        assert missed == 0
        expect_flows(observer, expected.sums)
        return
    # Packets that preempt one another are missed, or in no flow, but never in another's.
    check_sums(observer)
    flows = held(observer)
    assert flows and all(flows[key] <= expected.sums[key] for key in flows)
    found = sum(sum(count.tally.packets) for count in observer.counts())
    assert found + missed == sum(packets for packets, _ in expected.sums.values())


@pytest.mark.parametrize(
    ("function", "verdict", "longer"),
    [
        ("encapsulate", "tx", 20),
        ("decapsulate", "pass", -20),
        pytest.param("translate", "tx", 0, marks=pytest.mark.matrix),
        pytest.param("cut_the_tail", "drop", -10, marks=pytest.mark.matrix),
    ],
)
def test_a_flow_is_the_packet_as_it_came_in(
    lab: Lab, observer: Observer, function: str, verdict: str, longer: int
) -> None:
    """And its bytes are those that leave."""
    veth = lab.veth("xst0")
    lab.attach(lab.load(function, "flows"), veth)
    observer.scan(0)
    sent = [
        sample.frame
        for sample in samples()
        if not isinstance(sample.flow, str) and len(sample.frame) >= 80
    ][:200]
    veth.send(*sent, times=2)

    expected = Expected()
    for data in sent:
        expected.add(function, "xst0", verdict, data, 2, longer)
    expect_flows(observer, expected.sums)


@pytest.mark.first_kernel
def test_two_verdicts_in_one_flow(lab: Lab, observer: Observer) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load(PROGRAM, "flows"), veth)
    observer.scan(0)
    expected = Expected()
    for times, verdict in enumerate(VERDICTS, start=1):
        data = deciding(verdict, udp4(7, 100 + times))
        veth.send(data, times=times)
        expected.add(PROGRAM, "xst0", verdict, data, times)

    assert len({flow for *_, flow in expected.sums}) == 1
    expect_flows(observer, expected.sums)


@pytest.mark.first_kernel
def test_one_flow_on_many_interfaces(lab: Lab, observer: Observer) -> None:
    """More of them than a target's own record has places for."""
    veths = [lab.veth(f"xst{number}") for number in range(10)]
    program = lab.load(PROGRAM, "flows")
    for veth in veths:
        lab.attach(program, veth)
    observer.scan(0)
    arp = frame(60)[:12] + b"\x08\x06" + bytes(46)
    expected = Expected()
    for _ in range(2):
        for number, veth in enumerate(veths, start=1):
            for data in (udp4(1), deciding("pass", udp4(1)), udp4(1 + number), arp):
                veth.send(data, times=number)
                expected.add(PROGRAM, veth.name, mac_verdict(data), data, number)
    expect_flows(observer, expected.sums)


@pytest.mark.first_kernel
def test_two_programs_see_flows_of_their_own(lab: Lab, observer: Observer) -> None:
    one, other = lab.veth("xst0"), lab.veth("xst1")
    lab.attach(lab.load(PROGRAM, "flows"), one)
    lab.attach(lab.load("cut_the_tail", "flows"), other)
    observer.scan(0)
    one.send(udp4(1), times=3)
    other.send(udp4(1), times=5)

    expected = Expected()
    expected.add(PROGRAM, "xst0", "drop" if udp4(1)[11] == 1 else "pass", udp4(1), 3)
    expected.add("cut_the_tail", "xst1", "drop", udp4(1), 5, -10)
    expect_flows(observer, expected.sums)


@pytest.mark.first_kernel
def test_dispatcher_and_component_both_see_the_flow(lab: Lab, observer: Observer) -> None:
    veth, dispatcher = lab.veth("xst0"), lab.load("xdp_dispatcher", "chain")
    with extension_of(dispatcher, "prog3") as extension, extension.attached():
        lab.attach(dispatcher, veth)
        observer.scan(0)
        expected = Expected()
        for number in range(5):
            veth.send(udp4(number), times=1 + number)
            for program in ("xdp_dispatcher", "drop_instead"):
                expected.add(program, "xst0", "drop", udp4(number), 1 + number)
        expect_flows(observer, expected.sums)
        roles = {s.program.function: s.part.role for s in observer.statuses()}
        assert roles == {"xdp_dispatcher": "dispatcher", "drop_instead": "component"}


@pytest.mark.first_kernel
def test_one_packet_in_ten(lab: Lab) -> None:
    """On one CPU exactly so, whatever the packets are; and all others are sampled out."""
    program = lab.load(PROGRAM, "flows")
    lab.attach(program, lab.veth("xst0"))
    rounds, flows = 500, 20
    with (
        Engine(FlowSizes(sets=256, sample_rate=10)) as engine,
        observing(engine) as observer,
        on_one_cpu(),
    ):
        observer.scan(0)
        for number in range(rounds * flows):
            program.test_run(udp4(number % flows))
            if number % 2000 == 1999:
                check_sums(observer)
        total = rounds * flows
        found = held(observer)
        assert sum(packets for packets, _ in found.values()) == total // 10
        assert all(size == packets * 100 for packets, size in found.values())
        left = unaccounted(observer)
        verdict = mac_verdict(udp4(0))
        assert left == {
            (PROGRAM, TEST_RUN_DEVICE, verdict, "sampled_out"): (
                total - total // 10,
                100 * (total - total // 10),
            )
        }
        # Not always the same flow: traffic has rhythms.
        assert len(found) == flows
        flow = Flow("udp", "192.0.2.1", "198.51.100.1", 1024, 53)
        assert (PROGRAM, TEST_RUN_DEVICE, verdict, flow) in found
        assert sum_of(observer.held_flows().flows) == total // 10


@pytest.mark.first_kernel
@pytest.mark.parametrize("alters", [True, False])
def test_flows_follow_under_traffic_without_a_packet_missed_or_twice(
    lab: Lab, engine: Engine, alters: bool
) -> None:
    """What counts verdicts first is replaced by what counts flows, ten times, under traffic."""
    veth = lab.veth("xst0")
    program = lab.load("decide_drop", "verdicts")
    lab.attach(program, veth)
    with Inventory() as inventory:
        description = inventory.take().programs[program.info().id]
    for _ in range(10):
        with closing(Tracer(engine, description)) as tracer:
            tracer.attach()
            lost = veth.lost
            with veth.sending(udp4(1)) as traffic:
                time.sleep(0.1)
                assert not tracer.does(Spec.FLOWS)
                tracer.follow_up(Spec.FLOWS, lambda _: alters)
                time.sleep(0.1)
            sent = traffic.sent - (veth.lost - lost)
            assert sent > 100
            end = time.monotonic() + 5
            while dropped(tracer) < sent and time.monotonic() < end:
                time.sleep(0.02)  # the kernel may put off the work for a packet
            time.sleep(0.02)
            assert dropped(tracer) == sent
            assert not any(each.counts[1:].any() for each in of_target(tracer.records()).values())


def dropped(tracer: Tracer) -> int:
    """Return the packets that it has counted as dropped, whatever their flows."""
    return sum(int(each.counts[0, 1, 0]) for each in of_target(tracer.records()).values())


@pytest.mark.first_kernel
def test_a_new_program_need_not_wait_until_the_flows_of_all_are_counted(
    lab: Lab, observer: Observer
) -> None:
    for number in range(3):
        lab.attach(lab.load("decide_drop", "verdicts"), lab.veth(f"xst{number}"))
    unfinished, postponed = [], []
    while not unfinished or unfinished[-1]:
        observer.scan(0, follow_up=0)
        unfinished.append(observer.unfinished)
        postponed.append(observer.postponed)
        if len(unfinished) == 1:
            lab.attach(lab.load("decide_pass", "verdicts"), lab.veth("xst3"))
        assert {status.reason for status in observer.statuses()} == {None}
        assert len(observer.statuses()) == min(4, 2 + len(unfinished))
    # That of the new one are counted from the scan on that finds it for the second time.
    assert unfinished == [2, 1, 1, 0]
    assert postponed == [False, True, False, False]
