# SPDX-License-Identifier: Apache-2.0
"""What one client, or all together, may take of the server."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Durations are in seconds, sizes in bytes. The defaults suit an agent with a few scrapers."""

    connections: int = 512
    """Open connections, TLS agreed on or not; one more is closed as soon as it is accepted."""
    in_flight: int = 64
    """Requests whose answer has not begun; one more gets a 503. Silence is not a request."""
    slow_readers: int = 64
    """Clients that are behind in taking an answer, and the memory it is in; of more than these, the
    one that has taken nothing for longest is dropped."""
    collections: int = 2
    """Collections at the same time; a scrape beyond them waits for its turn."""
    head_bytes: int = 16 * 1024
    """A request's line and headers, to within a quarter."""
    head_timeout: float = 10.0
    """From a connection's begin, or a request's first byte, to the end of the request's head; and
    for the TLS handshake."""
    keep_alive: int = 75
    """Silence between two requests."""
    stall_timeout: float = 30.0
    """How long a client may take not a byte of what is ready for it."""
    answer_timeout: float = 120.0
    """From an answer's first byte to its last, however steadily it is taken."""
    stop_grace: float = 0.15
    """How long requests in flight may take to finish once the server stops."""
