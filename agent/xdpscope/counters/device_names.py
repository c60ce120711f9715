# SPDX-License-Identifier: Apache-2.0
"""From the device that a record is bound to, to the names of its place."""

from collections.abc import Mapping

from xdpscope.counters.records import UNPLACED
from xdpscope.counters.totals import Location
from xdpscope.discovery.model import Snapshot

UNKNOWN_LOCATION: Location = ("unknown", "unknown")
"""Of packets for whose device there was no record left."""

# Seconds for which an interface that has left its bond is still selected by the bond's name: for
# every scraper to read the last counts.
_KEPT = 60.0

# Namespaces come and go all day where containers do. So many that are gone keep their names,
# for what their records may still grow by, or be read for the first time.
_REMEMBERED = 4096


class DeviceNames:
    """Names as of the last look; during a look, of the one before first.

    What is booked during a look has been counted since the one before. So the names of then
    are right for every device that was there; only for one that is new are those of now.
    """

    def __init__(self) -> None:
        self.version = 0
        """Another one whenever a device that has a place may have got another."""
        self._now = Snapshot()
        self._before = Snapshot()
        self._coming: Snapshot | None = None
        self._inodes: frozenset[int] = frozenset()
        self._names: dict[int, str] = {}  # of namespaces, by serial number

    def expect(self, snapshot: Snapshot) -> None:
        """Begins a look: has what is not known from the last one be known from this."""
        self._coming = snapshot
        self.version += snapshot is not self._now
        self._inodes = frozenset(inode for inode, _ in snapshot.namespaces.values())

    def settle(self) -> None:
        """Has the names of the look that was begun be those of now."""
        if self._coming is None:
            return
        self.version += self._coming is not self._now
        self._before, self._now, self._coming = self._now, self._coming, None
        for serial, (_, name) in self._now.namespaces.items():
            self._names.pop(serial, None)  # to the end: the last that is forgotten
            self._names[serial] = name
        while len(self._names) > _REMEMBERED + len(self._now.namespaces):
            del self._names[next(iter(self._names))]
            self.version += 1

    def of(self, serial: int, index: int, inode: int, name: str) -> Location | None:
        """Where a device is.

        Args:
            serial: The serial number of its namespace.
            index: Its ifindex.
            inode: The inode number of its namespace.
            name: Its own when it was first seen.

        Returns:
            None if its namespace is newer than the last look, so that the next one will tell.
        """
        device = serial, index
        if device == UNPLACED:
            return UNKNOWN_LOCATION
        known = self._now.interfaces.get(device)
        if known is None and self._coming is not None:
            known = self._coming.interfaces.get(device)
        if known is None and serial in self._names:
            known = self._names[serial], name
        return known

    def at_once(self, serial: int, index: int, inode: int, name: str) -> Location:
        """The same, where one cannot wait, or in vain: after a look, or in the midst of it."""
        known = self.of(serial, index, inode, name)
        if known is None:
            netns = self._names[serial] = self._name_of(serial, inode)
            known = netns, name
        return known

    def until_now(self, serial: int, index: int, inode: int, name: str) -> Location:
        """Return where a device was that the last scan no longer found."""
        known = self._before.interfaces.get((serial, index))
        return known or self.at_once(serial, index, inode, name)

    def _name_of(self, serial: int, inode: int) -> str:
        """The name of a namespace that was never looked into before, and maybe cannot be."""
        snapshot = self._coming or self._now
        if serial in snapshot.namespaces:
            return snapshot.namespaces[serial][1]
        # The number, and with it the name, may by now be another's.
        return str(inode) if inode in self._inodes else snapshot.names.get(inode, str(inode))

    def in_view(self, serial: int) -> bool:
        """Whether the last look was into this namespace."""
        return serial in self._now.namespaces

    def has_gone(self, serial: int, index: int, inode: int) -> bool:
        """Whether it is certain that a device known before the last look was not there then.

        Of a namespace that was not looked into it is, if another has its inode number.
        """
        if self.in_view(serial):
            return (serial, index) not in self._now.interfaces
        return inode in self._inodes


class Uppers:
    """The bonds, or the like, that locations belong to: their names select the locations, too."""

    def __init__(self) -> None:
        self.version = 0
        """Another one whenever the names for any location change."""
        self._now: Mapping[Location, tuple[str, ...]] = {}
        self._left: dict[Location, tuple[float, tuple[str, ...]]] = {}  # when, from where

    def update(self, snapshot: Snapshot, now: float) -> None:
        """Take what a scan found; ``now`` in seconds of a monotonic clock."""
        before, self._now = self._now, snapshot.uppers
        left = {location: each for location, each in self._left.items() if now < each[0] + _KEPT}
        left.update({location: (now, names) for location, names in before.items()})
        left = {location: each for location, each in left.items() if location not in self._now}
        if self._now != before or left != self._left:
            self._left = left
            self.version += 1

    def of(self, location: Location) -> tuple[str, ...]:
        """Return the names of the devices above a location, the nearest first."""
        if location in self._left:
            return self._left[location][1]
        return self._now.get(location, ())
