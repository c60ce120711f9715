# SPDX-License-Identifier: Apache-2.0
"""Keep series on the page for a time after their program or interface disappears."""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Retention(Generic[K]):
    """Keep the keys of disappeared objects for a time, no matter who reads the page.

    Each scraper reads the last counts at its own next scrape. The agent cannot distinguish a
    scrape from a person's request, nor one scraper from another. So only time decides.
    """

    def __init__(self, limit: int = 1024) -> None:
        """Start without keys.

        Args:
            limit: The largest number of keys. Above it, the oldest keys go first, at any age.
        """
        self._limit = limit
        self._gone: dict[K, float] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._gone

    def __iter__(self) -> Iterator[K]:
        return iter(self._gone)

    def gone(self, key: K, now: float) -> None:
        """Note that an object disappeared; ``now`` is in seconds of a monotonic clock.

        A second call for the same key has no effect.
        """
        self._gone.setdefault(key, now)

    def back(self, key: K) -> None:
        """Note that an object came back."""
        self._gone.pop(key, None)

    def over(self, now: float, retention: float) -> list[K]:
        """Remove and return the keys above the limit or older than ``retention`` seconds."""
        excess = len(self._gone) - self._limit
        over = [
            key
            for at, (key, since) in enumerate(self._gone.items())
            if at < excess or now - since >= retention
        ]
        for key in over:
            self.back(key)
        return over
