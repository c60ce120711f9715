# SPDX-License-Identifier: Apache-2.0
"""The kernel's own flow tables, filled by a test instead of by packets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xdpscope import bpf
from xdpscope.counters.series_index import Owner, Seen, SeriesIndex
from xdpscope.counters.totals import Tally
from xdpscope.libbpf import Map, Object, possible_cpus, typed
from xdpscope.probes.flows.slots import FAMILIES, Family, SlotTable
from xdpscope.program_types.xdp import VERDICTS

PROGRAM, TARGET = 7, 1
OWNER: Owner = (PROGRAM, ("host", "eth0"))


class Table:
    """A flow table whose slots are numpy records, shape (sets, CPUs, ways)."""

    def __init__(
        self, family: Family, table: Map, record: np.dtype[Any], key: np.dtype[Any], sets: int
    ):
        self.map = table
        self.key = key
        self.family = family
        self._values = np.zeros((table.info.max_entries, table.info.cpus, table.info.stride), "u1")
        self._written = self._values.copy()
        self.sets = typed(self._values, record)
        self.slots = self.sets["flows"]
        self.reader = SlotTable(family, table, record, key, lambda: True, sets=sets)

    def write(self) -> None:
        """Put what has changed into the kernel's map."""
        changed = (self._values != self._written).any(axis=(1, 2))
        for number in changed.nonzero()[0].tolist():
            self.map.update(number.to_bytes(4, "little"), self._values[number].tobytes())
        self._written[changed] = self._values[changed]

    def put(self, where: tuple[int, int, int], key: NDArray[Any], packets: int, size: int) -> None:
        """Put a flow into a slot (set, CPU, way) as the kernel does."""
        slot = self.slots[where]
        slot["key"] = np.frombuffer(key.tobytes(), np.uint64)
        slot["target"], slot["packets"], slot["bytes"] = TARGET, packets, size
        for counter in ("done", "started"):
            self.sets[counter][where[0], where[1]] += 1

    def flow4(self, source: int, verdict: str = "drop") -> NDArray[Any]:
        """Return the key of a UDP packet from 10.0.0.0 + ``source``."""
        key = np.zeros((), self.key)
        key["source"] = np.frombuffer((0x0A000000 + source).to_bytes(4, "big"), "u4")[0]
        key["destination"] = np.frombuffer(bytes((192, 0, 2, 1)), "u4")[0]
        key["ports"] = np.frombuffer((1000).to_bytes(2, "big") + (53).to_bytes(2, "big"), "u2")
        key["verdict"], key["protocol"] = VERDICTS.index(verdict), 17
        return key

    def at_device(self, key: NDArray[Any], index: int) -> NDArray[Any]:
        """The key of the same packet, seen at the device whose record has this index."""
        found = key.copy()
        found["device"] = index & 0xFFFF
        found["verdict"] |= index >> 16 << 3
        return found


@contextmanager
def flow_table(sets: int, cpus: int = 0) -> Iterator[Table]:
    """An empty IPv4 table; with ``cpus`` a plain array that has the sets of so many CPUs."""
    family = FAMILIES[0]
    with Object(bpf.path_of("flows")) as loaded:
        loaded.set_autoload()
        loaded.resize("flows4", sets * (cpus or 1))
        if cpus:
            loaded.share_between_cpus("flows4")
        loaded.resize("flows6", 2)
        loaded.load()
        with loaded.map(family.map) as table:
            record, key = loaded.btf.struct(family.record), loaded.btf.struct(family.key)
            yield Table(family, table, record, key, sets)


def series_index(interface: str = "eth0") -> SeriesIndex:
    """Of the one target's first device on each CPU."""
    found = SeriesIndex()
    name_of(found, interface)
    return found


def name_of(known: SeriesIndex, interface: str) -> bool:
    """Give the device a name; whether it is another."""
    cpus = possible_cpus()
    seen = Seen(
        PROGRAM, TARGET, np.array([5 << 32 | 2], np.uint64), np.array([5]), np.array([b"eth0"]),
        np.zeros(cpus, np.uint32), np.arange(cpus), np.zeros(cpus, np.uint64),
    )  # fmt: skip
    return bool(every_step(known.update([seen], lambda *_: ("host", interface), interface)))


def every_step(steps: Iterator[None]) -> Any:
    """Do all of a work that is done in steps, and return its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def total(packets: int, size: int, verdict: str = "drop") -> dict[Owner, Tally]:
    """Return what the program has counted in all."""
    tally = Tally()
    tally.counts[0, VERDICTS.index(verdict)] = packets, size
    return {OWNER: tally}
