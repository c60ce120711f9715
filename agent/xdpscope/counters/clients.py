# SPDX-License-Identifier: Apache-2.0
"""Remember the clients that read the page, and the last reading that each of them saw."""

from contextvars import ContextVar
from typing import Final

READER: Final[ContextVar[str]] = ContextVar("READER", default="")
"""The client that reads the metrics now: its address and program, as far as they are known."""

SCRAPE_BEGAN: Final[ContextVar[float | None]] = ContextVar("SCRAPE_BEGAN", default=None)
"""When the scrape began that collects now, by the monotonic clock. What one collector has read
since then, the next one need not read again."""

PATIENCE: Final = 65.0
"""Seconds for which the agent waits for a client to read again: a scrape a minute, and delay."""

# The agent does not wait for more clients than this, because anybody can pretend to be many.
_MOST = 64


class Readers:
    """Remember the last reading that was shown to each client.

    A scraper that first sees a counter at 7 does not count these 7 as growth. So a new series
    stays at 0 until every client that reads the page has seen it.
    """

    def __init__(self, patience: float) -> None:
        """Start without clients.

        Args:
            patience: Seconds without a reading after which a client is forgotten.
        """
        self._patience = patience
        self._last: dict[str, tuple[float, int]] = {}  # when, and which reading

    def shown(self, client: str, reading: int, now: float) -> None:
        """Note that a client is shown a reading; ``now`` is in seconds of a monotonic clock."""
        if client in self._last or len(self._last) < _MOST:
            self._last[client] = now, reading

    def all_have_seen(self, reading: int, now: float) -> bool:
        """Return whether there are clients, and all of them were shown this reading or a later one.

        Clients that have not come back within ``patience`` seconds do not count.
        """
        self._last = {
            client: (when, last)
            for client, (when, last) in self._last.items()
            if now - when <= self._patience
        }
        return bool(self._last) and all(last >= reading for _, last in self._last.values())
