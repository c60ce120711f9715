# SPDX-License-Identifier: Apache-2.0
"""Totals that only grow, from readings that start over."""

from collections.abc import Callable, Iterator, Mapping
from typing import Self

import numpy as np

from xdpscope.accounting.reading import REASONS, DeviceReading, Reading, no_counts

Place = tuple[str, str]
"""Where packets were seen, by name: (network namespace, interface)."""

PlaceOf = Callable[[int, int, int, str], Place | None]
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


class Ledger:
    """What every program did, by program and place.

    The kernel's records are bound to a namespace and an ifindex; people know an interface
    by its name, which another may have tomorrow. So what a record has grown by since it
    was last read is booked under the name of now: a total never shrinks, and an interface
    that is renamed takes along nothing that was counted under its old name.
    """

    def __init__(self) -> None:
        self._totals: dict[int, dict[Place, Tally]] = {}
        self._booked: dict[int, dict[str, Reading]] = {}
        self._grown: set[Place] = set()

    def book(self, program: int, store: str, reading: Reading, place_of: PlaceOf) -> bool:
        """Books what ``reading`` has more than the one before it from the same store.

        A device may have records in several of a program's stores, and lose one of them. What
        is in a place not known yet is booked once that is known.

        Returns:
            Whether all of it is booked.
        """
        totals = self._totals.setdefault(program, {})
        stores = self._booked.setdefault(program, {})
        before = stores.get(store, {})
        booked = stores[store] = dict(reading)
        complete = True
        for identity, now in reading.items():
            old = before.get(identity)
            if old is not None and np.array_equal(old.counts, now.counts):
                continue
            place = place_of(*identity, now.inode, now.name)
            if place is None:
                complete = False
                del booked[identity]
                if old is not None:
                    booked[identity] = old
                continue
            self._add(totals, place, old, now)
        return complete

    def _add(
        self,
        totals: dict[Place, Tally],
        place: Place,
        old: DeviceReading | None,
        now: DeviceReading,
    ) -> None:
        tally = totals.get(place)
        if tally is None:
            tally = totals[place] = Tally()
        # Less than before: the kernel's record was deleted, and this is a new one.
        if old is None or (now.counts < old.counts).any():
            tally.counts += now.counts
        else:
            tally.counts += now.counts - old.counts
        self._grown.add(place)

    def close(self, program: int, store: str, last: Reading, place_of: PlaceOf) -> None:
        """Book the last reading of deleted records, and forget these records.

        A record of the same device that appears later counts from 0, even if it has overtaken
        the deleted one by its first reading.
        """
        totals = self._totals.setdefault(program, {})
        booked = self._booked.setdefault(program, {}).setdefault(store, {})
        for identity, now in last.items():
            old = booked.pop(identity, None)
            place = place_of(*identity, now.inode, now.name)
            if place is not None and (old is None or not np.array_equal(old.counts, now.counts)):
                self._add(totals, place, old, now)

    def skip(self, program: int, store: str, reading: Reading) -> None:
        """Start again at this reading: do not book what came before it."""
        self._booked.setdefault(program, {})[store] = dict(reading)

    def grown(self) -> set[Place]:
        """Places where anything was booked since this was last asked."""
        found, self._grown = self._grown, set()
        return found

    def of(self, program: int) -> Mapping[Place, Tally]:
        """The totals of one program."""
        return self._totals.get(program, {})

    def places(self) -> Iterator[Place]:
        """Every place there are totals for, some more than once."""
        for totals in self._totals.values():
            yield from totals

    def forget_program(self, program: int) -> None:
        """Strikes a program that is gone; its id does not come back."""
        self._totals.pop(program, None)
        self._booked.pop(program, None)

    def forget_place(self, place: Place) -> None:
        """Strikes the totals of an interface that is gone."""
        for totals in self._totals.values():
            totals.pop(place, None)
