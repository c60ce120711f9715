# SPDX-License-Identifier: Apache-2.0
"""Millions of flows that nobody asked for, and the few that somebody did."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kernel.flows import check_sums, held, key_of, observing, on_one_cpu
from tests.kernel.lab import Lab, frame
from tests.kernel.observing import Observer
from tests.reference import Flow, flow_of
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes
from xdpscope.libbpf import Program

pytestmark = pytest.mark.every_kernel

SETS = 2048
WAYS = 4
MAX_ENTRIES = 6000
"""Less than the kernel's tables have room for, so that both limits are met."""
TOP = 50

ROUND = 2_000
"""Packets of the flood; then come the heavy flows."""
HEAVY = 10
HEAVY_PACKETS = 8  # of each heavy flow in each round
SIZE = 100


def packet(version: int, number: int, mac: int) -> bytes:
    """Return a UDP packet; the low bytes of its source address are the number, as the program
    counts.
    """
    ethernet = frame(12)[:11] + bytes([mac])
    low = number.to_bytes(4, "little")
    ports = bytes([4, 0, 0, 53])
    if version == 4:
        head = bytes([0x45, 0, 0, 86, 0, 0, 0, 0, 64, 17, 0, 0])
        return (ethernet + b"\x08\0" + head + low + bytes([192, 0, 2, 1]) + ports).ljust(
            SIZE, b"\0"
        )
    head = b"\x60\0\0\0\0\x30\x11\x40" + low + bytes(12) + b"\x20\x01\x0d\xb8" + bytes(12)
    return (ethernet + b"\x86\xdd" + head + ports).ljust(SIZE, b"\0")


FLOOD, LEGITIMATE = 1, 2
"""What ``next_source`` goes by: it leaves the latter as they are."""

FIRST_HEAVY = 0xE0000000
"""Beyond what any flood here counts to."""


class Monotone:
    """Whether anything that is counted has ever become less."""

    def __init__(self) -> None:
        self._before: dict[Any, tuple[int, int]] = {}

    def check(self, now: dict[Any, tuple[int, int]]) -> None:
        for key in now.keys() & self._before.keys():
            before = self._before[key]
            assert now[key][0] >= before[0] and now[key][1] >= before[1], (key, before, now[key])
        self._before = now


def everything(observer: Observer) -> dict[Any, tuple[int, int]]:
    """Return every counter there is."""
    flows = observer.flow_counts()
    found: dict[Any, tuple[int, int]] = {}
    for kind, counts in (("all", observer.counts()), ("others", flows.others)):
        for count in counts:
            pairs = zip(count.tally.packets, count.tally.bytes, strict=True)
            for verdict, pair in enumerate(pairs):
                found[kind, count.program.id, count.location, verdict] = pair
    for flow in flows.exported:
        found["flow", key_of(flow)] = flow.packets, flow.bytes
    for reason, number in flows.evictions.items():
        found["evictions", reason] = number, 0
    return found


@dataclass
class Flood:
    """Sends, through one program, packets of a new flow each, and some of old ones."""

    program: Program
    version: int
    sent: int = 0

    def chunk(self, rounds: int) -> None:
        heavy = [packet(self.version, FIRST_HEAVY + n, LEGITIMATE) for n in range(HEAVY)]
        for _ in range(rounds):
            self.program.test_run(packet(self.version, self.sent, FLOOD), ROUND)
            self.sent += ROUND
            for data in heavy:
                self.program.test_run(data, HEAVY_PACKETS)

    def heavy_flows(self) -> set[Flow | str]:
        return {flow_of(packet(self.version, FIRST_HEAVY + n, LEGITIMATE)) for n in range(HEAVY)}


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(FlowSizes(sets=SETS, sample_rate=1)) as engine:
        yield engine


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("version", "chunks", "rounds"),
    [
        (4, 2, 25),
        pytest.param(6, 2, 25, marks=pytest.mark.matrix),
        pytest.param(4, 20, 250, marks=pytest.mark.nightly),
        pytest.param(6, 2, 250, marks=pytest.mark.nightly),
    ],
)
def test_flood(lab: Lab, engine: Engine, version: int, chunks: int, rounds: int) -> None:
    """Twenty chunks of 250 rounds are ten million packets."""
    program = lab.load(f"next_source{version}", "flows")
    lab.attach(program, lab.veth("xst0"))
    flood, monotone = Flood(program, version), Monotone()
    heavy_packets: Counter[Flow] = Counter()
    with observing(engine, max_entries=MAX_ENTRIES, top=TOP) as observer, on_one_cpu():
        observer.scan(0)
        for _ in range(chunks):
            flood.chunk(rounds)
            check_sums(observer)
            monotone.check(everything(observer))
            flows = observer.flow_counts()
            assert flows.entries <= MAX_ENTRIES
            assert len(flows.exported) <= TOP
            now = {key_of(flow)[3]: flow.packets for flow in flows.exported}
            assert flood.heavy_flows() <= now.keys(), "a flow that matters lost its series"
            assert all(now[flow] > heavy_packets.get(flow, -1) for flow in flood.heavy_flows())
            heavy_packets = Counter(now)
            busiest = sorted(flows.exported, key=lambda flow: -flow.rate)[:HEAVY]
            assert {key_of(flow)[3] for flow in busiest} == flood.heavy_flows()

        assert flood.sent == chunks * rounds * ROUND
        assert len(held(observer)) == observer.flow_counts().entries
        # Of what is in the table all along nearly everything is in its series, from the end of
        # the first chunk on.
        most = (chunks - 1) * rounds * HEAVY_PACKETS
        for flow in flood.heavy_flows():
            assert 0.9 * most < heavy_packets[flow] <= most
        gone = sum(observer.flow_counts().evictions.values())
        assert 0.99 * (flood.sent - SETS * WAYS) <= gone <= 1.01 * flood.sent
        drops, passes = (
            sum(count.tally.packets[verdict] for count in observer.counts()) for verdict in (1, 2)
        )
        assert (drops, passes) == (flood.sent, chunks * rounds * HEAVY * HEAVY_PACKETS)


def test_no_more_flows_are_held_than_may_be(lab: Lab, engine: Engine) -> None:
    """The packets of evicted flows stay counted."""
    program = lab.load("next_source4", "flows")
    lab.attach(program, lab.veth("xst0"))
    busy = [packet(4, FIRST_HEAVY + n, LEGITIMATE) for n in range(50)]
    with observing(engine, max_entries=100, top=20) as observer, on_one_cpu():
        observer.scan(0)
        for data in busy:
            program.test_run(data, 10)
        program.test_run(packet(4, 0, FLOOD), 300)
        flows = observer.flow_counts()
        assert flows.entries == 100
        assert len(flows.exported) == 20
        assert sum(flows.evictions.values()) == flows.evictions["pressure"] == 250
        check_sums(observer)
        kept = {flow for *_, flow in held(observer)}
        assert {flow_of(data) for data in busy} <= kept, "the idlest go, not the busiest"
        check_sums(observer)


@pytest.mark.matrix
def test_idle_flows_age_out(lab: Lab, engine: Engine) -> None:
    """They come back when they have packets again."""
    program = lab.load("next_source4", "flows")
    lab.attach(program, lab.veth("xst0"))
    idle = [packet(4, number, LEGITIMATE) for number in range(7)]
    alive = packet(4, 100, LEGITIMATE)
    with observing(engine, idle_timeout=3.0) as observer, on_one_cpu():
        observer.scan(0)
        for data in (*idle, alive):
            program.test_run(data, 5)
        flows = observer.flow_counts()
        assert (flows.entries, len(flows.exported)) == (8, 8)
        assert not any(flows.evictions.values())

        monotone, sent, end = Monotone(), 5, time.monotonic() + 20
        while observer.flow_counts().entries > 1 and time.monotonic() < end:
            program.test_run(alive, 3)
            sent += 3
            monotone.check(everything(observer))
            check_sums(observer)
            time.sleep(0.3)
        flows = observer.flow_counts()
        assert (flows.entries, flows.evictions) == (1, {"idle": 7, "pressure": 0})
        assert [(key_of(flow)[3], flow.packets) for flow in flows.exported] == [
            (flow_of(alive), sent - 5)
        ]
        assert sum(sum(count.tally.packets) for count in flows.others) == 5 * len((*idle, alive))
        monotone.check(everything(observer))

        program.test_run(idle[0], 2)
        flows = observer.flow_counts()
        assert flows.entries == 2
        assert {key_of(flow)[3] for flow in flows.exported} == {flow_of(alive), flow_of(idle[0])}
        check_sums(observer)
        monotone.check(everything(observer))
