# SPDX-License-Identifier: Apache-2.0
"""``xdpscope trace``: a line for each packet."""

import json
import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from xdpscope.libbpf import Record
from xdpscope.log import printable
from xdpscope.sessions.packet import Packet, changes, dissect
from xdpscope.sessions.selectors import kernel_name
from xdpscope.sessions.session import ENTRY, EXIT, Device, Session
from xdpscope.sessions.tracers import Counts, Target

JSON_VERSION = 1
"""The version of the lines of ``--json``; docs/capture.md describes them."""

SNAPLEN = 256
"""Bytes of each packet that are copied: enough for the headers of two tunnels."""

LINES_PER_SECOND = 500
"""A terminal shows no more: the rest is counted."""

# enum capture_flags of bpf/common/capture.h
_VERDICT, _LAYER3, _INSIDE = 1, 4, 8

_POLL = 0.02
# Entries whose exit has not come: those of a CPU that is behind, or of packets whose exit was lost.
_WAITING = 4096

_DIM, _BOLD, _RESET = "\033[2m", "\033[1m", "\033[0m"
_INDENT = "    "
_COLOURS = {
    "XDP_DROP": "\033[31m", "XDP_ABORTED": "\033[1;31m", "XDP_PASS": "\033[32m",
    "XDP_TX": "\033[36m", "XDP_REDIRECT": "\033[35m",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One packet: as it arrived, as it left, or both."""

    entry: Record | None
    exit: Record | None
    device: Device
    program: str
    program_id: int
    time_ns: int  # Unix time

    @property
    def record(self) -> Record:
        """The record that comes first."""
        found = self.entry or self.exit
        assert found is not None  # noqa: S101
        return found

    @property
    def verdict(self) -> str:
        """The kernel's name of the verdict; empty if it is not known."""
        for record in (self.exit, self.entry):
            if record is not None and record.flags & _VERDICT:
                return kernel_name(record.verdict)
        return ""

    @property
    def inside(self) -> int | None:
        """Nanoseconds from entry to exit, if they were measured."""
        for record in (self.exit, self.entry):
            if record is not None and record.flags & _INSIDE:
                return record.inside
        return None


def _dissected(record: Record) -> Packet:
    return dissect(record.data, layer3=bool(record.flags & _LAYER3))


def changed(line: Line) -> list[str]:
    """Return what the program changed, in words; empty unless entry and exit were seen."""
    if line.entry is None or line.exit is None:
        return []
    found = changes(_dissected(line.entry), _dissected(line.exit))
    if line.entry.length != line.exit.length:
        found.append(f"length {line.entry.length} -> {line.exit.length}")
    return found


def duration(ns: int) -> str:
    """Return a time in three digits: ``850 ns``, ``1.23 us``."""
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def as_text(line: Line, *, colours: bool = False, width: int = 0) -> str:
    """Return the line for people; two or more if it is wider than the terminal (0: any width)."""
    at = datetime.fromtimestamp(line.time_ns // 10**9).strftime("%H:%M:%S")
    at += f".{line.time_ns % 10**9 // 1000:06d}"
    where = [line.device.interface]
    if line.device.netns != "host":
        where.append(line.device.netns)
    packet = f"{_dissected(line.record)} {line.record.length}"
    points = []
    if line.entry is not None:
        points.append("(fentry)")
    if line.exit is not None:
        points.append(f"(fexit: {line.verdict})")
    elif line.verdict:
        points.append(f"(then fexit: {line.verdict})")
    more = []
    if line.inside is not None:
        more.append(duration(line.inside))
    more += changed(line)
    head = [at, *map(printable, where), printable(packet)]
    tail = [printable(line.program), *points, *([", ".join(more)] if more else [])]
    colour = _COLOURS.get(line.verdict, "")
    paints = [_DIM, *[""] * (len(head) - 2), _BOLD], ["", *[colour] * len(points), ""]
    first, second = (
        [(text, paint if colours else "") for text, paint in zip(texts, of_texts, strict=False)]
        for texts, of_texts in zip((head, tail), paints, strict=True)
    )
    if not width or len(" ".join(head + tail)) <= width:
        return _folded(first + second, 0)
    return f"{_folded(first, width)}\n{_folded(second, width, _INDENT)}"


def _folded(texts: Iterable[tuple[str, str]], width: int, indent: str = "") -> str:
    """Return texts with their colours, in lines of this width if no word is longer (0: any)."""
    lines, column = [indent], len(indent)
    for text, colour in texts:
        for word in text.split(" ") if width else [text]:
            if lines[-1].strip():
                if width and column + 1 + len(word) > width:
                    lines.append(2 * _INDENT)
                    column = len(lines[-1])
                else:
                    lines[-1] += " "
                    column += 1
            lines[-1] += f"{colour}{word}{_RESET}" if colour else word
            column += len(word)
    return "\n".join(lines)


def as_json(line: Line) -> str:
    """Return the line for machines: one JSON object."""
    seconds, rest = divmod(line.time_ns, 10**9)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    record = line.record
    value: dict[str, object] = {
        "version": JSON_VERSION,
        "time": f"{stamp}.{rest:09d}Z",
        "netns": line.device.netns,
        "interface": line.device.interface,
        "queue": record.queue,
        "cpu": record.cpu,
        "program_id": line.program_id,
        "program": line.program,
        "packet_id": f"{record.id:016x}",
        "verdict": line.verdict or None,
        "inside_ns": line.inside,
    }
    for name, each in (("entry", line.entry), ("exit", line.exit)):
        value[name] = None if each is None else _packet_json(_dissected(each), each)
    value["changes"] = changed(line)
    return json.dumps(value)


def _packet_json(packet: Packet, record: Record | None) -> dict[str, object]:
    value: dict[str, object] = {} if record is None else {"length": record.length}
    value |= {
        "source_mac": packet.macs[0] if packet.macs else None,
        "destination_mac": packet.macs[1] if packet.macs else None,
        "vlans": list(packet.vlans),
        "mpls": list(packet.labels),
        "source": packet.source or None,
        "destination": packet.destination or None,
        "source_port": packet.source_port,
        "destination_port": packet.destination_port,
        "protocol": packet.protocol or None,
        "detail": packet.detail or None,
        "ttl": packet.hops,
        "tunnel": packet.tunnel or None,
        "inner": None if packet.inner is None else _packet_json(packet.inner, None),
    }
    return value


class Pairs:
    """Puts the records of entry and exit of each packet together."""

    def __init__(self, both: bool) -> None:
        """Take pairs (``both``), or each record alone."""
        self._both = both
        self._waiting: OrderedDict[int, Record] = OrderedDict()

    def add(self, records: Iterable[Record]) -> Iterator[tuple[Record | None, Record | None]]:
        """Yield (entry, exit) of each packet that is complete, and of some that will not be."""
        for record in records:
            if not self._both:
                yield (record, None) if record.point == ENTRY else (None, record)
            elif record.point == ENTRY:
                self._waiting[record.id] = record
                if len(self._waiting) > _WAITING:
                    yield self._waiting.popitem(last=False)[1], None
            else:
                yield self._waiting.pop(record.id, None), record

    def rest(self) -> Iterator[tuple[Record | None, Record | None]]:
        """Yield the entries whose exit has not come."""
        for record in self._waiting.values():
            yield record, None
        self._waiting.clear()


@contextmanager
def signalled(*numbers: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether one of these signals has come."""
    come: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: come.append(number)) for number in numbers
    }
    try:
        yield lambda: bool(come)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    session: Session,
    *,
    json_lines: bool = False,
    count: int = 0,
    seconds: float = 0,
    output: TextIO = sys.stdout,
    width: int = 0,
    note: Callable[[str], None],
) -> int:
    """Print packets until ``count``, ``seconds``, SIGINT or SIGTERM; return how many were printed.

    On a terminal, ``width`` columns wide, at most ``LINES_PER_SECOND`` are printed in each second.
    """
    plan = session.tracers.plan
    terminal = bool(width)
    colours = terminal and not os.environ.get("NO_COLOR")
    pairs = Pairs(plan.entry and plan.exit)
    printed = withheld = in_this_second = 0
    end = time.monotonic() + seconds if seconds else float("inf")
    second = time.monotonic()

    def show(found: Iterable[tuple[Record | None, Record | None]]) -> None:
        nonlocal printed, withheld, in_this_second
        offset = time.time_ns() - time.monotonic_ns()
        for entry, leaving in found:
            if count and printed >= count:
                return
            if terminal and in_this_second >= LINES_PER_SECOND:
                withheld += 1
                continue
            first = entry or leaving
            assert first is not None  # noqa: S101
            program = session.target(first.target).program
            device = session.device(first.netns, first.ifindex)
            line = Line(entry, leaving, device, program.function, program.id, first.time + offset)
            text = as_json(line) if json_lines else as_text(line, colours=colours, width=width)
            output.write(text + "\n")
            printed += 1
            in_this_second += 1

    with signalled(signal.SIGINT, signal.SIGTERM) as interrupted:
        while not interrupted() and time.monotonic() < end and not (count and printed >= count):
            records = session.tracers.rings.read()
            show(pairs.add(records))
            output.flush()
            if time.monotonic() >= second + 1:
                if withheld:
                    note(f"… {withheld:,} more packets in this second: too many for a terminal")
                second, in_this_second, withheld = time.monotonic(), 0, 0
            if not records:
                time.sleep(_POLL)
        session.stop()
        while records := session.tracers.rings.read(all=True):
            show(pairs.add(records))
        show(pairs.rest())
        output.flush()
    return printed


def summary(found: Iterable[tuple[Target, int, Counts]]) -> Iterator[str]:
    """Yield a line for each point of capture: packets captured, lost and matched."""
    for target, point, counts in found:
        name = f"{printable(target.program.function)} (program {target.program.id})"
        where = "fexit" if point == EXIT else "fentry"
        line = (
            f"{name} {where}: {counts.captured:,} captured, {counts.lost:,} lost,"
            f" {counts.matched:,} matched"
        )
        if target.missed:
            line += f"; {target.missed:,} not seen: the kernel skipped a tracer"
        yield line
