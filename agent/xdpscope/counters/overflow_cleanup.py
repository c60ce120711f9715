# SPDX-License-Identifier: Apache-2.0
"""Which of the records shared by all targets are done with: they have only so many places."""

from collections.abc import Mapping
from typing import NamedTuple

from xdpscope.counters.device_names import DeviceNames
from xdpscope.counters.overflow import OverflowReading

# Nobody can tell that a namespace is gone which no process is in and no name is for: a
# descriptor or a socket may hold it. If nothing was counted there for so many seconds, it
# counts as gone.
_QUIET = 300.0

Key = tuple[int, int, int]
"""A target's number, a namespace's serial number, an ifindex."""


class _State(NamedTuple):
    packets: int
    since: float  # when they became as many


class OverflowCleanup:
    """Watches them from look to look.

    A record is not done with at the look that first finds it: its device may have appeared
    after that look had listed interfaces.
    """

    def __init__(self) -> None:
        self._known: dict[Key, _State] = {}

    def done_with(
        self, overflow: Mapping[int, OverflowReading], locations: DeviceNames, now: float
    ) -> set[Key]:
        """Those in which no packet can be counted any more.

        Args:
            overflow: What there is, by target; all booked.
            locations: As of a look that began after the call before this.
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
                unseen_and_quiet = not locations.in_view(serial) and now - since >= _QUIET
                if unseen_and_quiet or locations.has_gone(serial, index, inode):
                    done.add(key)
        self._known = known
        return done
