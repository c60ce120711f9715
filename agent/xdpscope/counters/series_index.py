# SPDX-License-Identifier: Apache-2.0
"""Find the owner of a flow, which is a program and a location, from a slot of the flow table.

A slot names the CPU, the target's number, and the index of the device's record. The index
selects one of the target's records on that CPU. The records identify the program and the device.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.totals import Location
from xdpscope.discovery.model import interface_name

U64 = NDArray[np.uint64]

Owner = tuple[int, Location]
"""A program's id, and a location."""

UNKNOWN = -1
"""The series index of a slot without a known owner."""

RECENTLY, EVER = 1, 2
"""Since when a slot of a target's own record may have had other owners: since the last complete
reading of the flows, or at any time, because there was no such reading with this target."""


def code(cpu: Any, target: Any, index: Any) -> U64:
    """Return one number for all three parts.

    An index has 21 bits, and no kernel has more than 8,192 CPUs.
    """
    targets, indices, cpus = (np.asarray(part, np.uint64) for part in (target, index, cpu))
    return np.asarray(targets << np.uint64(34) | indices << np.uint64(13) | cpus, np.uint64)


LocationOf = Callable[[int, int, int, str], Location | None]
"""As ``totals.LocationOf``, but also None for a location that the agent does not observe."""

Device = tuple[int, int, bytes]
"""A device as its record names it: identity, inode number of its namespace, name."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The devices that have records of one target, on any number of CPUs."""

    program: int
    target: int
    # One entry for each device:
    identities: U64  # namespace's serial number << 32 | ifindex
    inodes: NDArray[Any]  # of the namespaces
    names: NDArray[np.bytes_]  # when first seen
    # One entry for each record:
    devices: NDArray[Any]  # the index in the arrays above
    cpus: NDArray[Any]
    indices: NDArray[Any]
    # One entry for each CPU: how many records have moved from the target's own to the overflow.
    moved: U64 | None = None

    @classmethod
    def inline(cls, program: int, target: int, records: NDArray[Any]) -> Self:
        """Return the devices in a target's own ``struct target_counts``, shape (CPUs,)."""
        devices = records["devices"]
        cpus, indices = np.nonzero(devices["identity"])
        used = devices[cpus, indices]
        identities, first, which = np.unique(
            used["identity"], return_index=True, return_inverse=True
        )
        inodes, names = used["netns"][first], used["name"][first]
        moved = records["moved"].copy()
        return cls(program, target, identities, inodes, names, which, cpus, indices, moved)

    @classmethod
    def overflow(cls, program: int, target: int, found: OverflowReading) -> Self:
        """Return the devices of a target's overflow records."""
        which, cpus = found.bound
        indices = found.indices[which, cpus]
        # Use small types: with hundreds of CPUs and devices, there are very many records.
        narrow = which.astype(np.uint32), cpus.astype(np.uint16)
        return cls(program, target, found.identities, found.inodes, found.names, *narrow, indices)

    def same_as(self, other: "Seen") -> bool:
        """Return whether both have the same devices and records."""
        return (
            np.array_equal(self.identities, other.identities)
            and np.array_equal(self.devices, other.devices)
            and np.array_equal(self.cpus, other.cpus)
            and np.array_equal(self.indices, other.indices)
        )


# The number of targets that one step of an update handles.
_UPDATED_IN_STEP = 64

_Key = tuple[int, bool]
"""A target's number, and whether it is about its overflow records."""


class SeriesOfSlots:
    """Find the series index of a code: a dense number for a program and a location."""

    def __init__(
        self, codes: U64, numbers: NDArray[np.int32], doubts: NDArray[np.int8] | None = None
    ) -> None:
        """Take the series index of each code, and which codes may have had other owners."""
        order = np.argsort(codes)
        self._codes = codes[order]
        self._numbers = numbers[order]
        self._doubts = None if doubts is None or not doubts.any() else doubts[order]

    @property
    def numbers(self) -> set[int]:
        """Return every series index that a code has."""
        return set(self._numbers.tolist())

    def of(self, codes: U64) -> NDArray[np.int32]:
        """Return the series index of each code, or UNKNOWN if it has none."""
        if not len(self._codes):
            return np.full(len(codes), UNKNOWN, np.int32)
        at = self._find(codes)
        return np.where(self._codes[at] == codes, self._numbers[at], np.int32(UNKNOWN))

    def doubts(self, codes: U64) -> NDArray[np.int8]:
        """Return since when each code may have had other owners. 0: it had none."""
        if self._doubts is None:
            return np.zeros(len(codes), np.int8)
        at = self._find(codes)
        return np.where(self._codes[at] == codes, self._doubts[at], np.int8(0))

    def settle(self) -> None:
        """Record that all flows were read: no code is in doubt any more."""
        self._doubts = None

    def _find(self, codes: U64) -> NDArray[np.intp]:
        at = np.searchsorted(self._codes, codes)
        at[at == len(self._codes)] = 0
        return at


class SeriesIndex:
    """Give each program and location a series index.

    An index stays the same as long as there are records. No index is ever reused.
    """

    def __init__(self) -> None:
        self._seen: dict[_Key, Seen] = {}
        self._locations: dict[Device, Location | None] = {}
        self._view: object = None
        self._numbers: dict[Owner, int] = {}
        self._owners: dict[int, Owner] = {}
        self._next = itertools.count()
        self._unused = False  # whether there may be indices without a record
        # By target: ``Seen.moved`` at the last complete reading of the flows.
        self._moved: dict[int, U64] = {}
        self.of_slots = SeriesOfSlots(np.empty(0, np.uint64), np.empty(0, np.int32))

    def update(
        self, seen: Iterable[Seen], location_of: LocationOf, view: object
    ) -> Generator[None, None, bool]:
        """Use these records from now on; return whether any series index may have changed.

        This takes some steps. Do not call other methods before the last step.

        Args:
            seen: The devices of each target. If a target comes twice, the second has its
                overflow records.
            location_of: See ``LocationOf``.
            view: While this value stays equal, known locations of devices stay the same.
        """
        now: dict[_Key, Seen] = {}
        for each in seen:
            now[each.target, (each.target, False) in now] = each
        same, certain = now.keys() == self._seen.keys(), True
        parts = _parts(now)
        for part in parts:
            same = same and all(
                now[key] is self._seen[key] or now[key].same_as(self._seen[key]) for key in part
            )
            certain = certain and all(self._is_certain(now[key]) for key in part)
            yield
        settled = view == self._view and None not in self._locations.values()
        self._view = view
        if (
            same
            and certain
            and (
                settled
                or all(
                    _location(device, location_of) == location
                    for device, location in self._locations.items()
                )
            )
        ):
            return False
        self._locations.clear()
        codes: list[U64] = []
        numbers: list[NDArray[np.int32]] = []
        doubts: list[NDArray[np.int8]] = []
        for part in parts:
            for each in map(now.__getitem__, part):
                codes.append(code(each.cpus, each.target, each.indices))
                columns = (each.identities.tolist(), each.inodes.tolist(), each.names.tolist())
                devices = zip(*columns, strict=True)
                found = [self._number(each.program, device, location_of) for device in devices]
                numbers.append(np.array(found, np.int32)[each.devices])
                doubts.append(self._doubts(each)[each.cpus])
            yield
        self._seen = now
        self.of_slots = SeriesOfSlots(
            np.concatenate([np.empty(0, np.uint64), *codes]),
            np.concatenate([np.empty(0, np.int32), *numbers]),
            np.concatenate([np.empty(0, np.int8), *doubts]),
        )
        self._unused = True
        return True

    def _is_certain(self, seen: Seen) -> bool:
        """Return whether ``_doubts`` has none. Each scan asks, and makes no array for it."""
        if seen.moved is None:
            return True
        known = self._moved.get(seen.target)
        return not seen.moved.any() if known is None else seen.moved.tobytes() == known.tobytes()

    def _doubts(self, seen: Seen) -> NDArray[np.int8]:
        """Return by CPU since when slots may have had other owners."""
        if seen.moved is None:
            return np.zeros(int(seen.cpus.max(initial=0)) + 1, np.int8)
        known = self._moved.get(seen.target)
        if known is None:
            return np.where(seen.moved != 0, np.int8(EVER), np.int8(0))
        return np.where(seen.moved != known, np.int8(RECENTLY), np.int8(0))

    def forget_unused(self) -> None:
        """Remove indices without a record, because devices come and go for ever.

        Call this after a complete reading of the flows. Until then, flows may still use them.
        """
        self._moved = {
            each.target: each.moved for each in self._seen.values() if each.moved is not None
        }
        self.of_slots.settle()
        if self._unused:
            used = self.of_slots.numbers
            for number in [number for number in self._owners if number not in used]:
                del self._numbers[self._owners.pop(number)]
            self._unused = False

    def _number(self, program: int, device: Device, location_of: LocationOf) -> int:
        if device not in self._locations:
            self._locations[device] = _location(device, location_of)
        location = self._locations[device]
        if location is None:
            return UNKNOWN
        number = self._numbers.get((program, location))
        if number is None:
            number = self._numbers[program, location] = next(self._next)
            self._owners[number] = program, location
        return number

    def owner(self, series: int) -> Owner:
        """Return the program's id and the location of a series index."""
        return self._owners[series]

    def series_where(self, wanted: Callable[[int, Location], bool]) -> list[int]:
        """Return the series index of every wanted program and location."""
        return [number for owner, number in self._numbers.items() if wanted(*owner)]

    def forget_program(self, program: int) -> None:
        """Remove the indices of a program that is gone."""
        for key in [key for key in self._numbers if key[0] == program]:
            del self._owners[self._numbers.pop(key)]


def _parts(now: Mapping[_Key, Seen]) -> list[list[_Key]]:
    keys = list(now)
    starts = range(0, len(keys), _UPDATED_IN_STEP)
    return [keys[start : start + _UPDATED_IN_STEP] for start in starts]


def _location(device: Device, location_of: LocationOf) -> Location | None:
    identity, inode, name = device
    return location_of(identity >> 32, identity & 0xFFFFFFFF, inode, interface_name(name))
