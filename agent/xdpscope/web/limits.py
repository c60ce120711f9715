# SPDX-License-Identifier: Apache-2.0
"""What one client, or all together, may take of the server."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Durations are in seconds, sizes in bytes. The defaults suit an agent with a few scrapers."""

    connections: int = 512
    """Open connections; one more is closed as soon as it is accepted."""
    in_flight: int = 64
    """Requests not yet answered to the last byte; one more gets a 503. Silence is not a request."""
    collections: int = 2
    """Collections at the same time; a scrape beyond them waits for its turn."""
    head_bytes: int = 16 * 1024
    """A request's line and headers, to within a quarter."""
    head_timeout: float = 10.0
    """From a connection's begin, or a request's first byte, to the end of the request's head."""
    keep_alive: int = 75
    """Silence between two requests."""
    stall_timeout: float = 30.0
    """How long a client may take not a byte of what is ready for it."""
    stop_grace: float = 0.15
    """How long requests in flight may take to finish once the server stops."""
