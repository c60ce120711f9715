# SPDX-License-Identifier: Apache-2.0
"""Find the overflow records that can be deleted. All targets share a limited number of them."""

from collections.abc import Mapping
from typing import NamedTuple

from xdpscope.counters.device_names import DeviceNames
from xdpscope.counters.overflow import OverflowReading

# A namespace without a process and without a name may still exist: a descriptor or a socket may
# hold it. The agent treats it as gone if nothing was counted in it for this many seconds.
QUIET = 300.0

Key = tuple[int, int, int]
"""A target's number, a namespace's serial number, an ifindex."""


class _State(NamedTuple):
    packets: int
    since: float  # when the count last changed


class OverflowCleanup:
    """Follow the overflow records from scan to scan.

    The agent never deletes a record at the scan that first finds it: the device may have
    appeared after that scan had listed the interfaces.
    """

    def __init__(self) -> None:
        self._known: dict[Key, _State] = {}

    def done_with(
        self, overflow: Mapping[int, OverflowReading], locations: DeviceNames, now: float
    ) -> set[Key]:
        """Return the records in which no packet can be counted any more.

        Args:
            overflow: All records, by target. The totals contain their counts.
            locations: The names as of a scan that began after the previous call.
            now: Seconds of a monotonic clock.
        """
        known: dict[Key, _State] = {}
        done: set[Key] = set()
        for number, records in overflow.items():
            parts = records.identities.tolist(), records.inodes.tolist(), records.packets.tolist()
            for identity, inode, count in zip(*parts, strict=True):
                serial, index = identity >> 32, identity & 0xFFFFFFFF
                key = number, serial, index
                before = self._known.get(key)
                since = before.since if before and before.packets == count else now
                known[key] = _State(count, since)
                if before is None or not identity:
                    continue
                unseen_and_quiet = not locations.in_view(serial) and now - since >= QUIET
                if unseen_and_quiet or locations.has_gone(serial, index, inode):
                    done.add(key)
        self._known = known
        return done
