# SPDX-License-Identifier: Apache-2.0
"""Which flows have a series of their own, and what all the others amount to.

The kernel counts each packet twice: in its flow, and then in the totals of its program,
place and verdict. A flow that gets a series stays at 0 there until every client that reads
the page has seen it; then what comes is added to its series. ``other`` is what the totals
have beside the series and the packets in no flow: so what came before a series counts is in
there and stays there, a flow that leaves the kernel's table, or loses its series, is in
there at once, and nothing is lost or counted twice.

The totals are read before the flows, so that ``other`` may come out too small by what
arrived in between, never too large: it is published as the largest that ever came out,
never falls, and is exact whenever nothing arrives. That holds only if all flows were read.
A CPU that is stopped while it replaces a flow leaves a set that cannot be read: until it
can be, ``other`` stays as it is.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xdpscope.config import Flows
from xdpscope.counters.clients import Readers
from xdpscope.counters.flow_query import PROTOCOLS, FlowQuery, octets
from xdpscope.counters.series_index import Owner, SeriesIndex
from xdpscope.counters.slots import HALF_LIFE, Grouped, SlotTable
from xdpscope.counters.totals import Tally
from xdpscope.program_types.xdp import VERDICTS

# How much more a flow must have than one with a series to take that from it: flows of about
# the same rate would else lose and win it by turns, each time as a new series.
_STICKINESS = 1.5

PATIENCE = 65.0
"""Seconds for which a client that has read the page is waited for: a scrape a minute, and delay."""

_NOTHING = np.zeros((len(VERDICTS), 2), np.int64)


@dataclass(frozen=True, slots=True)
class Flow:
    """A packet as it came in. An ICMP message has its type and code for ports; 0: none."""

    protocol: str
    source: str
    destination: str
    source_port: int
    destination_port: int


@dataclass(slots=True)
class FlowCount:
    """One flow of one program at one place with one verdict."""

    owner: Owner
    verdict: str
    flow: Flow
    packets: int
    bytes: int
    rate: float = 0.0  # packets a second of late
    since: int = 0  # the reading that gave it a series
    counts: bool = False  # whether its series grows yet


class FlowTotals:
    """The flows of all programs."""

    def __init__(
        self, tables: Iterable[SlotTable], limits: Flows, patience: float = PATIENCE
    ) -> None:
        """Read nothing yet.

        Args:
            tables: The kernel's, one a family.
            limits: How many flows are held and exported.
            patience: Seconds for which a client is waited for to see a new series at 0. With 0, a
                series counts from the reading after the one that gives it.
        """
        self.limits = limits
        self._patience = patience
        self._readers = Readers(patience)
        self._reading = 0
        self._complete = False  # whether ``other`` is of the last reading
        self.entries = 0
        self.evictions = Counter(idle=0, pressure=0)
        self._tables = list(tables)
        self._groups: list[Grouped] = []
        self._exported: dict[tuple[int, int], FlowCount] = {}
        self._others: dict[Owner, NDArray[np.int64]] = {}

    def read(
        self,
        series_index: SeriesIndex,
        totals: Mapping[Owner, Tally],
        now: float,
        moved: bool,
        still: bool = False,
    ) -> Iterator[None]:
        """Read the tables in steps, then decide in a last one which flows are exported.

        Until the last step, ``exported`` and ``other`` stay those of the reading before. Nothing
        else may be asked for in between.

        Args:
            series_index: Whose flows are.
            totals: What was counted, read before: see above.
            now: Seconds of a monotonic clock.
            moved: Whether some flow's owner is another than at the reading before.
            still: Whether, besides, nothing has been counted since. Then there is nothing in the
                tables that was not there before: a packet is counted in its flow, and then in the
                totals.
        """
        self._groups = []
        self._reading += 1
        for table in self._tables:
            timeout = self.limits.idle_timeout
            grouped, pushed_out = yield from table.read(
                series_index.of_slots, now, moved, timeout, still
            )
            self.evictions["pressure"] += pushed_out
            self.evictions["idle"] += int(np.count_nonzero(grouped.idle))
            table.evict(grouped.idle)
            self._groups.append(_only(grouped, ~grouped.idle))
            yield
        self._respect_limit()
        self.entries = sum(len(group.name) for group in self._groups)
        before = self._exported.keys()
        self._export(series_index, now)
        unchanged = (
            still
            and self._complete
            and self._exported.keys() == before
            and self._others.keys() == totals.keys()
        )
        self._complete = all(table.complete for table in self._tables)
        if self._complete:
            series_index.forget_unused()
            if not unchanged:
                self._sum_up(totals)

    def _respect_limit(self) -> None:
        excess = sum(len(group.name) for group in self._groups) - self.limits.max_entries
        if excess <= 0:
            return
        scores = np.concatenate([group.score for group in self._groups])
        least = np.zeros(len(scores), bool)
        least[np.argpartition(scores, excess - 1)[:excess]] = True
        self.evictions["pressure"] += excess
        begin = 0
        for number, (table, group) in enumerate(zip(self._tables, self._groups, strict=True)):
            mine = least[begin : begin + len(group.name)]
            begin += len(group.name)
            table.evict(mine)
            self._groups[number] = _only(group, ~mine)

    def _export(self, series_index: SeriesIndex, now: float) -> None:
        names = self._known()
        scores = [
            np.where(known, group.score * _STICKINESS + 1e-9, group.score)
            for group, known in zip(self._groups, names, strict=True)
        ]
        chosen = _largest(scores, self.limits.top)
        exported: dict[tuple[int, int], FlowCount] = {}
        for table, group, flows in zip(self._tables, self._groups, chosen, strict=True):
            version = table.family.version
            fresh = []
            growth = zip(
                flows.tolist(),
                group.name[flows].tolist(),
                group.packets[flows].tolist(),
                group.bytes[flows].tolist(),
                group.score[flows].tolist(),
                strict=True,
            )
            for at, name, packets, size, score in growth:
                count = self._exported.get((version, name))
                if count is None:
                    fresh.append(at)
                    continue
                count.counts = count.counts or self._seen(count.since, now)
                if count.counts:
                    count.packets += packets
                    count.bytes += size
                count.rate = _rate(score)
                exported[version, name] = count
            described = _copied(table, group, np.array(fresh, np.intp), series_index).describe()
            for at, count in zip(fresh, described, strict=True):
                count.packets = count.bytes = 0
                count.since = self._reading
                exported[version, int(group.name[at])] = count
        self._exported = exported

    def shown(self, client: str, now: float) -> None:
        """Note that a client is shown the last reading; see :class:`Readers`."""
        self._readers.shown(client, self._reading, now)

    def _seen(self, reading: int, now: float) -> bool:
        return not self._patience or self._readers.all_have_seen(reading, now)

    def _known(self) -> list[NDArray[np.bool_]]:
        """Of each group, which flows have a series."""
        found = []
        for table, group in zip(self._tables, self._groups, strict=True):
            known = np.zeros(len(group.name), bool)
            mine = [name for version, name in self._exported if version == table.family.version]
            if len(known) and mine:
                wanted = np.array(mine, np.uint64)
                at = np.searchsorted(group.name, wanted)
                at[at == len(known)] = 0
                known[at[group.name[at] == wanted]] = True
            found.append(known)
        return found

    def _sum_up(self, totals: Mapping[Owner, Tally]) -> None:
        if not totals:
            self._others = {}
            return
        counts = np.stack([tally.counts for tally in totals.values()]).astype(np.int64)
        rest = counts[:, 0] - counts[:, 1:].sum(axis=1)
        rows = {owner: row for row, owner in enumerate(totals)}
        for count in self._exported.values():
            row = rows.get(count.owner)
            if row is not None:
                rest[row, VERDICTS.index(count.verdict)] -= count.packets, count.bytes
        before = [self._others.get(owner, _NOTHING) for owner in totals]
        self._others = dict(zip(totals, np.maximum(rest, np.stack(before)), strict=True))

    @property
    def exported(self) -> list[FlowCount]:
        """Flows with a series, and the packets and bytes in it."""
        return list(self._exported.values())

    def other(self, owner: Owner) -> Tally:
        """All flows of a program at a place that have no series."""
        tally = Tally()
        if owner in self._others:
            tally.counts[0] = self._others[owner]
        return tally

    def held(
        self, series_index: SeriesIndex, query: FlowQuery, series: Collection[int] | None = None
    ) -> "HeldFlows":
        """Copy flows that are held out of the tables.

        Args:
            series_index: Whose flows are.
            query: Which flows. Its program, interface and namespace are the caller's to resolve.
            series: Of these programs and locations alone; None: of all.
        """
        groups = []
        for table in self._tables:
            group = table.held()
            wanted = np.ones(len(group.name), bool)
            if series is not None:
                wanted = np.isin(table.series_of(group.slot), np.fromiter(series, np.int32))
            # Only then the keys, because copying them takes longest.
            keys = table.keys(group.slot[wanted])
            wanted[wanted] = query.matches(table.family.version, keys)
            groups.append(_only(group, wanted))
        orders = [
            group.score + 1e-12 * group.packets
            if query.sort == "rate"
            else getattr(group, query.sort).astype(np.float64)
            for group in groups
        ]
        matched = sum(len(order) for order in orders)
        chosen = _largest(orders, matched if query.limit is None else query.limit)
        return HeldFlows(
            query,
            self.entries,
            matched,
            [
                _copied(table, group, flows, series_index)
                for table, group, flows in zip(self._tables, groups, chosen, strict=True)
            ],
        )


@dataclass(frozen=True, slots=True)
class _Copied:
    """Flows of one table as arrays of their own, of one entry a flow."""

    version: int
    series_index: dict[int, Owner]  # by scope
    series: NDArray[np.int32]
    keys: NDArray[Any]
    packets: NDArray[np.uint64]
    bytes: NDArray[np.uint64]
    scores: NDArray[np.float64]

    def describe(self) -> list[FlowCount]:
        """Return them in words."""
        columns = (
            each.tolist()
            for each in (
                self.series,
                self.keys["verdict"],
                self.packets,
                self.bytes,
                self.scores,
            )
        )
        return [
            FlowCount(
                self.series_index[series], VERDICTS[verdict], flow, packets, size, _rate(score)
            )
            for flow, series, verdict, packets, size, score in zip(
                _flows(self.version, self.keys), *columns, strict=True
            )
        ]


@dataclass(frozen=True, slots=True)
class HeldFlows:
    """An answer to a query, independent of the tables: no lock is needed to describe it."""

    query: FlowQuery
    entries: int  # flows that are held
    matched: int  # flows of these that the query admits, its limit aside
    _copied: list[_Copied]

    def describe(self) -> list[FlowCount]:
        """Return the flows, in the order that was asked for."""
        found = [count for copied in self._copied for count in copied.describe()]
        sort = self.query.sort
        return sorted(found, key=lambda count: (-getattr(count, sort), -count.packets))


def _only(group: Grouped, wanted: NDArray[np.bool_]) -> Grouped:
    if wanted.all():
        return group
    return Grouped(
        group.name[wanted], group.slot[wanted], group.score[wanted], group.idle[wanted],
        group.packets[wanted], group.bytes[wanted],
    )  # fmt: skip


def _largest(scores: list[NDArray[np.float64]], limit: int) -> list[NDArray[np.intp]]:
    """Where the largest of all are, by group."""
    everything = np.concatenate(scores)
    if len(everything) > limit:
        chosen = np.argpartition(-everything, limit)[:limit]
    else:
        chosen = np.arange(len(everything))
    ends = np.cumsum([len(group) for group in scores])
    return [
        chosen[(chosen >= end - len(group)) & (chosen < end)] - (end - len(group))
        for group, end in zip(scores, ends.tolist(), strict=True)
    ]


def _rate(score: float) -> float:
    """Packets a second of a flow that goes on as it is, from its score."""
    return score * float(np.log(2)) / HALF_LIFE


def _copied(
    table: SlotTable, group: Grouped, flows: NDArray[np.intp], series_index: SeriesIndex
) -> _Copied:
    slots = group.slot[flows]
    series = table.series_of(slots)
    return _Copied(
        table.family.version,
        {series: series_index.owner(series) for series in np.unique(series).tolist()},
        series,
        table.keys(slots),
        group.packets[flows],
        group.bytes[flows],
        group.score[flows],
    )


def _flows(version: int, keys: NDArray[Any]) -> Iterator[Flow]:
    """Return the flows that these keys stand for."""
    kind = IPv4Address if version == 4 else IPv6Address
    addresses = (
        [str(kind(address.tobytes())) for address in octets(keys[end])]
        for end in ("source", "destination")
    )
    ports = octets(keys["ports"]).view(">u2").tolist()
    for number, source, destination, pair in zip(
        keys["protocol"].tolist(), *addresses, ports, strict=True
    ):
        yield Flow(PROTOCOLS.get((version, number), str(number)), source, destination, *pair)
