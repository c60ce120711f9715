# SPDX-License-Identifier: Apache-2.0
"""The limits of the server, for one client and for all together."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Durations are in seconds, sizes in bytes. The defaults suit an agent with a few scrapers."""

    connections: int = 512
    """Open connections, TLS agreed on or not; one more is closed as soon as it is accepted."""
    in_flight: int = 64
    """Requests whose answer has not begun; another one gets a 503. A silent client is no
    request.
    """
    slow_readers: int = 64
    """Clients that read their answers slowly, whose memory this bounds. If there are more, the
    server drops the client that has read nothing for longest.
    """
    collections: int = 2
    """Collections at the same time; a scrape beyond them waits for its turn."""
    head_bytes: int = 16 * 1024
    """A request's line and headers, to within a quarter."""
    head_timeout: float = 10.0
    """The time from the start of a connection, or the first byte of a request, to the end of the
    request's head. It also bounds the TLS handshake.
    """
    keep_alive: int = 75
    """Silence between two requests."""
    stall_timeout: float = 30.0
    """The time in which a client must read at least one byte that is ready for it."""
    answer_timeout: float = 120.0
    """The time from an answer's first byte to its last, at any reading speed."""
    stop_grace: float = 0.15
    """The time in which requests in flight must finish once the server stops."""
