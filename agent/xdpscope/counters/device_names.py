# SPDX-License-Identifier: Apache-2.0
"""Find the location of the device that a record is bound to."""

from collections.abc import Mapping

from xdpscope.counters.records import UNPLACED
from xdpscope.counters.totals import Location
from xdpscope.discovery.model import Snapshot

UNKNOWN_LOCATION: Location = ("unknown", "unknown")
"""The location of packets whose device found no free record."""

# Seconds for which a bond's name still selects an interface that has left the bond. In this
# time, every scraper reads the last counts.
_KEPT = 60.0

# On hosts with containers, namespaces come and go all day. This many removed namespaces keep
# their names, because the agent may still read their records, some for the first time.
_REMEMBERED = 4096


class DeviceNames:
    """Find names as of the last scan. During a scan, the names of the previous scan come first.

    Counts that are read during a scan are from the time since the previous scan. So the names
    of the previous scan are right for every device that it found. Only new devices get the
    names of the current scan.
    """

    def __init__(self) -> None:
        self.version = 0
        """A number that changes whenever a device's known location may have changed."""
        self._now = Snapshot()
        self._before = Snapshot()
        self._coming: Snapshot | None = None
        self._inodes: frozenset[int] = frozenset()
        self._names: dict[int, str] = {}  # of namespaces, by serial number

    def expect(self, snapshot: Snapshot) -> None:
        """Begin a scan: use its names for devices that the last scan did not find."""
        self._coming = snapshot
        self.version += snapshot is not self._now
        self._inodes = frozenset(inode for inode, _ in snapshot.namespaces.values())

    def settle(self) -> None:
        """End a scan: its names become the current names."""
        if self._coming is None:
            return
        self.version += self._coming is not self._now
        self._before, self._now, self._coming = self._now, self._coming, None
        for serial, (_, name) in self._now.namespaces.items():
            self._names.pop(serial, None)  # move it to the end: it is forgotten last
            self._names[serial] = name
        while len(self._names) > _REMEMBERED + len(self._now.namespaces):
            del self._names[next(iter(self._names))]
            self.version += 1

    def of(self, serial: int, index: int, inode: int, name: str) -> Location | None:
        """Return a device's location, if it is known.

        Args:
            serial: The serial number of the device's namespace.
            index: The device's ifindex.
            inode: The inode number of the device's namespace.
            name: The device's name when it was first seen.

        Returns:
            None if the namespace is newer than the last scan. The next scan will find it.
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
        """Return a device's location, and choose a name for its namespace if none is known.

        Call this during or after a scan, when the caller cannot wait, or would wait in vain.
        """
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
        """Return the name of a namespace that no scan has entered yet, and perhaps none can."""
        snapshot = self._coming or self._now
        if serial in snapshot.namespaces:
            return snapshot.namespaces[serial][1]
        # Another namespace may have the inode number by now, and with it the name.
        return str(inode) if inode in self._inodes else snapshot.names.get(inode, str(inode))

    def in_view(self, serial: int) -> bool:
        """Return whether the last scan entered this namespace."""
        return serial in self._now.namespaces

    def has_gone(self, serial: int, index: int, inode: int) -> bool:
        """Return whether a device known before the last scan certainly no longer existed then.

        If the last scan did not enter the namespace, the device is gone if another namespace has
        the inode number.
        """
        if self.in_view(serial):
            return (serial, index) not in self._now.interfaces
        return inode in self._inodes


class Uppers:
    """Remember the upper device of each location. Its name selects the location, too."""

    def __init__(self) -> None:
        self.version = 0
        """A number that changes whenever the names for any location change."""
        self._now: Mapping[Location, tuple[str, ...]] = {}
        self._left: dict[Location, tuple[float, tuple[str, ...]]] = {}  # when, which upper devices

    def update(self, snapshot: Snapshot, now: float) -> None:
        """Use the results of a scan; ``now`` is in seconds of a monotonic clock."""
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
