# SPDX-License-Identifier: Apache-2.0
"""Add the counts of targets to the totals. Skip targets that counted nothing since.

On a host with hundreds of programs, most are quiet between two readings. Decoding a record takes
a hundred times as long as finding that it has not changed.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.records import Reading, of_target, sums
from xdpscope.counters.series_index import Seen
from xdpscope.counters.totals import LocationOf, Totals

# The number of changed records that one step adds. One takes a millisecond on a slow machine.
_ADDED_IN_STEP = 8

# A sum that no record has: the next reading must decode the record again.
_INCOMPLETE = -1


@dataclass(frozen=True, slots=True)
class Counted:
    """Targets and their own records, read together."""

    programs: list[int]  # their ids
    numbers: list[int]  # of the targets
    records: NDArray[Any]  # struct target_counts, shape (targets, CPUs)


@dataclass(frozen=True, slots=True)
class _Entry:
    """The last reading of one target."""

    sum: int  # of all counters, if the totals contain them
    inline: Seen
    overflow: Seen | None = None  # records in the map that all targets share


class CounterReader:
    """Add the counts of targets to the totals."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self.version = 0
        """A number that changes when the reader adds new counts to the totals."""
        self._entries: dict[int, _Entry] = {}  # by the target's number
        self._skipped: dict[int, int] = {}  # sums of idle targets, by the target's number

    @property
    def seen(self) -> Iterable[Seen]:
        """Yield the devices that have records. A target's own records precede its overflow."""
        for entry in self._entries.values():
            yield entry.inline
            if entry.overflow is not None:
                yield entry.overflow

    @property
    def slots(self) -> Iterable[Seen]:
        """Yield the devices that have slots in targets' own records."""
        return (entry.inline for entry in self._entries.values())

    def record(
        self,
        counted: Iterable[Counted],
        overflow: Mapping[int, OverflowReading],
        location_of: LocationOf,
        idle: Collection[int] = (),
    ) -> Generator[None, None, None]:
        """Add all counts to the totals. Each step adds the counts of some targets.

        Args:
            counted: Every target that is not idle.
            overflow: The overflow records, by the target's number.
            location_of: See ``LocationOf``.
            idle: The numbers of idle targets. The reader keeps their last reading.
        """
        kept = set(idle)
        for part in counted:
            kept.update(part.numbers)
            changed = (
                (program, number, records, total)
                for program, number, records, total in _with_sums(part)
                if number in overflow or not self._contains(number, total)
            )
            for at, (program, number, records, total) in enumerate(changed, 1):
                self._entries[number] = self._record(
                    program, number, records, total, overflow.get(number), location_of
                )
                if at % _ADDED_IN_STEP == 0:
                    yield
            yield
        for number in self._entries.keys() - kept:
            del self._entries[number]

    def forget(self, number: int) -> None:
        """Remove a target that is gone."""
        self._entries.pop(number, None)
        self._skipped.pop(number, None)

    def close_overflow(self, number: int, last: Reading, location_of: LocationOf) -> None:
        """Add the last counts of a target's deleted overflow records to the totals.

        Args:
            number: The target's number.
            last: The content of the records when they were deleted.
            location_of: See ``LocationOf``.
        """
        entry = self._entries.get(number)
        if entry is not None:
            self.version += 1
            self._totals.close(entry.inline.program, "overflow", last, location_of)

    def skip(
        self,
        counted: Iterable[Counted],
        overflow: Mapping[int, OverflowReading],
        in_service: Callable[[int], bool],
    ) -> Generator[None, None, None]:
        """Exclude the counts of idle targets up to this reading. Each step handles some targets.

        Args:
            counted: Targets that were idle when they were read.
            overflow: As for ``record``.
            in_service: Returns whether the program with this id is no longer idle. Its packets
                count.
        """
        before, self._skipped = self._skipped, {}
        for part in counted:
            idle = [each for each in _with_sums(part) if not in_service(each[0])]
            self._skipped.update((number, total) for _, number, _, total in idle)
            changed = (
                (program, number, records)
                for program, number, records, total in idle
                if number in overflow or total != before.get(number, 0)
            )
            for at, (program, number, records) in enumerate(changed, 1):
                rest = overflow.get(number)
                self._totals.skip(program, "inline", of_target(records))
                self._totals.skip(program, "overflow", {} if rest is None else rest.by_device())
                if at % _ADDED_IN_STEP == 0:
                    yield
            yield

    def _contains(self, number: int, total: int) -> bool:
        """Return whether the totals contain all counts of a target without overflow records."""
        entry = self._entries.get(number)
        return entry is not None and entry.sum == total and entry.overflow is None

    def _record(
        self,
        program: int,
        number: int,
        records: NDArray[Any],
        total: int,
        rest: OverflowReading | None,
        location_of: LocationOf,
    ) -> _Entry:
        self.version += 1
        inline = of_target(records)
        self._totals.move(program, "inline", inline, "overflow")
        # Add the two stores separately. Each CPU gives its slots to the devices that it sees
        # first. So a device can have a slot on one CPU and an overflow record on another.
        complete = self._totals.record(program, "inline", inline, location_of)
        self._totals.record(
            program, "overflow", {} if rest is None else rest.by_device(), location_of
        )
        return _Entry(
            total if complete else _INCOMPLETE,
            Seen.inline(program, number, records),
            None if rest is None else Seen.overflow(program, number, rest),
        )


def _with_sums(part: Counted) -> Iterator[tuple[int, int, NDArray[Any], int]]:
    """Yield the program's id, the target's number, the records and their sum."""
    totals = sums(part.records).tolist()
    return zip(part.programs, part.numbers, part.records, totals, strict=True)
