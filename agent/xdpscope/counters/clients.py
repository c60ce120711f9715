# SPDX-License-Identifier: Apache-2.0
"""Who reads the page, and what all of them have seen."""

from contextvars import ContextVar
from typing import Final

READER: Final[ContextVar[str]] = ContextVar("READER", default="")
"""Who reads the metrics that are collected now: address and program, as far as that tells."""

# A client beyond this number is not waited for: anybody can pretend to be many.
_MOST = 64


class Readers:
    """Remembers the last reading that was shown to each client.

    A counter that a scraper sees for the first time at 7 has grown by nothing, as far as it can
    tell. So a new series stays at 0 until every client that reads the page has seen it.
    """

    def __init__(self, patience: float) -> None:
        """Start with nobody.

        Args:
            patience: Seconds after which a client that does not come back is forgotten.
        """
        self._patience = patience
        self._last: dict[str, tuple[float, int]] = {}  # when, and which reading

    def shown(self, client: str, reading: int, now: float) -> None:
        """Note that ``client`` is shown a reading; ``now`` in seconds of a monotonic clock."""
        if client in self._last or len(self._last) < _MOST:
            self._last[client] = now, reading

    def all_have_seen(self, reading: int, now: float) -> bool:
        """Return whether there are clients, and all of them were shown this reading or a later one.

        Those who have not come back for a while do not count.
        """
        self._last = {
            client: (when, last)
            for client, (when, last) in self._last.items()
            if now - when <= self._patience
        }
        return bool(self._last) and all(last >= reading for _, last in self._last.values())
