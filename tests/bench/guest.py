# SPDX-License-Identifier: Apache-2.0
"""Measures in the guest, where an instruction is a nanosecond: see docs/cost.md."""

import ctypes
import json
import platform
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.bench.compiled import path_of
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import XdpProgram
from xdpscope.libbpf import Link, Object, Program, run_time_stats
from xdpscope.tracing.engine import Engine
from xdpscope.tracing.tracer import Tracer

TARGET = "bench_target"

# Names of what is measured, as tables show them.
EMPTY_EXIT = "empty fexit"
EMPTY_PAIR = "empty fentry and fexit"
ONE_DEVICE = "xdpscope, one device"
SECOND_DEVICE = "xdpscope, second to fourth device"
FIFTH_DEVICE = "xdpscope, fifth device and on"
WITHOUT_EPOCHS = "xdpscope, one device, known by identity"

XDP_PASS = 2
_CLONE_NEWNET = 0x40000000  # unshare(2)

# Short enough for most series to end before a timer ticks, long enough for the mean, which the
# kernel cuts to whole nanoseconds, not to show what a series costs beside its runs.
RUNS = 1000
SERIES = 60
# Between series the kernel gets to what it has put off. Kernel 7.2 else takes 6 instructions more
# for a traced run, in some series and not in others: never after a pause.
PAUSE = 0.002


def packet() -> bytes:
    """64 bytes of Ethernet, IPv4 and UDP."""
    ethernet = struct.pack("!6s6sH", b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", 0x0800)
    addresses = bytes((192, 0, 2, 1, 192, 0, 2, 2))
    internet = struct.pack("!BBHHHBBH8s", 0x45, 0, 50, 0, 0, 64, 17, 0, addresses)
    datagram = struct.pack("!HHHH", 1000, 2000, 30, 0)
    return (ethernet + internet + datagram).ljust(64, b"\0")


class Bench:
    """One loaded target, and what its runs cost."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.packet = packet()
        self.runs = 0

    @property
    def description(self) -> XdpProgram:
        """The target as the agent's own discovery sees it."""
        own = self.program.info().id
        with Inventory() as inventory:
            return inventory.take().programs[own]

    def run(self, repeat: int) -> int:
        """The mean cost of ``repeat`` runs."""
        verdict, duration = self.program.test_run(self.packet, repeat)
        if verdict != XDP_PASS:
            raise AssertionError(f"the target returned {verdict}")
        self.runs += repeat
        return duration

    def instructions(self) -> int:
        """What one run costs.

        The most frequent mean. What disturbs a series, a timer's tick, can only add to it:
        so it must be the least of all as well.
        """
        self.run(RUNS)  # caches of the kernel and of the emulator fill
        means: Counter[int] = Counter()
        for _ in range(SERIES):
            time.sleep(PAUSE)
            means[self.run(RUNS)] += 1
        usual = means.most_common(1)[0][0]
        if usual != min(means):
            raise AssertionError(f"not reproducible: {sorted(means.items())}")
        return usual


@contextmanager
def new_namespaces() -> Iterator[Callable[[], None]]:
    """A way into ever new network namespaces, and back into the old one at the end.

    A test run's packet comes from the loopback device of where one is: in each namespace
    another device to the tracer, under the same index.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result < 0:
            raise OSError(ctypes.get_errno(), "cannot change the network namespace")

    with ExitStack() as held:

        def enter() -> None:
            checked(libc.unshare(_CLONE_NEWNET))
            # Held open: taking a namespace down would go on behind the next series.
            held.enter_context(Path("/proc/thread-self/ns/net").open("rb"))

        with Path("/proc/thread-self/ns/net").open("rb") as home:
            try:
                yield enter
            finally:
                checked(libc.setns(home.fileno(), _CLONE_NEWNET))


def floors(bench: Bench) -> dict[str, int]:
    """The cost of a run under tracers that do nothing."""
    found = {}
    for name, wanted in (
        (EMPTY_EXIT, ("empty_exit",)),
        (EMPTY_PAIR, ("empty_entry", "empty_exit")),
    ):
        with ExitStack() as stack:
            floor = stack.enter_context(Object(path_of("floor")))
            for function in ("empty_entry", "empty_exit"):
                if function in wanted:
                    floor.aim(function, bench.program, TARGET)
                else:
                    floor.leave_out(function)
            floor.load()
            tracers = [stack.enter_context(floor.program(function)) for function in wanted]
            for tracer, function in zip(tracers, wanted, strict=True):
                stack.enter_context(Link.trace(tracer, floor.attach_type(function)))
            found[name] = bench.instructions()
            with run_time_stats():
                bench.run(RUNS)
            for tracer in tracers:
                if tracer.info().run_count != RUNS:
                    raise AssertionError(f"{name}: the tracer was not run for each packet")
    return found


def ours(bench: Bench, engine: Engine, devices: int) -> list[int]:
    """The cost of a run under the product's tracer, for each of as many devices.

    Raises:
        AssertionError: it did not count exactly the packets and bytes that there were.
    """
    found, runs = [], []
    with closing(Tracer(engine, 1, bench.description)) as tracer, new_namespaces() as enter_new:
        for device in range(devices):
            if device:
                enter_new()
            before = bench.runs
            found.append(bench.instructions())
            runs.append(bench.runs - before)
        reading = tracer.reading() | engine.spilled().get(1, {})
        wanted = sorted(((0, 0, n, 0, 0, 0), (0, 0, 64 * n, 0, 0, 0)) for n in runs)
        counted = sorted((each.packets, each.bytes) for each in reading.values())
        if counted != wanted:
            raise AssertionError(f"counted {counted}, but there were {wanted}")
    return found


def measure() -> dict[str, object]:
    """Every variant on this kernel: added instructions by name, beside a few facts."""
    with Object(path_of("target")) as loaded:
        loaded.load()
        with loaded.program(TARGET) as program:
            bench = Bench(program)
            untraced = bench.instructions()
            added = floors(bench)
            with Engine() as engine:
                recognised_by_epoch = engine.watches_devices
                first, second, _, _, fifth = ours(bench, engine, devices=5)
            added |= {ONE_DEVICE: first, SECOND_DEVICE: second, FIFTH_DEVICE: fifth}
            with Engine(watch_devices=False) as engine:
                (added[WITHOUT_EPOCHS],) = ours(bench, engine, devices=1)
            if bench.instructions() != untraced:
                raise AssertionError("the target costs more than before it was ever traced")
    return {
        "release": platform.release(),
        "recognised_by_epoch": recognised_by_epoch,
        "untraced": untraced,
        "added": {name: cost - untraced for name, cost in added.items()},
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(measure()))
