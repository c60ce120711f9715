# SPDX-License-Identifier: Apache-2.0
"""Keep totals that never decrease, although the kernel's records start again from 0."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Set
from dataclasses import replace
from typing import Self

import numpy as np

from xdpscope.counters.records import REASONS, DeviceReading, Reading, no_counts

Location = tuple[str, str]
"""A location by its names: (network namespace, interface)."""

Device = tuple[int, int]
"""The serial number of a network namespace, and an ifindex."""

LocationOf = Callable[[int, int, int, str], Location | None]
"""A function that returns a device's location now, or None if it is not known yet. Its arguments:
the namespace's serial number, the ifindex, the namespace's inode number, and the device's name
when it was first seen."""


# The number of programs whose records one step reads.
_READ_IN_STEP = 64


class Tally:
    """The counts of one location, by verdict in the order of VERDICTS."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = no_counts()

    def copy(self) -> Self:
        """Return a copy that does not grow any more."""
        copy = type(self)()
        copy.counts[...] = self.counts
        return copy

    @property
    def packets(self) -> list[int]:
        """Return the packets by verdict."""
        return self._column(0, 0)

    @property
    def bytes(self) -> list[int]:
        """Return the bytes by verdict."""
        return self._column(0, 1)

    def unaccounted(self, reason: str) -> tuple[list[int], list[int]]:
        """Return the packets and bytes, by verdict, that are in no flow for one of REASONS."""
        row = 1 + REASONS.index(reason)
        return self._column(row, 0), self._column(row, 1)

    def _column(self, row: int, column: int) -> list[int]:
        found: list[int] = self.counts[row, :, column].tolist()
        return found


class Totals:
    """Keep the totals by program and location.

    The kernel's records are bound to a namespace and an ifindex. People know an interface by its
    name, which another interface may have tomorrow. So each reading adds a record's growth since
    the previous reading to the totals of the current name. A total never decreases. Counts under
    an old name stay there when an interface is renamed.
    """

    def __init__(self) -> None:
        self._by_program: dict[int, dict[Location, Tally]] = {}
        self._recorded: dict[int, dict[str, Reading]] = {}
        self._grown: set[Location] = set()

    def record(self, program: int, store: str, reading: Reading, location_of: LocationOf) -> bool:
        """Add the growth since the previous reading of the same store to the totals.

        A device may have records in several of a program's stores, and lose one of them. Growth
        at a location that is not known yet is added once the location is known.

        Returns:
            Whether the totals contain all of the growth.
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

    def move(self, program: int, source: str, reading: Reading, destination: str) -> None:
        """Expect what has left the records of one store in another store.

        Call this before ``record``, with a reading in which nothing is between the two stores.

        Args:
            program: The program's id.
            source: The store whose counts may have moved.
            reading: The reading of that store.
            destination: The store to which they moved.
        """
        stores = self._recorded.setdefault(program, {})
        left, reached = stores.setdefault(source, {}), stores.setdefault(destination, {})
        for identity, old in left.items():
            now = reading.get(identity)
            if now is not None and (now.counts >= old.counts).all():
                continue
            rest = no_counts() if now is None else np.minimum(old.counts, now.counts)
            left[identity] = replace(old, counts=rest)
            before = reached.get(identity)
            there = no_counts() if before is None else before.counts
            reached[identity] = replace(old, counts=there + old.counts - rest)

    def packets_of(self, devices: Set[Device]) -> Generator[None, None, Counter[Device]]:
        """Return the packets that the records of devices had at the last reading, in steps."""
        found: Counter[Device] = Counter()
        for number, stores in enumerate([*self._recorded.values()], start=1):
            for store in stores.values():
                for device in store.keys() & devices:
                    found[device] += int(store[device].counts[0, :, 0].sum())
            if number % _READ_IN_STEP == 0:
                yield
        return found

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
        # If a count decreased, the kernel's record was deleted and this is a new one.
        if old is None or (now.counts < old.counts).any():
            tally.counts += now.counts
        else:
            tally.counts += now.counts - old.counts
        self._grown.add(location)

    def close(self, program: int, store: str, last: Reading, location_of: LocationOf) -> None:
        """Add the last reading of deleted records to the totals, and forget these records.

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
        """Start again at this reading: do not add earlier counts to the totals."""
        self._recorded.setdefault(program, {})[store] = dict(reading)

    def grown(self) -> set[Location]:
        """Return the locations whose totals have grown since the last call."""
        found, self._grown = self._grown, set()
        return found

    def of(self, program: int) -> Mapping[Location, Tally]:
        """Return the totals of one program, by location."""
        return self._by_program.get(program, {})

    def locations(self) -> Iterator[Location]:
        """Yield every location with totals, some of them more than once."""
        for totals in self._by_program.values():
            yield from totals

    def forget_program(self, program: int) -> None:
        """Remove the totals of a program that is gone. Its id does not come back."""
        self._by_program.pop(program, None)
        self._recorded.pop(program, None)

    def forget_location(self, location: Location) -> None:
        """Remove the totals of an interface that is gone."""
        for totals in self._by_program.values():
            totals.pop(location, None)
