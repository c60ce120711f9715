# SPDX-License-Identifier: Apache-2.0
"""However an agent that pins may end, the next goes on: no packet is lost or counted twice."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.conftest import counted, expect, reasons
from tests.kernel.flows import check_sums
from tests.kernel.forked import NEW_TARGET, UNPINNED, Forked, observing
from tests.kernel.lab import Drizzle, Lab, Veth, loaded_programs
from tests.kernel.observing import Observer
from tests.kernel.pinned import (
    BPFFS,
    OWN_LINKS,
    READ_ONLY,
    WRITING,
    links,
    pinned_links,
    settled,
    tree,
    udp,
    wipe,
)
from tests.waiting import wait_for
from xdpscope.attach.reason import Selection
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import GlobFilter

pytestmark = pytest.mark.every_kernel

SIZE = 60
FLOWS, SAMPLED = FlowSizes(sets=64, sample_rate=1), FlowSizes(sets=64, sample_rate=10)
VERDICTS = pytest.param(None, id="verdicts")
SIZES = [VERDICTS, pytest.param(FLOWS, id="flows")]


@pytest.fixture
def pin_path() -> Iterator[Path]:
    """Yield a directory that is not there yet, and neither is afterwards."""
    path = BPFFS / "xst"
    wipe(path)
    others = tree(BPFFS)
    yield path
    wipe(path)
    assert tree(BPFFS) == others


def scan_until_settled(observer: Observer, path: Path, *program_ids: int) -> None:
    for _ in range(5):
        observer.scan(1000)
        if settled(path, *program_ids):
            return
    raise AssertionError(tree(path))


def expect_drops(observer: Observer, expected: dict[tuple[str, str], int]) -> None:
    """Fail unless exactly this is counted of programs at interfaces, in flows too."""
    drops = {(*key, "drop"): (n, n * SIZE) for key, n in expected.items() if n}
    expect(observer, drops)
    if observer.flow_counts() is not None:
        check_sums(observer)


def send_on_each_cpu(veth: Veth, data: bytes, times: int) -> int:
    """Packets are counted by CPU, and each has to learn what is attached; how many were sent."""
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in allowed:
            os.sched_setaffinity(0, {cpu})
            veth.send(data, times=times)
    finally:
        os.sched_setaffinity(0, allowed)
    return times * len(allowed)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [4, pytest.param(12, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "sizes", [VERDICTS, pytest.param(FLOWS, id="flows", marks=pytest.mark.first_kernel)]
)
def test_killed_at_any_moment_it_loses_no_packet(
    lab: Lab, pin_path: Path, sizes: FlowSizes | None, kills: int
) -> None:
    """Kill the agent while it starts, adopts, adds flows, and counts; under traffic all the
    time.
    """
    locations = {"decide_drop": "verdicts", READ_ONLY: "flows", WRITING: "flows"}
    veths, ids = {}, []
    for number, (name, source) in enumerate(locations.items()):
        veths[name], program = lab.veth(f"xst{number}"), lab.load(name, source)
        lab.attach(program, veths[name])
        ids.append(program.info().id)
    chance = random.Random(1)
    traffic = Drizzle((veth.sender(), udp(4000)) for veth in veths.values())
    seen = set()
    try:
        for number in range(kills):
            with Forked(pin_path, sizes) as agent:
                if number == 0:
                    # From here on each packet has to be counted; flows are yet to follow.
                    wait_for(lambda: all(pinned_links(pin_path, id) for id in ids))
                    traffic.start()
                elif number % 3:
                    wait_for(lambda agent=agent: agent.scans > 0)
                    time.sleep(chance.uniform(0, 1))
                else:
                    time.sleep(chance.uniform(0, 2))
                agent.kill()
            seen.add(tuple(len(pinned_links(pin_path, id)) for id in ids))
        with observing(pin_path, sizes) as observer:
            scan_until_settled(observer, pin_path, *ids)
            traffic.stop()
            assert traffic.sent > 100
            expect_drops(
                observer,
                {(name, veth.name): traffic.sent - veth.lost for name, veth in veths.items()},
            )
    finally:
        traffic.stop()
    print(f"{traffic.sent} packets; links found after a kill: {seen}")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("sizes", "program", "least"),
    [
        pytest.param(None, READ_ONLY, 4, id="verdicts", marks=pytest.mark.first_kernel),
        pytest.param(FLOWS, READ_ONLY, 8, id="unaltered", marks=pytest.mark.nightly),
        pytest.param(FLOWS, WRITING, 10, id="altered", marks=pytest.mark.nightly),
        pytest.param(SAMPLED, READ_ONLY, 8, id="sampled", marks=pytest.mark.nightly),
    ],
)
def test_ended_at_each_step_of_attaching(
    lab: Lab, pin_path: Path, sizes: FlowSizes | None, program: str, least: int
) -> None:
    veth, loaded = lab.veth("xst0"), lab.load(program, "flows")
    program_id = loaded.info().id
    lab.attach(loaded, veth)
    steps = 0
    while True:
        steps += 1
        with Forked(pin_path, sizes, halt=(NEW_TARGET, steps)) as agent:
            wait_for(lambda agent=agent: agent.halted or agent.scans > 2)
            last = not agent.halted
            found, attached = pinned_links(pin_path, program_id), links() > OWN_LINKS
            expected = 0
            # On one CPU at first, so that they differ in what they have seen.
            for sent in (send_on_each_cpu(veth, udp(4000), 1), 0):
                expected += sent if attached else 0
            veth.send(udp(4001), times=3)
            expected += 3 if attached else 0
            agent.kill()
        left = len(found) + 1
        wait_for(lambda left=left: links() == left)
        sent = send_on_each_cpu(veth, udp(4000), 7)
        expected += sent if found else 0
        with observing(pin_path, sizes) as observer:
            scan_until_settled(observer, pin_path, program_id)
            expected += send_on_each_cpu(veth, udp(4001), 11)
            print(f"step {steps}: pinned {sorted(found)}, attached {attached}")
            expect_drops(observer, {(program, veth.name): expected})
        wipe(pin_path)
        if last:
            break
    assert steps > least


@pytest.mark.first_kernel
@pytest.mark.timeout(600)
def test_ended_at_each_step_of_letting_go(lab: Lab, pin_path: Path) -> None:
    """The next agent traces the leftovers again, with the earlier totals."""
    veth, loaded = lab.veth("xst0"), lab.load(WRITING, "flows")
    program_id = loaded.info().id
    lab.attach(loaded, veth)
    without = Selection(programs=GlobFilter(exclude=(WRITING,)))
    with observing(pin_path, FLOWS) as observer:
        scan_until_settled(observer, pin_path, program_id)
    expected, found = 0, []
    for step in range(1, 5):
        with Forked(pin_path, FLOWS, without, halt=(UNPINNED, step)) as agent:
            wait_for(lambda agent=agent: agent.halted)
            found.append(pinned_links(pin_path, program_id))
        with observing(pin_path, FLOWS) as observer:
            scan_until_settled(observer, pin_path, program_id)
            expect_drops(observer, {(WRITING, veth.name): expected})
            expected += send_on_each_cpu(veth, udp(4000), 7)
            expect_drops(observer, {(WRITING, veth.name): expected})
    assert found == [{"entry_flows"}, {"entry_flows"}, set(), set()]


@pytest.mark.matrix
def test_what_is_traced_again_keeps_its_total(lab: Lab, pin_path: Path) -> None:
    veth, program = lab.veth("xst0"), lab.load(WRITING, "flows")
    lab.attach(program, veth)
    total = 0
    with observing(pin_path, FLOWS) as observer:
        for _ in range(3):
            observer.reconfigure(Selection())
            scan_until_settled(observer, pin_path, program.info().id)
            total += send_on_each_cpu(veth, udp(4000), 3)
            expect_drops(observer, {(WRITING, veth.name): total})
            observer.reconfigure(Selection(programs=GlobFilter(exclude=(WRITING,))))
            observer.scan(1000)
            assert pinned_links(pin_path, program.info().id) == set()
    with observing(pin_path, FLOWS) as observer:
        scan_until_settled(observer, pin_path, program.info().id)
        expect_drops(observer, {(WRITING, veth.name): total})


@pytest.mark.first_kernel
@pytest.mark.parametrize("sizes", SIZES)
def test_more_devices_than_a_record_has_room_for(
    lab: Lab, pin_path: Path, sizes: FlowSizes | None
) -> None:
    """Some are in the hash that all share; one of these goes while no agent runs."""
    program, expected = lab.load(READ_ONLY, "flows"), {}
    veths = [lab.veth(f"xst{number}") for number in range(7)]
    for veth in veths:
        lab.attach(program, veth)
    for _ in range(3):
        with observing(pin_path, sizes) as observer:
            scan_until_settled(observer, pin_path, program.info().id)
            expect_drops(observer, expected)
            for number, veth in enumerate(veths, 1):
                veth.send(udp(4000), times=number)
                key = READ_ONLY, veth.name
                expected[key] = expected.get(key, 0) + number
            expect_drops(observer, expected)
        lab.delete(veths.pop())


SPARSE = FlowSizes(sets=64, sample_rate=1, cpus=2, entries=300)
DENSE = FlowSizes(sets=32, sample_rate=1, entries=300)


@pytest.mark.matrix
@pytest.mark.parametrize("sizes", [(SPARSE, DENSE), (DENSE, SPARSE)], ids=["fewer", "more"])
def test_tables_stay_as_they_were_made(
    lab: Lab, pin_path: Path, sizes: tuple[FlowSizes, ...]
) -> None:
    """Also if fewer CPUs, or more, are online when the next agent starts."""
    veth, program, sent = lab.veth("xst0"), lab.load(READ_ONLY, "flows"), 0
    lab.attach(program, veth)
    for each in (*sizes, sizes[0]):
        with observing(pin_path, each) as observer:
            scan_until_settled(observer, pin_path, program.info().id)
            assert observer._engine.templates.sizes == sizes[0]
            sent += send_on_each_cpu(veth, udp(4000), 3)
            expect_drops(observer, {(READ_ONLY, "xst0"): sent})
            assert [flow.packets for flow in observer.held_flows().flows] == [sent]


@pytest.mark.first_kernel
def test_held_flows_come_back(lab: Lab, pin_path: Path) -> None:
    sent = {4000: 5, 4001: 11}
    veths = {READ_ONLY: lab.veth("xst0"), WRITING: lab.veth("xst1")}
    ids = []
    for name, veth in veths.items():
        program = lab.load(name, "flows")
        lab.attach(program, veth)
        ids.append(program.info().id)
    rounds = 0

    def send() -> None:
        for veth in veths.values():
            for port, times in sent.items():
                veth.send(udp(port), times=times)

    for _ in range(3):
        with observing(pin_path, FLOWS) as observer:
            scan_until_settled(observer, pin_path, *ids)
            observer.flow_counts()
            send()
            rounds += 1
            expect_drops(observer, {(name, veth.name): 16 * rounds for name, veth in veths.items()})
            held = observer.held_flows().flows
            assert {(flow.program.function, flow.source_port): flow.packets for flow in held} == {
                (name, port): times * rounds for name in veths for port, times in sent.items()
            }
            # As many a second as came just now, not as there ever were.
            assert all(0 < flow.rate < 0.1 * sent[flow.source_port] for flow in held)
            # Each has a series from the beginning, which starts at 0 as any new one does.
            report = observer.flow_counts()
            assert report is not None
            assert [flow.packets for flow in report.exported] == [0] * len(held)
            assert sum(sum(count.tally.packets) for count in report.others) == 32 * rounds
        send()
        rounds += 1


@pytest.mark.first_kernel
def test_a_number_is_never_anothers(lab: Lab, pin_path: Path) -> None:
    """The flows of a program that is gone are still in the table; they are nobody's."""
    veth, first, second = lab.veth("xst0"), lab.load(READ_ONLY, "flows"), lab.load(WRITING, "flows")
    lab.attach(first, veth)
    with observing(pin_path, FLOWS) as observer:
        scan_until_settled(observer, pin_path, first.info().id)
        veth.send(udp(4000), times=5)
        expect_drops(observer, {(READ_ONLY, veth.name): 5})
    lab.attach(second, veth)
    first_id = first.info().id
    first.close()
    for _ in range(2):
        with observing(pin_path, FLOWS) as observer:
            for _ in range(4):
                observer.scan(0)
                observer.counts()
                time.sleep(0.1)
            assert not list(pin_path.glob(f"state_*/targets/*_{first_id}"))
    with observing(pin_path, FLOWS) as observer:
        scan_until_settled(observer, pin_path, second.info().id)
        before = sum(packets for packets, _ in counted(observer).values())
        veth.send(udp(4000), times=3)
        expect_drops(observer, {(WRITING, veth.name): before + 3})
        (flow,) = observer.held_flows().flows
        assert (flow.program.function, flow.packets) == (WRITING, before + 3)


@pytest.mark.first_kernel
def test_a_program_replaced_meanwhile_is_let_go_at_once(lab: Lab, pin_path: Path) -> None:
    veth, before, after = lab.veth("xst0"), lab.load("decide_drop"), lab.load("decide_pass")
    lab.attach(before, veth)
    with observing(pin_path, FLOWS) as observer:
        scan_until_settled(observer, pin_path, before.info().id)
    veth.send(udp(4000), times=5)
    lab.attach(after, veth)
    before.close()
    assert "decide_drop" in loaded_programs(), "the price"
    with observing(pin_path, FLOWS) as observer:
        observer.scan(1000)
        wait_for(lambda: "decide_drop" not in loaded_programs(), patience=60)
        observer.scan(1000)
        assert reasons(observer) == {"decide_drop": "vanished", "decide_pass": ""}
        veth.send(udp(4000), times=6)
        expect(
            observer,
            {
                ("decide_drop", "xst0", "drop"): (5, 5 * SIZE),
                ("decide_pass", "xst0", "pass"): (6, 6 * SIZE),
            },
        )


@pytest.mark.first_kernel
@pytest.mark.parametrize(
    "missing",
    [
        "links/device_appears",
        pytest.param("maps/*bss", marks=pytest.mark.matrix),
        pytest.param("next_*", marks=pytest.mark.matrix),
    ],
)
def test_a_state_that_is_not_whole_is_made_anew(lab: Lab, pin_path: Path, missing: str) -> None:
    veth, program = lab.veth("xst0"), lab.load(READ_ONLY, "flows")
    lab.attach(program, veth)
    with observing(pin_path, FLOWS) as observer:
        scan_until_settled(observer, pin_path, program.info().id)
        veth.send(udp(4000), times=5)
    (found,) = pin_path.glob(f"state_*/{missing}")
    found.rmdir() if found.is_dir() else found.unlink()
    with observing(pin_path, FLOWS) as observer:
        scan_until_settled(observer, pin_path, program.info().id)
        wait_for(lambda: links() == OWN_LINKS + 1)  # and the target's: no others are left
        veth.send(udp(4000), times=6)
        expect_drops(observer, {(READ_ONLY, veth.name): 6})


@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_taking_over_is_no_slower_than_attaching(lab: Lab, pin_path: Path) -> None:
    ids = []
    for number in range(20):
        program = lab.load("come_and_go", "single")
        ids.append(program.info().id)
        lab.attach(program, lab.veth(f"xst{number}"))
    took = []
    for _ in range(2):
        began = time.monotonic()
        with observing(pin_path, FLOWS) as observer:
            scan_until_settled(observer, pin_path, *ids)
            took.append(time.monotonic() - began)
    print(f"{len(ids)} programs: attached in {took[0]:.1f} s, taken over in {took[1]:.1f} s")
    assert took[1] < 1.3 * took[0]  # of wall time, on hosts that are busy
