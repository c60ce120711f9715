# SPDX-License-Identifier: Apache-2.0
"""Limit the scans of a host that changes all the time."""

# If a host changes all the time, the programs that change it need the CPU.
_SHARE = 0.1
"""The share of the time that scans take in the long run."""
_CREDIT = 2.0
"""Seconds of scans that may come earlier than their share of the time."""
_PROMPT = 0.5
"""The longest wait in seconds while there is credit."""
_LONGEST = 5.0
"""The longest wait in seconds in any case."""


class ScanLimiter:
    """Allows scans in quick succession for a while, on a slow machine too, but not for ever."""

    def __init__(self) -> None:
        self._owed = 0.0  # seconds of scans, minus their share of the time since
        self._at = 0.0

    def rest(self, took: float, now: float, interval: float) -> float:
        """Return how long to wait after a scan.

        Args:
            took: Seconds that the scan took.
            now: When it ended, in seconds of a monotonic clock.
            interval: Seconds after which another scan is due in any case.

        Returns:
            Seconds, not more than ``interval``.
        """
        longest = min(interval, _LONGEST)
        owed = max(0.0, self._owed - _SHARE * (now - self._at)) + took
        # The longest wait pays back a part. The rest is forgotten.
        self._owed = min(owed, _CREDIT + _SHARE * longest)
        self._at = now
        prompt = min((1 / _SHARE - 1) * took, _PROMPT)
        return min(max(prompt, (self._owed - _CREDIT) / _SHARE), longest)
