# SPDX-License-Identifier: Apache-2.0
"""A target to run, its packets, and what a run costs: see docs/cost.md."""

import struct
import time
from collections import Counter
from contextlib import ExitStack
from typing import Self

from tests.bench.compiled import path_of
from tests.tables import every_step
from xdpscope.attach.engine import Engine
from xdpscope.attach.tracer import Tracer
from xdpscope.counters.records import REASONS, no_counts, of_target
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import XdpProgram
from xdpscope.libbpf import Link, Object, Program, run_time_stats
from xdpscope.probes.latency.times import Times
from xdpscope.program_types.xdp import VERDICTS

XDP_PASS = 2

# Most series end before a timer ticks. They are long enough for the mean, which the kernel cuts to
# whole nanoseconds, not to show the cost of a series beside its runs.
RUNS = 1000
SERIES = 60
# Between series the kernel gets to what it has put off. Kernel 7.2 else takes 6 instructions more
# for a traced run, in some series and not in others: never after a pause.
PAUSE = 0.002

_PORTS = struct.pack("!HHHH", 1000, 2000, 30, 0)


def _ethernet(kind: int) -> bytes:
    return struct.pack("!6s6sH", b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", kind)


def packet4() -> bytes:
    """64 bytes of Ethernet, IPv4 and UDP."""
    addresses = bytes((192, 0, 2, 1, 192, 0, 2, 2))
    internet = struct.pack("!BBHHHBBH8s", 0x45, 0, 50, 0, 0, 64, 17, 0, addresses)
    return (_ethernet(0x0800) + internet + _PORTS).ljust(64, b"\0")


def packet6() -> bytes:
    """64 bytes of Ethernet, IPv6 and UDP."""
    addresses = bytes.fromhex("20010db8") + bytes(12) + bytes.fromhex("20010db8") + bytes(12)
    internet = struct.pack("!IHBB32s", 6 << 28, 10, 17, 64, addresses)
    return (_ethernet(0x86DD) + internet + _PORTS).ljust(64, b"\0")


def check_counts(tracer: Tracer, engine: Engine, runs: list[int], sampled_out: int = 0) -> None:
    """Raise AssertionError if so many passed packets, by device, are not what was counted.

    Args:
        sampled_out: how many of each device's are to be in no flow, for this reason.
    """
    wanted = []
    for packets in runs:
        counts = no_counts()
        for row, number in ((0, packets), (1 + REASONS.index("sampled_out"), sampled_out)):
            counts[row, VERDICTS.index("pass")] = number, 64 * number
        wanted.append(counts.tolist())
    reading = of_target(tracer.records())
    for records in every_step(engine.overflow()).values():
        reading |= records.by_device()
    counted = [each.counts.tolist() for each in reading.values()]
    if sorted(counted) != sorted(wanted):
        raise AssertionError(f"counted {counted}, but there were {wanted}")


def check_times(tracer: Tracer, runs: int, sample_rate: int) -> None:
    """Raise AssertionError if not one packet in so many was measured, give or take one."""
    found = Times.of(tracer.records()["timing"]).packets
    if abs(found * sample_rate - runs) >= (sample_rate if sample_rate > 1 else 1):
        raise AssertionError(f"of {runs} packets {found} have a time")


class Bench:
    """One loaded target, and what its runs cost."""

    def __init__(self, program: Program, function: str, packet: bytes) -> None:
        self.program = program
        self.function = function
        self.packet = packet
        self.runs = 0
        self.pause = PAUSE
        self.slack = 0

    @property
    def description(self) -> XdpProgram:
        """Return the target as the agent's own discovery sees it."""
        own = self.program.info().id
        with Inventory() as inventory:
            return inventory.take().programs[own]

    def run(self, repeat: int) -> int:
        """Return the mean cost of ``repeat`` runs."""
        verdict, duration = self.program.test_run(self.packet, repeat)
        if verdict != XDP_PASS:
            raise AssertionError(f"the target returned {verdict}")
        self.runs += repeat
        return duration

    def instructions(self) -> int:
        """Return what one run costs.

        The most frequent mean. What disturbs a series, a timer's tick, can only add to it:
        so it must be the least of all as well, give or take ``slack``.
        """
        self.run(RUNS)  # caches of the kernel and of the emulator fill
        means: Counter[int] = Counter()
        for _ in range(SERIES):
            time.sleep(self.pause)
            means[self.run(RUNS)] += 1
        usual = means.most_common(1)[0][0]
        if usual - min(means) > self.slack:
            raise AssertionError(f"not reproducible: {sorted(means.items())}")
        return usual


class Tracing:
    """Programs of one object that trace a target, from entering until leaving it."""

    def __init__(self, bench: Bench, source: str, functions: tuple[str, ...]) -> None:
        self._bench, self._source, self._functions = bench, source, functions

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.object = stack.enter_context(Object(path_of(self._source)))
            self.object.set_autoload(*self._functions)
            for function in self._functions:
                self.object.set_attach_target(function, self._bench.program, self._bench.function)
            self.object.load()
            self._tracers = [stack.enter_context(self.object.program(f)) for f in self._functions]
            for tracer, function in zip(self._tracers, self._functions, strict=True):
                stack.enter_context(Link.trace(tracer, self.object.attach_type(function)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def check(self) -> None:
        """Raise AssertionError if not every tracer is run for each packet."""
        before = [tracer.info().run_count for tracer in self._tracers]
        with run_time_stats():
            self._bench.run(RUNS)
        for function, tracer, ran in zip(self._functions, self._tracers, before, strict=True):
            if tracer.info().run_count - ran != RUNS:
                raise AssertionError(f"{function} was not run for each packet")


def floor(bench: Bench, *functions: str) -> int:
    """Return what a run costs under ``empty_entry``, ``empty_exit`` or both, which do nothing."""
    with Tracing(bench, "floor", functions) as tracing:
        cost = bench.instructions()
        tracing.check()
    return cost
