# SPDX-License-Identifier: Apache-2.0
"""How long what is gone stays on the page."""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Retention(Generic[K]):
    """Keeps what has gone for a while, whoever reads the page meanwhile.

    Each scraper reads the last counts at its own next scrape. A scrape cannot be told from a
    person's request, nor one scraper from another, so only time decides.
    """

    def __init__(self, limit: int = 1024) -> None:
        """Start with nothing.

        Args:
            limit: How many may stay. Beyond it, what went first goes, however early that is.
        """
        self._limit = limit
        self._gone: dict[K, float] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._gone

    def __iter__(self) -> Iterator[K]:
        return iter(self._gone)

    def gone(self, key: K, now: float) -> None:
        """Note an end, once; ``now`` in seconds of a monotonic clock."""
        self._gone.setdefault(key, now)

    def back(self, key: K) -> None:
        """Take the end back."""
        self._gone.pop(key, None)

    def over(self, now: float, retention: float) -> list[K]:
        """Take out, and return, what has been gone for ``retention`` seconds."""
        excess = len(self._gone) - self._limit
        over = [
            key
            for at, (key, since) in enumerate(self._gone.items())
            if at < excess or now - since >= retention
        ]
        for key in over:
            self.back(key)
        return over
