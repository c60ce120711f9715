# SPDX-License-Identifier: Apache-2.0
"""One connection: uvicorn's HTTP/1.1 protocol with the timeouts and bounds that it lacks."""

from __future__ import annotations

import logging
import sys
from fcntl import ioctl
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from xdpscope.web.headers import with_security

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from xdpscope.web.limits import Limits
    from xdpscope.web.policy import Policy

__all__ = ["Connection"]

# Bytes that a transport accepts before it pauses the writer.
_UNSENT = 64 * 1024
# Linger, for no time at all: socket(7).
_RESET = pack("ii", 1, 0)
# uvicorn warns of every malformed request, so that any client could fill the disk with our log.
_log = logging.getLogger(__name__)
_log.setLevel(logging.ERROR)


class Connection(H11Protocol):
    """uvicorn's protocol, held to `Limits`. The server calls `sweep` every so often.

    Bound to uvicorn's internals where it must be, which is why its version is pinned: ``cycle``,
    ``connections``, ``conn``, ``timeout_keep_alive_task`` and the order of their changes.
    """

    def __init__(
        self,
        *args: Any,
        limits: Limits,
        policy: Callable[[], Policy],
        behind: dict[Connection, None],
        **kwargs: Any,
    ) -> None:
        """Create the protocol; ``behind`` has all connections whose clients read slowly."""
        super().__init__(*args, **kwargs)
        self.logger = _log
        self._limits = limits
        self._policy = policy
        self._behind = behind
        self._head_due: float | None = None
        self._unsent = 0
        self._progress = 0.0
        self._taking: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Kept, for a transport of TLS forgets it before it tells that the connection is lost.
        self._socket = transport.get_extra_info("socket")
        # TLS would accept eight times as much before it pauses the writer.
        transport.set_write_buffer_limits(high=_UNSENT)
        if len(self.connections) > self._limits.connections or not self._policy().admits(
            transport.get_extra_info("peercert")
        ):
            transport.abort()
        self._head_due = self.loop.time() + self._limits.head_timeout

    def connection_lost(self, exc: Exception | None) -> None:
        self._behind.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # h11 compares its buffer with the limit only when it needs more data. A head that arrives
        # in one piece could be as large as the piece.
        step = self._limits.head_bytes // 4
        for at in range(0, len(data), step):
            if self.transport.is_closing():
                return
            super().data_received(data[at : at + step])
        self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._taking = None
        self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._behind[self] = None
        if len(self._behind) > self._limits.slow_readers:
            next(iter(self._behind)).drop()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._behind.pop(self, None)
        self._progress = self.loop.time()

    def drop(self) -> None:
        """End the connection now, and make the kernel discard the data that it holds for the
        client.
        """
        self._behind.pop(self, None)
        if self._socket.fileno() >= 0:
            self._socket.setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.IDLE:
            headers = [
                *with_security(self._policy().headers),
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"connection", b"close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=msg.encode("ascii")),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
            return
        # The body of a request under way is malformed: its answer may have begun, so a second one
        # cannot be sent.
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.abort()

    def shutdown(self) -> None:
        if self._busy():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Drop the connection if its client is too slow; ``now`` is the loop's time."""
        if self._head_due is not None and now >= self._head_due:
            self.drop()
            return
        self._sweep_answer(now)
        unsent = self.transport.get_write_buffer_size() + self._unacknowledged()
        if unsent == 0 or unsent != self._unsent:
            self._unsent, self._progress = unsent, now
        elif now - self._progress >= self._limits.stall_timeout:
            self.drop()

    def _sweep_answer(self, now: float) -> None:
        if not self._busy() or not self.cycle.response_started:
            self._taking = None
        elif self._taking is None:
            self._taking = now
        elif now - self._taking >= self._limits.answer_timeout:
            self.drop()

    def _unacknowledged(self) -> int:
        """Return the bytes that the kernel still holds for the client; SIOCOUTQ in tcp(7).

        The transport alone is no measure. The kernel accepts more only when a third of its buffer
        is free. That is over a megabyte, which takes minutes on a slow link.
        """
        descriptor = self._socket.fileno()
        if descriptor < 0:
            return 0
        return int.from_bytes(ioctl(descriptor, TIOCOUTQ, bytes(4)), sys.byteorder)

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        """Set the time by which the next head is due, once a client has begun to send one.

        Bytes that follow do not move it, or a byte every nine seconds would hold a connection.
        """
        between = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        idle = between and self.timeout_keep_alive_task is not None
        if self._busy() or idle or self.transport.is_closing():
            self._head_due = None
        elif self._head_due is None:
            self._head_due = self.loop.time() + self._limits.head_timeout
