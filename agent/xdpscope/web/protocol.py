# SPDX-License-Identifier: Apache-2.0
"""One connection: uvicorn's HTTP/1.1 protocol with the time-outs and bounds it has not."""

from __future__ import annotations

import logging
import sys
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio

    from xdpscope.web.limits import Limits

__all__ = ["Connection"]

# uvicorn warns of every malformed request, so that any client could fill the disk with our log.
_log = logging.getLogger(__name__)
_log.setLevel(logging.ERROR)


class Connection(H11Protocol):
    """uvicorn's protocol, held to `Limits`. The server calls `sweep` every so often.

    Bound to uvicorn's internals where it must be, which is why its version is pinned: ``cycle``,
    ``connections``, ``conn``, ``timeout_keep_alive_task`` and the order of their changes.
    """

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _log
        self._limits = limits
        self._head_due: float | None = None
        self._unsent = 0
        self._progress = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            transport.abort()
        self._head_due = self.loop.time() + self._limits.head_timeout

    def data_received(self, data: bytes) -> None:
        # h11 compares what it holds with its limit only when it wants more, so a head that comes in
        # one piece could be as large as the piece.
        step = self._limits.head_bytes // 4
        for at in range(0, len(data), step):
            if self.transport.is_closing():
                return
            super().data_received(data[at : at + step])
        self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._await_head()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._progress = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.IDLE:
            super().send_400_response(msg)
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
            self.transport.abort()
            return
        unsent = self.transport.get_write_buffer_size() + self._unacknowledged()
        if unsent == 0 or unsent != self._unsent:
            self._unsent, self._progress = unsent, now
        elif now - self._progress >= self._limits.stall_timeout:
            self.transport.abort()

    def _unacknowledged(self) -> int:
        """Bytes the kernel still holds for the client; SIOCOUTQ in tcp(7).

        The transport alone is no measure: the kernel asks for more only when a third of its buffer
        is free, and that is over a megabyte, minutes for a slow link.
        """
        descriptor = self.transport.get_extra_info("socket").fileno()
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
