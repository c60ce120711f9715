# SPDX-License-Identifier: Apache-2.0
"""Choose the flows that get their own series, and sum up all other flows.

The kernel counts each packet twice: in its flow, and then in the totals of its program,
location and verdict. A new series stays at 0 until every client that reads the page has seen
it. Then the series grows with its flow. ``other`` is the totals without the exported series and
without the packets in no flow:

- Packets from before a series counts are in ``other``, and stay there.
- A flow that leaves the kernel's table, or loses its series, is in ``other`` at once.
- No packet is lost or counted twice.

The agent reads the totals before the flows. So ``other`` can be too small by the packets that
arrive in between, but never too large. The agent publishes the largest value so far, so
``other`` never decreases. It is exact whenever no packets arrive.

This holds only if the agent could read all flows. If a CPU stops while it replaces a flow, the
agent cannot read that set. Until it can, ``other`` stays as it is.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xdpscope.config import Flows
from xdpscope.counters.clients import PATIENCE, Readers
from xdpscope.counters.series_index import Owner, SeriesIndex
from xdpscope.counters.totals import Tally
from xdpscope.probes.flows.query import PROTOCOLS, FlowQuery, octets
from xdpscope.probes.flows.slots import HALF_LIFE, Grouped, SlotTable
from xdpscope.program_types.xdp import VERDICTS

# A flow takes the series of another flow only if its score is larger by this factor. Otherwise
# flows of about the same rate would win and lose it by turns, each time as a new series.
_STICKINESS = 1.5

# The number of flows that one step describes. Text for their addresses takes most of the time.
_DESCRIBED_IN_STEP = 50

_NOTHING = np.zeros((len(VERDICTS), 2), np.int64)


@dataclass(frozen=True, slots=True)
class Flow:
    """The headers of a packet as it came in.

    An ICMP message has its type and code as ports. 0 means that there is no port.
    """

    protocol: str
    source: str
    destination: str
    source_port: int
    destination_port: int


@dataclass(slots=True)
class FlowCount:
    """One flow of one program at one location with one verdict."""

    owner: Owner
    verdict: str
    flow: Flow
    packets: int
    bytes: int
    rate: float = 0.0  # recent packets per second
    since: int = 0  # the reading that gave it a series
    counts: bool = False  # whether its series grows


class FlowTotals:
    """Hold the flows of all programs."""

    def __init__(
        self, tables: Iterable[SlotTable], limits: Flows, patience: float = PATIENCE
    ) -> None:
        """Read nothing yet.

        Args:
            tables: The kernel's flow tables, one for each family.
            limits: The largest numbers of held and exported flows.
            patience: Seconds for which the agent waits for a client to see a new series at 0.
                With 0, a series counts from the reading after the one that creates it.
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
        """Read the tables in steps, and choose the exported flows in the last step.

        Until the last step, ``exported`` and ``other`` have the values of the previous reading.
        Do not call other methods in between.

        Args:
            series_index: The owners of flows.
            totals: The totals, read before the flows: see above.
            now: Seconds of a monotonic clock.
            moved: Whether the owner of any flow has changed since the previous reading.
            still: Whether, besides, the totals have not grown since then. Then the tables have
                nothing new, because the kernel counts a packet in its flow before the totals.
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
        yield
        before = self._exported.keys()
        yield from self._export(series_index, now)
        yield
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

    @property
    def complete(self) -> bool:
        """Return whether the last reading had every flow."""
        return self._complete

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

    def _export(self, series_index: SeriesIndex, now: float) -> Iterator[None]:
        """Choose the exported flows in steps. The last step changes their counts."""
        names = self._known()
        scores = [
            np.where(known, group.score * _STICKINESS + 1e-9, group.score)
            for group, known in zip(self._groups, names, strict=True)
        ]
        chosen = _largest(scores, self.limits.top)
        yield
        fresh: dict[tuple[int, int], FlowCount] = {}
        for table, group, flows in zip(self._tables, self._groups, chosen, strict=True):
            version = table.family.version
            new = [
                at
                for at, name in zip(flows.tolist(), group.name[flows].tolist(), strict=True)
                if (version, name) not in self._exported
            ]
            for begin in range(0, len(new), _DESCRIBED_IN_STEP):
                part = np.array(new[begin : begin + _DESCRIBED_IN_STEP], np.intp)
                described = _copied(table, group, part, series_index).describe()
                for name, count in zip(group.name[part].tolist(), described, strict=True):
                    count.packets = count.bytes = 0
                    count.since = self._reading
                    fresh[version, name] = count
                yield
        exported: dict[tuple[int, int], FlowCount] = {}
        for table, group, flows in zip(self._tables, self._groups, chosen, strict=True):
            growth = zip(
                group.name[flows].tolist(),
                group.packets[flows].tolist(),
                group.bytes[flows].tolist(),
                group.score[flows].tolist(),
                strict=True,
            )
            for name, packets, size, score in growth:
                key = table.family.version, name
                old = self._exported.get(key)
                if old is None:
                    exported[key] = fresh[key]
                    continue
                old.counts = old.counts or self._seen(old.since, now)
                if old.counts:
                    old.packets += packets
                    old.bytes += size
                old.rate = _rate(score)
                exported[key] = old
        self._exported = exported

    def shown(self, client: str, now: float) -> None:
        """Note that a client sees the last reading; see :class:`Readers`."""
        self._readers.shown(client, self._reading, now)

    def _seen(self, reading: int, now: float) -> bool:
        return not self._patience or self._readers.all_have_seen(reading, now)

    def _known(self) -> list[NDArray[np.bool_]]:
        """Return for each group which of its flows have a series."""
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
        """Return the flows with a series, and the packets and bytes in it."""
        return list(self._exported.values())

    def other(self, owner: Owner) -> Tally:
        """Return the counts of all flows of a program at a location that have no series."""
        tally = Tally()
        if owner in self._others:
            tally.counts[0] = self._others[owner]
        return tally

    def held(
        self, series_index: SeriesIndex, query: FlowQuery, series: Collection[int] | None = None
    ) -> "HeldFlows":
        """Copy flows from the tables.

        Args:
            series_index: The owners of flows.
            query: The conditions. The caller resolves its program, interface and namespace.
            series: The series indices of the programs and locations to copy; None means all.
        """
        groups = []
        for table in self._tables:
            group = table.held()
            wanted = np.ones(len(group.name), bool)
            if series is not None:
                wanted = np.isin(table.series_of(group.slot), np.fromiter(series, np.int32))
            # Copy the keys last, and only of these flows, because that takes longest.
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
    """Copied flows of one table, as arrays with one entry for each flow."""

    version: int
    series_index: dict[int, Owner]  # the owner by series index
    series: NDArray[np.int32]
    keys: NDArray[Any]
    packets: NDArray[np.uint64]
    bytes: NDArray[np.uint64]
    scores: NDArray[np.float64]

    def describe(self) -> list[FlowCount]:
        """Return the flows with their names and addresses."""
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
    """The answer to a query, independent of the tables. ``describe`` needs no lock."""

    query: FlowQuery
    entries: int  # all flows that the agent holds
    matched: int  # flows that the query admits, without its limit
    _copied: list[_Copied]

    def describe(self) -> list[FlowCount]:
        """Return the flows in the order that the query asks for."""
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
    """Return the indices of the largest scores of all groups, by group."""
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
    """Return the packets per second of a flow with a constant rate, from its score."""
    return score * float(np.log(2)) / HALF_LIFE


def _copied(
    table: SlotTable, group: Grouped, flows: NDArray[np.intp], series_index: SeriesIndex
) -> _Copied:
    slots = group.slot[flows]
    series = table.series_of(slots)
    return _Copied(
        table.family.version,
        {each: series_index.owner(each) for each in set(series.tolist())},
        series,
        table.keys(slots),
        group.packets[flows],
        group.bytes[flows],
        group.score[flows],
    )


def _flows(version: int, keys: NDArray[Any]) -> Iterator[Flow]:
    """Yield the flows that these keys stand for."""
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
