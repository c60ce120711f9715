# SPDX-License-Identifier: Apache-2.0
"""What targets have counted, booked; of one that has counted nothing since, nothing is read anew.

On a host of hundreds of programs most are quiet between one reading and the next, and making
sense of a record takes a hundred times what telling that it is the same one does.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.records import Reading, of_target, sums
from xdpscope.counters.series_index import Seen
from xdpscope.counters.totals import LocationOf, Totals

# The sum of a record that must be seen to again, whatever it has.
_UNBOOKED = -1


@dataclass(frozen=True, slots=True)
class Counted:
    """Targets and their own records, read together."""

    programs: list[int]  # their ids
    numbers: list[int]  # of the targets
    records: NDArray[Any]  # struct target_counts, shape (targets, CPUs)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is known of one target."""

    sum: int  # of all counters that are booked
    inline: Seen
    overflow: Seen | None = None  # records in the map that all targets share


class CounterReader:
    """Enters into a ledger what targets count."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self.version = 0
        """Another as soon as anything is booked that was not before."""
        self._entries: dict[int, _Entry] = {}  # by the target's number
        self._skipped: dict[int, int] = {}  # sums of targets, by the same

    @property
    def seen(self) -> Iterable[Seen]:
        """The devices that there are records of; of a target those in its own map first."""
        for entry in self._entries.values():
            yield entry.inline
            if entry.overflow is not None:
                yield entry.overflow

    def record(
        self,
        counted: Iterable[Counted],
        overflow: Mapping[int, OverflowReading],
        location_of: LocationOf,
        idle: Collection[int] = (),
    ) -> Generator[None, None, None]:
        """Book all there is. Each step reads some targets, and books these.

        Args:
            counted: Every target, those that are idle excepted.
            overflow: What there is in the map that all targets share, by the target's number.
            location_of: See the ledger.
            idle: The numbers of targets that keep what was booked of them.
        """
        kept = set(idle)
        for part in counted:
            each = zip(
                part.programs, part.numbers, part.records, sums(part.records).tolist(), strict=True
            )
            for program, number, records, total in each:
                old, rest = self._entries.get(number), overflow.get(number)
                if old is None or old.sum != total or old.overflow is not None or rest is not None:
                    self._entries[number] = self._record(
                        program, number, records, total, rest, location_of
                    )
            kept.update(part.numbers)
            yield
        for number in self._entries.keys() - kept:
            del self._entries[number]

    def forget(self, number: int) -> None:
        """Remove a target that is gone."""
        self._entries.pop(number, None)
        self._skipped.pop(number, None)

    def close_overflow(self, number: int, last: Reading, location_of: LocationOf) -> None:
        """Book the last counts of a target's overflow records that were deleted.

        Args:
            number: The target's number.
            last: What the records had when they were deleted.
            location_of: See the ledger.
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
        """Leave out what idle targets counted up to this reading. Each step sees to some of them.

        Args:
            counted: Targets that were idle when they were read.
            overflow: As for ``record``.
            in_service: Says of a program's id whether it is not idle any more. Its packets count.
        """
        before, self._skipped = self._skipped, {}
        for part in counted:
            each = zip(
                part.programs, part.numbers, part.records, sums(part.records).tolist(), strict=True
            )
            for program, number, records, total in each:
                if in_service(program):
                    continue
                self._skipped[number] = total
                rest = overflow.get(number)
                if total != before.get(number, 0) or rest is not None:
                    self._totals.skip(program, "placed", of_target(records))
                    self._totals.skip(program, "overflow", {} if rest is None else rest.by_device())
            yield

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
        # Apart: each CPU gives its places to the devices that it meets first, so a device
        # that has one here may have spilled there.
        complete = self._totals.record(program, "placed", of_target(records), location_of)
        self._totals.record(
            program, "overflow", {} if rest is None else rest.by_device(), location_of
        )
        return _Entry(
            total if complete else _UNBOOKED,
            Seen.inline(program, number, records["devices"]),
            None if rest is None else Seen.overflow(program, number, rest),
        )
