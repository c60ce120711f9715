# SPDX-License-Identifier: Apache-2.0
"""How long what is gone stays on the page."""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Farewell(Generic[K]):
    """What has gone stays until its last counts were shown once, within bounds of time.

    Prometheus would else never learn of packets between its last scrape and the end.
    """

    def __init__(self, most: float = 60.0, limit: int = 256) -> None:
        """Bounds it.

        Args:
            most: Seconds after which something goes even if it was never shown.
            limit: How many may stay; beyond it what went first goes.
        """
        self._most = most
        self._limit = limit
        self._gone: dict[K, float] = {}
        self._shown: set[K] = set()

    def __contains__(self, key: K) -> bool:
        return key in self._gone

    def __iter__(self) -> Iterator[K]:
        return iter(self._gone)

    def gone(self, key: K, now: float) -> None:
        """Notes an end, once; ``now`` in seconds of a monotonic clock."""
        self._gone.setdefault(key, now)

    def back(self, key: K) -> None:
        """Takes the end back."""
        self._gone.pop(key, None)
        self._shown.discard(key)

    def shown(self) -> None:
        """Notes that a scrape has read the last counts of all that is gone."""
        self._shown.update(self._gone)

    def over(self, now: float, least: float) -> list[K]:
        """Takes out, and returns, what has been gone for ``least`` seconds and may go."""
        over = [
            key
            for key, since in self._gone.items()
            if now - since >= (least if key in self._shown else max(least, self._most))
        ]
        staying = [key for key in self._gone if key not in set(over)]
        over += staying[: max(0, len(staying) - self._limit)]
        for key in over:
            self.back(key)
        return over
