# SPDX-License-Identifier: Apache-2.0
"""What the observer says of flows, brought into a form that can be compared.

Everything is by (program, interface, verdict, ...) and has (packets, bytes).
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dpkt

from tests.kernel.observing import Observer
from tests.reference import Flow, flow_of
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.config import Flows
from xdpscope.counters.records import REASONS
from xdpscope.discovery.inventory import Inventory
from xdpscope.program_types.xdp import VERDICTS

CAPTURES = Path(__file__).parent / "captures"

TEST_RUN_DEVICE = "lo"
"""Where the kernel says that the packet of a test run has come in."""

SHORTEST = 14
"""No test run takes a shorter packet."""

Key = tuple[str, str, str, Flow | str]
"""Program, interface, verdict, and a flow or the reason why a packet is in none."""

Sums = dict[Key, tuple[int, int]]


class Expected:
    """What must be counted, from the packets that were sent."""

    def __init__(self) -> None:
        self._packets: Counter[Key] = Counter()
        self._bytes: Counter[Key] = Counter()

    def add(
        self,
        program: str,
        interface: str,
        verdict: str,
        frame: bytes,
        times: int = 1,
        longer: int = 0,
        layer3: bool = False,
    ) -> None:
        """Add a frame as it came in, which left ``longer`` by so many bytes.

        With ``layer3`` it begins with IP.
        """
        key = program, interface, verdict, flow_of(frame, layer3=layer3)
        self._packets[key] += times
        self._bytes[key] += times * (len(frame) + longer)

    @property
    def sums(self) -> Sums:
        return {key: (packets, self._bytes[key]) for key, packets in self._packets.items()}


def mac_verdict(frame: bytes) -> str:
    """Return what ``decide_by_source_mac`` says to a frame."""
    return VERDICTS[min(frame[11], VERDICTS.index("unknown"))]


def key_of(count: Any) -> Key:
    """Return what a flow count of the observer is about."""
    flow = Flow(
        count.protocol,
        count.source,
        count.destination,
        count.source_port,
        count.destination_port,
    )
    return count.program.function, count.location[1], count.verdict, flow


def held(observer: Observer) -> Sums:
    """Return the flows that the observer holds; none twice."""
    found: Sums = {}
    for count in observer.held_flows().flows:
        key = key_of(count)
        assert key not in found, "a flow is listed twice"
        found[key] = count.packets, count.bytes
    return found


def _by_verdict(packets: list[int], sizes: list[int]) -> Iterator[tuple[str, int, int]]:
    for verdict, count, size in zip(VERDICTS, packets, sizes, strict=True):
        if count or size:
            yield verdict, count, size


def _in_no_flow(observer: Observer) -> Iterator[tuple[Any, str, str, int, int]]:
    """Yield a count, reason, verdict, packets and bytes."""
    for count in observer.flow_counts().unaccounted:
        for reason in REASONS:
            for found in _by_verdict(*count.tally.unaccounted(reason)):
                yield count, reason, *found


def unaccounted(observer: Observer) -> Sums:
    """Return the packets that are in no flow, with the reason."""
    return {
        (count.program.function, count.location[1], verdict, reason): (packets, size)
        for count, reason, verdict, packets, size in _in_no_flow(observer)
    }


def accounted(observer: Observer) -> Sums:
    """Return all flows, and what is in none."""
    return held(observer) | unaccounted(observer)


def check_sums(observer: Observer) -> None:
    """Exported flows, others and unaccounted packets together are all that was counted."""
    wanted = {
        (count.program.id, count.location, verdict): (packets, size)
        for count in observer.counts()
        for verdict, packets, size in _by_verdict(count.tally.packets, count.tally.bytes)
    }
    flows = observer.flow_counts()
    parts = [
        ((flow.program.id, flow.location, flow.verdict), flow.packets, flow.bytes)
        for flow in flows.exported
    ]
    parts += [
        ((count.program.id, count.location, verdict), packets, size)
        for count in flows.others
        for verdict, packets, size in _by_verdict(count.tally.packets, count.tally.bytes)
    ]
    parts += [
        ((count.program.id, count.location, verdict), packets, size)
        for count, _, verdict, packets, size in _in_no_flow(observer)
    ]
    found: dict[Any, tuple[int, int]] = {}
    for key, packets, size in parts:
        before = found.get(key, (0, 0))
        found[key] = before[0] + packets, before[1] + size
    assert {key: sums for key, sums in found.items() if sums != (0, 0)} == wanted


def expect_flows(observer: Observer, expected: Sums) -> None:
    """Fail unless exactly these are accounted, no fewer, and a moment later still no more.

    The kernel may put off the work for a packet (ksoftirqd), so there is some patience.
    """
    end = time.monotonic() + 10
    while accounted(observer) != expected and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.02)
    differs(accounted(observer), expected)
    check_sums(observer)


def differs(found: Sums, expected: Sums) -> None:
    """Fail if they do, and show where: pytest's own comparison of thousands takes minutes."""
    lines = [
        f"{key}: expected {expected.get(key)}, found {found.get(key)}"
        for key in sorted(found.keys() | expected.keys(), key=str)
        if found.get(key) != expected.get(key)
    ]
    more = f"\n... {len(lines) - 20} more" if len(lines) > 20 else ""
    assert not lines, "\n".join(lines[:20]) + more


@contextmanager
def observing(
    engine: Engine,
    *,
    max_entries: int = 1 << 20,
    top: int = 500,
    idle_timeout: float = 3600.0,
    patience: float = 0.0,
) -> Iterator[Observer]:
    """Yield an observer, of which nothing is limited that the caller does not limit.

    A flow's series counts from the reading after the one that gives it, not a minute later.
    """
    flows = Flows(max_entries=max_entries, top=top, idle_timeout=idle_timeout)
    with (
        Inventory() as inventory,
        Observer(engine, inventory, Selection(), flows, patience) as observer,
    ):
        yield observer


@contextmanager
def on_one_cpu() -> Iterator[int]:
    """Run the body of the with statement there."""
    allowed = os.sched_getaffinity(0)
    cpu = min(allowed)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, allowed)


def frames_of(capture: Path) -> list[bytes]:
    """Return the frames of a capture of Ethernet, those left out that no test run takes."""
    with capture.open("rb") as file:
        reader = dpkt.pcap.Reader(file)
        assert reader.datalink() == dpkt.pcap.DLT_EN10MB
        return [bytes(frame) for _, frame in reader if len(frame) >= SHORTEST]


def sum_of(counts: Iterable[Any], wanted: Callable[[Any], bool] = lambda _: True) -> int:
    """Return the packets of some flows."""
    return sum(count.packets for count in counts if wanted(count))
