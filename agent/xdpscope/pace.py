# SPDX-License-Identifier: Apache-2.0
"""How often to look at a host on which something always changes."""

# Where changes never end, those who make them want the CPU.
_SHARE = 0.1
"""Of the time, that is spent looking in the long run."""
_CREDIT = 2.0
"""Seconds of looking that may come earlier than their share of the time."""
_PROMPT = 0.5
"""Seconds of rest at the most, while there is credit."""
_LONGEST = 5.0
"""Seconds of rest at the most, whatever is owed."""


class Pace:
    """Looks come close on each other for a while, on a slow machine too, but not for ever."""

    def __init__(self) -> None:
        self._owed = 0.0  # seconds looked, but for their share of the time since
        self._at = 0.0

    def rest(self, took: float, now: float, interval: float) -> float:
        """How long to rest after a look.

        Args:
            took: Seconds that it took.
            now: When it ended, in seconds of a monotonic clock.
            interval: Seconds after which another is due in any case.

        Returns:
            Seconds, not more than ``interval``.
        """
        longest = min(interval, _LONGEST)
        owed = max(0.0, self._owed - _SHARE * (now - self._at)) + took
        # What the longest rest does not pay back is never paid.
        self._owed = min(owed, _CREDIT + _SHARE * longest)
        self._at = now
        prompt = min((1 / _SHARE - 1) * took, _PROMPT)
        return min(max(prompt, (self._owed - _CREDIT) / _SHARE), longest)
