# SPDX-License-Identifier: Apache-2.0
"""Decide which locations have series, and which totals can be forgotten."""

from collections.abc import Iterator, Set
from typing import Final

from xdpscope.counters.retention import Retention
from xdpscope.counters.totals import Location

# Where containers start and stop, interfaces with new names appear and disappear all day. The
# totals of this many locations stay after they disappear, so that they continue if one returns.
_REMEMBERED: Final = 4096


class LocationRetention:
    """Keep the series of a location that disappears for a time, and its totals for longer."""

    def __init__(self) -> None:
        self._gone: Retention[Location] = Retention()
        self._hidden: dict[Location, None] = {}

    def hides(self, location: Location) -> bool:
        """Return whether the retention of this location is over."""
        return location in self._hidden

    def update(
        self, here: Set[Location], known: Set[Location], now: float, retention: float
    ) -> Iterator[Location]:
        """Use the results of a scan. Yield locations whose totals the caller must forget.

        Args:
            here: The locations that exist.
            known: The locations that have totals.
            now: Seconds of a monotonic clock.
            retention: Seconds for which a location stays after it disappears.
        """
        # Do this for locations without totals too, because their totals may already be forgotten.
        for location in here & {*self._gone}:
            self._gone.back(location)
        for location in here & self._hidden.keys():
            del self._hidden[location]
        for location in known - here:
            if location not in self._hidden:
                self._gone.gone(location, now)
        for location in self._gone.over(now, retention):
            self._hidden[location] = None
        while len(self._hidden) > _REMEMBERED:
            location = next(iter(self._hidden))
            del self._hidden[location]
            yield location
