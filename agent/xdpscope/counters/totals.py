# SPDX-License-Identifier: Apache-2.0
"""Totals that only grow, from readings that start over."""

from collections.abc import Callable, Iterator, Mapping
from typing import Self

import numpy as np

from xdpscope.counters.records import REASONS, DeviceReading, Reading, no_counts

Location = tuple[str, str]
"""Where packets were seen, by name: (network namespace, interface)."""

LocationOf = Callable[[int, int, int, str], Location | None]
"""From a namespace's serial number, an ifindex, the namespace's inode number and the device's
name when it was first seen, to the place's names now; None where these are not known yet."""


class Tally:
    """What was counted at one place, by verdict in the order of VERDICTS."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = no_counts()

    def copy(self) -> Self:
        """Return what was counted up to now, which grows no more."""
        copy = type(self)()
        copy.counts[...] = self.counts
        return copy

    @property
    def packets(self) -> list[int]:
        """Packets by verdict."""
        return self._column(0, 0)

    @property
    def bytes(self) -> list[int]:
        """Bytes by verdict."""
        return self._column(0, 1)

    def unaccounted(self, reason: str) -> tuple[list[int], list[int]]:
        """Packets and bytes by verdict that are in no flow for this one of REASONS."""
        row = 1 + REASONS.index(reason)
        return self._column(row, 0), self._column(row, 1)

    def _column(self, row: int, column: int) -> list[int]:
        found: list[int] = self.counts[row, :, column].tolist()
        return found


class Totals:
    """What every program did, by program and place.

    The kernel's records are bound to a namespace and an ifindex; people know an interface
    by its name, which another may have tomorrow. So what a record has grown by since it
    was last read is booked under the name of now: a total never shrinks, and an interface
    that is renamed takes along nothing that was counted under its old name.
    """

    def __init__(self) -> None:
        self._by_program: dict[int, dict[Location, Tally]] = {}
        self._recorded: dict[int, dict[str, Reading]] = {}
        self._grown: set[Location] = set()

    def record(self, program: int, store: str, reading: Reading, location_of: LocationOf) -> bool:
        """Books what ``reading`` has more than the one before it from the same store.

        A device may have records in several of a program's stores, and lose one of them. What
        is in a place not known yet is booked once that is known.

        Returns:
            Whether all of it is booked.
        """
        totals = self._by_program.setdefault(program, {})
        stores = self._recorded.setdefault(program, {})
        before = stores.get(store, {})
        recorded = stores[store] = dict(reading)
        complete = True
        for identity, now in reading.items():
            old = before.get(identity)
            if old is not None and np.array_equal(old.counts, now.counts):
                continue
            location = location_of(*identity, now.inode, now.name)
            if location is None:
                complete = False
                del recorded[identity]
                if old is not None:
                    recorded[identity] = old
                continue
            self._add(totals, location, old, now)
        return complete

    def _add(
        self,
        totals: dict[Location, Tally],
        location: Location,
        old: DeviceReading | None,
        now: DeviceReading,
    ) -> None:
        tally = totals.get(location)
        if tally is None:
            tally = totals[location] = Tally()
        # Less than before: the kernel's record was deleted, and this is a new one.
        if old is None or (now.counts < old.counts).any():
            tally.counts += now.counts
        else:
            tally.counts += now.counts - old.counts
        self._grown.add(location)

    def close(self, program: int, store: str, last: Reading, location_of: LocationOf) -> None:
        """Book the last reading of deleted records, and forget these records.

        A record of the same device that appears later counts from 0, even if it has overtaken
        the deleted one by its first reading.
        """
        totals = self._by_program.setdefault(program, {})
        recorded = self._recorded.setdefault(program, {}).setdefault(store, {})
        for identity, now in last.items():
            old = recorded.pop(identity, None)
            location = location_of(*identity, now.inode, now.name)
            if location is not None and (old is None or not np.array_equal(old.counts, now.counts)):
                self._add(totals, location, old, now)

    def skip(self, program: int, store: str, reading: Reading) -> None:
        """Start again at this reading: do not book what came before it."""
        self._recorded.setdefault(program, {})[store] = dict(reading)

    def grown(self) -> set[Location]:
        """Places where anything was booked since this was last asked."""
        found, self._grown = self._grown, set()
        return found

    def of(self, program: int) -> Mapping[Location, Tally]:
        """The totals of one program."""
        return self._by_program.get(program, {})

    def locations(self) -> Iterator[Location]:
        """Every place there are totals for, some more than once."""
        for totals in self._by_program.values():
            yield from totals

    def forget_program(self, program: int) -> None:
        """Strikes a program that is gone; its id does not come back."""
        self._by_program.pop(program, None)
        self._recorded.pop(program, None)

    def forget_location(self, location: Location) -> None:
        """Strikes the totals of an interface that is gone."""
        for totals in self._by_program.values():
            totals.pop(location, None)
