# SPDX-License-Identifier: Apache-2.0
"""What 100,000 devices that come and go leave behind, in a guest.

    python -m tests.vm.run --kernel 6.1 --icount --timeout 7200 -- \\
        python -m tests.bench.scale.churn [--pinned] RESULT [DEVICES]

In each round there are new devices, and three programs get a packet from each of them. All packets
must be counted, under the names of the devices. Then the devices are deleted. After each tenth of
the rounds, the cost of a packet and the memory of this process, which scans as the agent does, are
measured. The exit status is 1 if they grow.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.guest import DEVICES_INLINE
from tests.bench.rig import RUNS, packet4
from tests.bench.scale.dummies import dummies
from tests.bench.scale.occupied import attached
from tests.bench.table import markdown
from tests.kernel.flows import check_sums, observing
from tests.kernel.observing import Observer
from xdpscope import log
from xdpscope.attach.engine import Engine
from xdpscope.attach.pins import PinPath
from xdpscope.attach.variants import FlowSizes
from xdpscope.kernel.malloc import return_freed_memory
from xdpscope.libbpf import Program

DEVICES = 100_000
_PROGRAMS = 3
_AT_ONCE = 500
_LEAST = 50_000  # its tenth is more than the agent remembers of interfaces that are gone
_FIRST = 1_000_000
_SERIES = 30
# A worker of the kernel fills up the stock from which records of devices beyond the slots come.
_TO_FILL_UP = 0.01
_PINS = Path("/sys/fs/bpf/xdpscope-churn")
# What it takes to find a record depends on the slot, or on the others in its bucket.
_DEARER = 1.05
# Much less than one object for each device: it allows for caches that fill up.
_BLOCKS_A_DEVICE = 0.05
_BYTES_A_DEVICE = 30


@dataclass(frozen=True)
class State:
    """What was measured after some devices."""

    devices: int
    first: int  # instructions for a packet from a new device, which gets a slot
    further: int  # from one beyond those that have slots
    blocks: int  # of memory that Python has allocated
    resident: int  # bytes
    records: int  # of devices beyond the slots


class Churn:
    """Programs, an observer, and devices that never come back."""

    def __init__(self, programs: list[Program], engine: Engine, observer: Observer) -> None:
        self._programs, self._engine, self._observer = programs, engine, observer
        self._next = _FIRST

    @contextmanager
    def devices(self, count: int) -> Iterator[dict[str, int]]:
        """Yield new devices by name. At the end they are gone, and the observer knows it."""
        with dummies(range(self._next, self._next + count)) as found:
            self._next += count
            yield found
        for _ in range(3):  # a record is deleted at the second scan that finds no device
            self._observer.scan(0)

    def round(self) -> None:
        """Let new devices send to each program.

        Raises:
            AssertionError: a packet is not counted, or not for its device.
        """
        with self.devices(_AT_ONCE) as found:
            for index in found.values():
                for program in self._programs:
                    program.test_run(packet4(), device=index)
                time.sleep(_TO_FILL_UP)
            self._observer.scan(0)
            counts = Counter[tuple[int, str]]()
            for each in self._observer.counts():
                counts[each.program.id, each.location[1]] += sum(each.tally.packets)
            wanted = {(p.info().id, name): 1 for p in self._programs for name in found}
            if (counts := +counts) != wanted:
                wrong = {key: n for key, n in counts.items() if wanted.get(key) != n}
                raise AssertionError(f"{len(counts)} of {len(wanted)} counts, wrong: {wrong}")
            check_sums(self._observer)

    def state(self) -> State:
        """Measure."""
        with self.devices(DEVICES_INLINE + 1) as found:
            costs = [self._cost(index) for index in found.values()]
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return State(
            devices=self._next - _FIRST,
            first=costs[0],
            further=costs[-1],
            blocks=sys.getallocatedblocks(),
            resident=pages * os.sysconf("SC_PAGE_SIZE"),
            records=self._records(),
        )

    def _cost(self, index: int) -> int:
        """Return the most frequent mean, in instructions: see ``tests.bench.rig``."""
        program = self._programs[0]
        means = Counter(program.test_run(packet4(), RUNS, device=index)[1] for _ in range(_SERIES))
        return means.most_common(1)[0][0]

    def _records(self) -> int:
        with self._engine.templates.map("overflow") as overflow:
            return len(overflow.items()[0])


def measure(devices: int, *, pinned: bool) -> list[State]:
    """Measure after each tenth of the devices."""
    with ExitStack() as stack:
        programs = stack.enter_context(attached(_PROGRAMS))
        pins = stack.enter_context(PinPath.open(_PINS)) if pinned else None
        engine = stack.enter_context(Engine(FlowSizes(sets=64, sample_rate=1), pins=pins))
        observer = stack.enter_context(observing(engine))
        while observer.unfinished or not observer.statuses():
            observer.scan(0)
        churn = Churn(programs, engine, observer)
        states = [churn.state()]
        step = max(1, devices // _AT_ONCE // 10)
        for number in range(1, devices // _AT_ONCE + 1):
            churn.round()
            if number % step == 0:
                states.append(churn.state())
                print(states[-1], file=sys.stderr, flush=True)
        return states


def growth(states: list[State]) -> list[str]:
    """Return what grew, one sentence each. The first tenth fills tables and caches."""
    first, last = states[1], states[-1]
    devices = last.devices - first.devices
    found = []
    for name in "first", "further":
        before, now = getattr(first, name), getattr(last, name)
        if now > before * _DEARER:
            found.append(f"a packet ({name}) takes {now} instructions instead of {before}")
    for name, limit in (("blocks", _BLOCKS_A_DEVICE), ("resident", _BYTES_A_DEVICE)):
        slope = (getattr(last, name) - getattr(first, name)) / devices
        if slope > limit:
            found.append(f"{name} grow by {slope:.2f} a device")
    if left := max(each.records for each in states):
        found.append(f"{left} records of devices are left")
    return found


def table(states: list[State]) -> str:
    """Return a Markdown table."""
    titles = ["devices so far", "first device", "fifth device", "blocks of Python", "resident, MiB",
              "records left"]  # fmt: skip
    rows = [
        [f"{s.devices:,}", str(s.first), str(s.further), f"{s.blocks:,}",
         f"{s.resident / 2**20:.2f}", str(s.records)]
        for s in states
    ]  # fmt: skip
    return markdown([titles, *rows])


def main() -> int:
    """Read the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale.churn")
    parser.add_argument("result", type=Path)
    parser.add_argument("devices", type=int, nargs="?", default=DEVICES)
    parser.add_argument("--pinned", action="store_true", help="as with state.pin_path")
    options = parser.parse_args()
    if options.devices < _LEAST:
        parser.error(f"at least {_LEAST:,} devices: the first tenth fills what is remembered")
    os.sched_setaffinity(0, {0})  # slots and records are of a CPU
    return_freed_memory()  # as the agent does
    with tempfile.TemporaryFile("w") as stream:
        log.configure("info", "json", stream)
        states = measure(options.devices, pinned=options.pinned)
    print(table(states))
    options.result.write_text(json.dumps([asdict(each) for each in states]))
    grown = growth(states)
    print(*grown, sep="\n")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
