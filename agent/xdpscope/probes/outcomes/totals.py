# SPDX-License-Identifier: Apache-2.0
"""From the kernel's records of outcomes to series that only grow. No system calls.

A record belongs to a namespace and an ifindex, a series to names. What a record has grown by since
it was last read is added to the series with the names of now: so an interface that is renamed takes
along nothing that was counted under its old name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from errno import EAGAIN, EDEADLK, EOPNOTSUPP, errorcode
from typing import Final, NamedTuple

from xdpscope.counters.clients import Readers
from xdpscope.counters.device_names import DeviceNames
from xdpscope.counters.retention import Retention
from xdpscope.counters.totals import Location
from xdpscope.discovery.model import UNNAMED, Snapshot
from xdpscope.probes.outcomes.tracepoints import Device, Outcome, Record
from xdpscope.program_types.xdp import VERDICTS

RETENTION: Final = 65.0
"""Seconds for which a series stays whose program, interface or map is gone."""

_SERIES_GONE: Final = 16_384
"""Series that may stay for that long; beyond it, what went first is removed earlier."""

_REMEMBERED: Final = 4096
"""Removed series whose totals are kept, to continue if an interface of that name comes back."""

_NAMES: Final[Mapping[int, str]] = {
    **errorcode,
    # Python has aliases for these. The kernel's names:
    EAGAIN: "EAGAIN",
    EDEADLK: "EDEADLK",
    EOPNOTSUPP: "EOPNOTSUPP",
    524: "ENOTSUPP",  # include/linux/errno.h: not for user space, but drivers return it
}
_KTHREAD: Final = 1  # enum cpumap_side of bpf/common/xdpscope.h


class Series(NamedTuple):
    """One series: the outcome, and the values of its metric's labels in their order."""

    outcome: Outcome
    labels: tuple[str, ...]


@dataclass(slots=True)
class _Total:
    """The packets of one series, and what it belongs to."""

    program: int  # 0: none
    map: int  # 0: none
    locations: tuple[Location, ...]
    since: float  # when the series appeared, by a monotonic clock
    reading: int  # the reading that it appeared in
    packets: int = 0
    shown: bool = False  # whether its value is shown; else 0 is


def errno_name(number: int) -> str:
    """Return the name of an errno, given as the kernel returns it (negative)."""
    return _NAMES.get(-number, str(-number))


class Totals:
    """All series. Not for use by two threads at once, but for ``values``."""

    def __init__(self, patience: float = RETENTION) -> None:
        """Start with none.

        Args:
            patience: Seconds for which a new series stays at 0, unless every client that reads
                the page has seen it before.
        """
        self._patience = patience
        self._locations = DeviceNames()
        self._snapshot = Snapshot()
        self._before: dict[tuple[Outcome, bytes], tuple[int, int]] = {}
        self._series_of: dict[tuple[Outcome, bytes], frozenset[Series]] = {}
        self._totals: dict[Series, _Total] = {}
        self._removed: dict[Series, int] = {}
        self._gone: Retention[Series] = Retention(_SERIES_GONE)
        self.readers = Readers(patience)
        self.reading = 0
        """The number of updates so far."""

    def restart(self) -> None:
        """Expect records that begin at 0, because the tracepoints were attached again."""
        self._before.clear()
        self._series_of.clear()

    def update(
        self,
        snapshot: Snapshot,
        records: Iterable[Record],
        delete: Callable[[Record], Record | None],
        now: float,
    ) -> None:
        """Add what the records have grown by.

        Args:
            snapshot: The host as of now.
            records: All that the kernel has.
            delete: Deletes a record from the kernel; returns it as it was in the end.
            now: Seconds of a monotonic clock.
        """
        self.reading += 1
        self._snapshot = snapshot
        self._locations.expect(snapshot)
        read = {(record.outcome, record.key): record for record in records}
        grown: set[Series] = set()
        for record in read.values():
            grown.update(self._add(record, now))
        self._locations.settle()
        removed = self._remove(grown, now)
        for key, record in read.items():
            if self._series_of[key] & removed:
                last = delete(record)
                if last is not None:
                    grown.update(self._add(last, now))
                self._before.pop(key, None)
                self._series_of.pop(key, None)
        for series, total in self._totals.items():
            total.shown = total.shown or self._is_known(series, now)

    def values(self) -> list[tuple[Series, int]]:
        """Return each series and its value: 0 as long as it is new."""
        return [
            (series, each.packets if each.shown else 0) for series, each in self._totals.items()
        ]

    def _is_known(self, series: Series, now: float) -> bool:
        total = self._totals[series]
        return now - total.since >= self._patience or self.readers.all_have_seen(total.reading, now)

    def _add(self, record: Record, now: float) -> Iterator[Series]:
        """Add a record's growth; yield the series that have grown."""
        key = record.outcome, record.key
        succeeded, failed = self._before.get(key, (0, 0))
        self._before[key] = record.succeeded, record.failed
        growth = record.succeeded - succeeded, record.failed - failed
        locations = self._places_of(record)
        found = list(self._series(record, locations))
        self._series_of[key] = frozenset(series for series, _ in found)
        for series, is_failure in found:
            total = self._totals.get(series)
            if total is None:
                if not any(growth):
                    continue  # of an object that is gone, and was removed
                total = self._totals[series] = _Total(
                    record.program_id, record.map_id, locations, now, self.reading,
                    self._removed.pop(series, 0),
                )  # fmt: skip
            total.packets += growth[is_failure]
            if growth[is_failure]:
                yield series

    def _places_of(self, record: Record) -> tuple[Location, ...]:
        def location(device: Device) -> Location:
            return self._locations.at_once(device.serial, device.index, device.inode, device.name)

        return tuple(location(device) for device in (record.source, record.target) if device)

    def _series(
        self, record: Record, locations: tuple[Location, ...]
    ) -> Iterator[tuple[Series, bool]]:
        """Yield each series of a record, and whether the failed packets are in it."""
        outcome = record.outcome
        if outcome in (Outcome.EXCEPTION, Outcome.REDIRECT_ERROR):
            is_error = outcome is Outcome.REDIRECT_ERROR
            detail = errno_name(record.code) if is_error else VERDICTS[record.code]
            program = str(record.program_id), self._function(record)
            yield Series(outcome, (*program, *locations[0], detail)), True
        elif outcome is Outcome.CPUMAP:
            done = "processed" if record.code == _KTHREAD else "enqueued"
            yield Series(outcome, (str(record.map_id), done)), False
            yield Series(outcome, (str(record.map_id), "dropped")), True
        else:
            labels: tuple[str, ...] = locations[0]
            if outcome is Outcome.DEVMAP_TRANSMIT:
                labels = (*labels, _seen_from(*locations))
            yield Series(outcome, (*labels, "sent")), False
            yield Series(outcome, (*labels, "dropped")), True

    def _function(self, record: Record) -> str:
        known = self._snapshot.programs.get(record.program_id)
        if known is not None:
            return known.function
        for series in self._series_of.get((record.outcome, record.key), ()):
            return series.labels[1]  # as long as it was loaded
        return record.program or UNNAMED

    def _remove(self, grown: set[Series], now: float) -> set[Series]:
        """Remove the series that have been gone for long enough."""
        snapshot = self._snapshot
        here = frozenset(snapshot.interfaces.values())
        looked_into = frozenset(name for _, name in snapshot.namespaces.values())
        maps = frozenset(id for each in snapshot.programs.values() for id in each.map_ids)

        def exists(series: Series, total: _Total) -> bool:
            if total.program and total.program not in snapshot.programs:
                return False
            if total.map and total.map not in maps:
                return False
            missing = [location for location in total.locations if location not in here]
            # A namespace that cannot be scanned: it exists as long as packets are counted.
            return not missing or (
                series in grown and all(netns not in looked_into for netns, _ in missing)
            )

        for series, total in self._totals.items():
            if exists(series, total):
                self._gone.back(series)
            else:
                self._gone.gone(series, now)
        removed = set(self._gone.over(now, RETENTION))
        for series in removed:
            total = self._totals.pop(series)
            if not total.program or total.program in snapshot.programs:
                self._removed[series] = total.packets
        while len(self._removed) > _REMEMBERED:
            del self._removed[next(iter(self._removed))]
        return removed


def _seen_from(source: Location, target: Location) -> str:
    """Return the target's interface; with its namespace, if that is another one.

    No interface has a slash in its name (dev_valid_name in net/core/dev.c).
    """
    return target[1] if target[0] == source[0] else "/".join(target)
