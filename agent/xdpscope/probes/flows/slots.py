# SPDX-License-Identifier: Apache-2.0
"""Read one family's flow table, compare it with the previous reading, and group its slots.

A slot is one way of one set on one CPU. There are a hundred thousand slots, and each scrape
reads all of them. So this module uses array arithmetic only. Arrays over slots are flat, in the
kernel's order (set, CPU, way).
"""

import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xdpscope.counters.series_index import EVER, UNKNOWN, SeriesOfSlots, code
from xdpscope.libbpf import Map, typed
from xdpscope.probes.flows.key_hash import U64, KeyHash

Indices = NDArray[np.intp]

HALF_LIFE = 10.0
"""Seconds after which a packet counts half in a flow's rate."""

# The weight of a packet of unknown age in a flow's rate: enough to put busy flows first.
_OF_UNKNOWN_AGE = np.float32(1e-9)

# If a set changes during this many attempts to read it, it waits for the next reading.
_ATTEMPTS = 100


# The parts of a key's verdict byte: the verdict itself, and the upper bits of the device's index.
_VERDICT, _UPPER = 0x07, np.uint64(0xF8)


@dataclass(frozen=True, slots=True)
class Family:
    """The differences between IPv4 and IPv6."""

    version: int
    map: str
    record: str  # struct of bpf/common/xdpscope.h: a set
    key: str  # struct of bpf/common/xdpscope.h: a flow's key
    words: int  # the number of 64-bit words in a key
    verdict: int  # the first bit of the verdict byte in the last word: see struct flow4_key

    def index(self, word: U64) -> U64:
        """Return the index of the device's record, which differs by CPU."""
        found = word >> np.uint64(self.verdict)
        return found >> np.uint64(16) & np.uint64(0xFFFF) | (found & _UPPER) << np.uint64(13)

    def without_index(self, word: U64) -> U64:
        """Return the word without the index of the device's record: equal on every CPU."""
        mask = (0xFFFF << 16 | int(_UPPER)) << self.verdict
        return word & np.uint64(mask ^ (1 << 64) - 1)


FAMILIES = (
    Family(4, "flows4", "flow_set4", "flow4_key", words=2, verdict=0),
    Family(6, "flows6", "flow_set6", "flow6_key", words=5, verdict=32),
)


@dataclass(slots=True)
class Grouped:
    """Flows, as arrays with one entry for each flow: the sum of its slots on all CPUs.

    The order is by ``name``, a hash of key and series index. It identifies a flow as long as the
    agent runs.
    """

    name: U64
    slot: Indices  # one of the flow's slots, for its key
    score: NDArray[np.float64]  # packets; it decays by half in each HALF_LIFE
    idle: NDArray[np.bool_]  # without a packet for the idle timeout
    packets: U64  # since the previous reading, or in all
    bytes: U64


_NO_FLOWS = Grouped(
    np.empty(0, np.uint64), np.empty(0, np.intp), np.empty(0), np.empty(0, bool),
    np.empty(0, np.uint64), np.empty(0, np.uint64),
)  # fmt: skip


class _Grouping:
    """Find the slots of each flow."""

    def __init__(self, name: U64, held: NDArray[np.bool_]) -> None:
        slots = np.flatnonzero(held)
        self.names, first, flows = np.unique(name[slots], return_index=True, return_inverse=True)
        self.slots: Indices = slots[first]  # one slot of each flow
        # The flow of each slot. Slots in no flow have the next number after the last flow.
        self._flow = np.full(len(name), len(self.names), np.intp)
        self._flow[slots] = flows

    def sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sum of each flow; ``values`` has one value for each slot."""
        found = np.bincount(self._flow, values, len(self.names) + 1)[:-1]
        return np.asarray(found, np.float64)

    def exact_sums(self, values: U64) -> U64:
        """Return exact sums by flow, even if a sum is more than 2⁵³."""
        if int(values.max(initial=0)) >> 32 == 0:
            return self.sums(values).astype(np.uint64)
        low, half = values & np.uint64(0xFFFFFFFF), np.uint64(32)
        return (self.exact_sums(values >> half) << half) + self.exact_sums(low)

    def of_flows(self, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which slots belong to the wanted flows."""
        found: NDArray[np.bool_] = np.append(wanted, False)[self._flow]
        return found


class SlotTable:
    """Read the flow table of one family."""

    def __init__(
        self,
        family: Family,
        table: Map,
        record: np.dtype[Any],
        key: np.dtype[Any],
        in_use: Callable[[], bool],
        adopted: bool = False,
        sets: int | None = None,
    ) -> None:
        """Read nothing yet, and allocate no memory for slots before there is a flow.

        Args:
            family: IPv4 or IPv6.
            table: The kernel's map.
            record: The dtype of a set.
            key: The dtype of a flow's key.
            in_use: Returns whether there is a flow.
            adopted: Whether the table is an earlier agent's. The age of its flows is unknown.
            sets: The number of sets for each CPU in a plain array. It has the sets of one CPU
                after those of another.
        """
        self.family = family
        self._adopted = adopted
        self._in_use = in_use
        self._map = table
        self._record = record
        self._key = key
        info = table.info
        self._shape = (info.max_entries, info.cpus, record["flows"].shape[0])
        self._sets_of_cpu = sets or info.max_entries
        self._size = int(np.prod(self._shape))
        self._hash = KeyHash(1 + family.words)
        self._ready = False

    def _prepare(self) -> None:
        info = self._map.info
        self._raw = np.zeros((info.max_entries, info.cpus, info.stride), np.uint8)
        self._sets = typed(self._raw, self._record)
        # Shape (sets and CPUs, ways), record by record, so that this is a view and not a copy.
        self._flows = self._sets["flows"].reshape(-1, self._shape[2])
        self._done = np.zeros(self._shape[:2], np.uint64)
        self._packets = np.zeros(self._size, np.uint64)
        self._bytes = np.zeros(self._size, np.uint64)
        # The counts when the owner changed, if it ever did: packets and bytes.
        self._begun: U64 | None = None
        self._occupant = np.zeros(self._size, np.uint64)  # a hash of key and target; 0: none
        self._series = np.full(self._size, UNKNOWN, np.int32)
        self._name = np.zeros(self._size, np.uint64)  # a hash of key and series index
        self._score = np.zeros(self._size, np.float32)
        self._seen = np.full(self._size, -np.inf)
        self._held = np.zeros(self._size, bool)
        self._grouping: _Grouping | None = None
        self._aged: NDArray[np.bool_] | None = None
        self._read_at = 0.0
        self._whole = False  # whether the last reading had every slot
        self._ready = True

    def read(
        self,
        of_slots: SeriesOfSlots,
        now: float,
        renamed: bool,
        timeout: float,
        still: bool = False,
    ) -> Generator[None, None, tuple[Grouped, int]]:
        """Read the whole table in a few steps, unless nothing can have changed in it.

        Do not call other methods before the last step.

        Args:
            of_slots: The series index of slots.
            now: Seconds of a monotonic clock.
            renamed: Whether the series index of a slot may have changed since the previous reading.
            timeout: The number of seconds without a packet after which a flow is idle.
            still: Whether it is certain that no flow has had a packet since the previous reading.

        Returns:
            The flows, and how many the kernel evicted to make room since the previous reading.
        """
        if not self._ready:
            if still or not self._in_use():
                return _NO_FLOWS, 0
            self._prepare()
            yield
        if still and self._whole:
            self._age(now)
            return self._group(None, None, now - timeout), 0
        unread = self._fetch()
        yield
        self._whole = not len(unread)
        changed_sets = self._sets["done"] != self._done
        packets = np.ascontiguousarray(self._flows["packets"]).reshape(-1)
        sizes = np.ascontiguousarray(self._flows["bytes"]).reshape(-1)
        if self._adopted:
            self._adopted, self._aged = False, packets != 0
        # The kernel adds a packet's bytes a moment after it has counted the packet.
        changed = (packets != self._packets) | (sizes != self._bytes)
        replaced = np.repeat(changed_sets.reshape(-1), self._shape[2])
        doubtful = (packets != 0) & (replaced | renamed)
        changed[unread] = doubtful[unread] = False
        yield
        occupied = np.flatnonzero(doubtful)
        pushed_out = 0
        if len(occupied):
            pushed_out = self._occupy(occupied, of_slots, now)
            changed[occupied] = (packets[occupied] != self._packets[occupied]) | (
                sizes[occupied] != self._bytes[occupied]
            )
        yield
        # A slot without a known owner stays as it is until the owner is known.
        changed &= self._series != UNKNOWN
        delta_packets, delta_bytes = self._advance(changed, packets, sizes, now)
        yield
        return self._group(delta_packets, delta_bytes, now - timeout), pushed_out

    @property
    def complete(self) -> bool:
        """Return whether the last reading had every slot: no set changed during all attempts."""
        return not self._ready or self._whole

    def _fetch(self) -> Indices:
        """Copy the table; return the slots of sets that changed during all attempts."""
        self._map.read_array(self._raw)
        moving: list[tuple[int, int]] = []
        for number, cpu in np.argwhere(self._sets["done"] != self._sets["started"]).tolist():
            key = int(number).to_bytes(4, sys.byteorder)
            one = self._sets[number, cpu]
            for _ in range(_ATTEMPTS):
                self._raw[number, cpu] = self._map.lookup(key)[cpu]
                if one["done"] == one["started"]:
                    break
            else:
                # Keep the old value, so that the next reading finds this set changed.
                one["done"] = self._done[number, cpu]
                moving.append((number, cpu))
        numbers, cpus = np.array(moving, np.intp).reshape(-1, 2).T
        first = (numbers * self._shape[1] + cpus) * self._shape[2]
        slots: Indices = np.add.outer(first, np.arange(self._shape[2])).reshape(-1)
        return slots

    def _column(self, name: str, slots: Indices, word: int | None = None) -> U64:
        column = self._flows[name] if word is None else self._flows[name][..., word]
        # Copy the whole column, because callers mostly need a good part of it.
        found: U64 = np.ascontiguousarray(column).reshape(-1)[slots]
        return found

    def _occupy(self, slots: Indices, of_slots: SeriesOfSlots, now: float) -> int:
        """Update slots that may have other flows now; return how many flows these evicted."""
        words = [self._column("key", slots, word) for word in range(self.family.words)]
        target = self._column("target", slots).astype(np.uint64)
        occupant = self._hash([target, *words])
        others = occupant != self._occupant[slots]
        mine = slots[others]
        # Each insertion uses a free slot or evicts a flow. A reading does not see all of them.
        # Flows that were evicted as idle before do not count again.
        puts = int((self._sets["done"] - self._done).sum())
        before = self._occupant[mine]
        free = int(np.count_nonzero(before == 0))
        idle = int(np.count_nonzero((before != 0) & ~self._held[mine]))
        self._done[...] = self._sets["done"]
        self._occupant[mine] = occupant[others]
        self._packets[mine] = self._bytes[mine] = 0
        if self._begun is not None:
            self._begun[:, mine] = 0
        self._score[mine] = 0
        self._seen[mine] = -np.inf
        self._held[mine] = False
        self._series[mine] = UNKNOWN

        elements, values = np.divmod(slots // self._shape[2], self._shape[1])
        cpus = values + elements // self._sets_of_cpu
        codes = code(cpus, target, self.family.index(words[-1]))
        series, old = of_slots.of(codes), self._series[slots]
        renamed = (old != series) & (old != UNKNOWN)
        self._leave_to_others(slots, renamed, of_slots.doubts(codes), now)
        self._series[slots] = series
        words[-1] = self.family.without_index(words[-1])
        self._name[slots] = self._hash([series.astype(np.uint64), *words])
        self._held[slots] &= series != UNKNOWN
        self._grouping = None
        return max(0, puts - free - idle)

    def _leave_to_others(
        self,
        slots: Indices,
        renamed: NDArray[np.bool_],
        doubts: NDArray[np.int8],
        now: float,
    ) -> None:
        """Add the packets since the previous reading to no series: it is unclear to which.

        A flow is *renamed* if its owner is another one than at the previous reading. A flow is in
        *doubt* if several devices may have had its slot in the target's record. If both, a list of
        flows shows its packets since the previous reading, and omits it if there are none. If the
        doubt is from before this agent's first reading, the list shows its packets from now on.
        """
        concerned = renamed | (doubts != 0)
        either, past = slots[concerned], doubts[concerned] == EVER
        if not len(either):
            return
        self._score[slots[renamed]] = 0
        if not doubts.any():  # the interface has another name
            self._packets[either] = self._column("packets", either)
            self._bytes[either] = self._column("bytes", either)
            return
        if self._begun is None:
            self._begun = np.zeros((2, self._size), np.uint64)
        packets, sizes = self._column("packets", either), self._column("bytes", either)
        grown = packets != self._packets[either]
        others = slots[renamed & (doubts != 0)]
        self._begun[:, others] = self._packets[others], self._bytes[others]
        self._seen[others] = -np.inf
        self._held[others] = False
        self._begun[:, either[past]] = packets[past], sizes[past]
        # If a count decreased, the same flow was evicted in between and came back.
        self._begun[:, either[(packets < self._packets[either]) & ~past]] = 0
        grown &= ~past & (doubts[concerned] != 0)
        self._packets[either], self._bytes[either] = packets, sizes
        self._seen[either[grown]] = now
        self._held[either[grown]] = True

    def _advance(
        self, changed: NDArray[np.bool_], packets: U64, sizes: U64, now: float
    ) -> tuple[U64, U64]:
        """Store the current counts of these slots; return their growth."""
        self._age(now)
        # If a count decreased, the same flow was evicted in between and came back.
        same = (packets >= self._packets) & (sizes >= self._bytes)
        grown = np.where(changed, packets - self._packets * same, np.uint64(0))
        grown_bytes = np.where(changed, sizes - self._bytes * same, np.uint64(0))
        if self._begun is not None:
            self._begun[:, changed & ~same] = 0
        np.copyto(self._packets, packets, where=changed)
        np.copyto(self._bytes, sizes, where=changed)
        fresh = grown.astype(np.float32)
        if self._aged is not None:
            fresh[self._aged & changed] *= _OF_UNKNOWN_AGE
            self._aged &= ~changed
        self._score += fresh
        self._seen[changed] = now
        # These flows are new, or they were evicted as idle and came back.
        if (changed & ~self._held).any():
            self._held |= changed
            self._grouping = None
        return grown, grown_bytes

    def _age(self, now: float) -> None:
        if self._read_at:
            self._score *= np.float32(0.5 ** ((now - self._read_at) / HALF_LIFE))
        self._read_at = now

    def _grouped(self) -> _Grouping:
        if self._grouping is None:
            self._grouping = _Grouping(self._name, self._held)
        return self._grouping

    def _group(self, packets: U64 | None, sizes: U64 | None, idle_since: float) -> Grouped:
        """Return the flows with these counts; None means 0 for all slots."""
        grouping = self._grouped()
        nothing = np.zeros(len(grouping.names), np.uint64)
        idle = np.zeros(len(grouping.names), bool)
        recent = self._seen >= idle_since
        if (self._held & ~recent).any():
            idle = grouping.sums(recent) == 0
        return Grouped(
            name=grouping.names,
            slot=grouping.slots,
            score=grouping.sums(self._score),
            idle=idle,
            packets=nothing if packets is None else grouping.exact_sums(packets),
            bytes=nothing if sizes is None else grouping.exact_sums(sizes),
        )

    def held(self) -> Grouped:
        """Return all flows with their counts since they entered the table, or changed owner."""
        if not self._ready:
            return _NO_FLOWS
        if self._begun is None:
            return self._group(self._packets, self._bytes, -np.inf)
        before = self._begun
        return self._group(self._packets - before[0], self._bytes - before[1], -np.inf)

    def evict(self, flows: NDArray[np.bool_]) -> None:
        """Evict these flows of the last grouping, until they have packets again."""
        if flows.any():
            self._held[self._grouped().of_flows(flows)] = False
            self._grouping = None

    def series_of(self, slots: Indices) -> NDArray[np.int32]:
        """Return the series index of these slots."""
        if not len(slots):
            return np.empty(0, np.int32)
        return self._series[slots]

    def keys(self, slots: Indices) -> NDArray[Any]:
        """Return the keys in these slots, as records of the family's key type."""
        if not len(slots):
            return np.empty(0, self._key)
        rows = self._flows["key"][slots // self._shape[2], slots % self._shape[2]]
        found = typed(np.ascontiguousarray(rows).view(np.uint8), self._key)
        found["verdict"] &= _VERDICT
        return found
