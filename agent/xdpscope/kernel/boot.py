# SPDX-License-Identifier: Apache-2.0
"""Times since boot, as Unix time."""

import time
from collections.abc import Callable

_STEP_NS = 1_000_000_000
"""The clock was set if it differs by more from what it was before."""


def _offset_ns() -> int:
    """Return the best of some readings: a pause between the two clocks makes it smaller."""
    return max(time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) for _ in range(4))


class BootClock:
    """Converts times since boot to Unix time; the same time always gives the same result.

    The difference of the two clocks is measured once, so that a result does not change by some
    microseconds from one call to the next. It is measured again only if somebody has set the clock.
    """

    def __init__(self, offset_ns: Callable[[], int] = _offset_ns) -> None:
        """Measure the difference.

        Args:
            offset_ns: Returns Unix time minus time since boot, in nanoseconds.
        """
        self._measure = offset_ns
        self._offset = offset_ns()

    def unix_time(self, since_boot_ns: int) -> float:
        """Return seconds of Unix time, rounded to milliseconds.

        Args:
            since_boot_ns: Nanoseconds of CLOCK_BOOTTIME, such as ``bpf_prog_info.load_time``.
        """
        offset = self._measure()
        if abs(offset - self._offset) > _STEP_NS:
            self._offset = offset
        return round((since_boot_ns + self._offset) / 1e9, 3)


BOOT_CLOCK = BootClock()
"""The clock of this process. All that is shown of one program must agree."""
