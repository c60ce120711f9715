# SPDX-License-Identifier: Apache-2.0
"""The outermost middleware: the bound on requests in flight, security headers, errors."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

_log = structlog.stdlib.get_logger(__name__)


class Guard:
    """ASGI middleware around an application that serves HTTP alone.

    It never refuses paths in ``exempt``. If a crowd of clients made a liveness probe fail, the
    crowd could end the agent. A request is in flight until its answer begins. The connection
    limits clients that read slowly; they must not keep others out.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        in_flight: int,
        exempt: frozenset[str],
        headers: Callable[[], Iterable[tuple[bytes, bytes]]],
    ) -> None:
        self._app = app
        self._limit = in_flight
        self._exempt = exempt
        self._headers = headers
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                if not started:
                    self._in_flight -= 1
                started = True
                message["headers"] = [*message["headers"], *self._headers()]
            await send(message)

        app = self._app
        if self._in_flight >= self._limit and scope["path"] not in self._exempt:
            app = PlainTextResponse(
                "too many requests in flight\n", 503, {"retry-after": "1", "connection": "close"}
            )
        self._in_flight += 1
        try:
            await app(scope, receive, send_with_headers)
        except (ClientDisconnect, asyncio.CancelledError):
            # No client waits for the answer. Only the server's stop cancels, after it has closed
            # the connection. uvicorn would log that as the application's failure.
            return
        except Exception:
            if started:
                raise
            _log.exception("request failed", method=scope["method"], path=scope["path"])
            response = PlainTextResponse("internal error, see the agent's log\n", 500)
            await response(scope, receive, send_with_headers)
        finally:
            if not started:
                self._in_flight -= 1
