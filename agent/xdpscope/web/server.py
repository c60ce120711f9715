# SPDX-License-Identifier: Apache-2.0
"""The server: uvicorn inside the agent's own event loop, its signals left to the agent."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from xdpscope.errors import XdpscopeError
from xdpscope.web.limits import Limits
from xdpscope.web.policy import Policy
from xdpscope.web.protocol import Connection
from xdpscope.web.tls import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp

__all__ = ["WebServer"]

_BACKLOG = 128
_HINTS = {
    errno.EADDRINUSE: "another process listens there (ss -ltnp shows which); "
    "stop it, or choose another port with `listen`",
    errno.EADDRNOTAVAIL: "no interface of this host has that address (ip address shows them)",
    errno.EAFNOSUPPORT: "this host has IPv6 switched off; listen on an IPv4 address",
    errno.EACCES: "a port below 1024 needs CAP_NET_BIND_SERVICE; choose a higher one",
}


class WebServer:
    """Serves an application on a listening socket, from `serve` until `stop`."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        limits: Limits | None = None,
        policy: Callable[[], Policy] = Policy,
    ) -> None:
        """Keep ``policy``, which is called for each connection."""
        limits = limits or Limits()
        self._listener = listener
        tunnels: set[Tunnel] = set()
        connection = partial(Connection, limits=limits, policy=policy, behind={})

        def protocol(*args: Any, **kwargs: Any) -> asyncio.Protocol | asyncio.BufferedProtocol:
            made = connection(*args, **kwargs)
            context = policy().context
            return made if context is None else Tunnel(made, context, limits, tunnels)

        self._server = _Server(
            uvicorn.Config(
                cast("Any", app),
                # Called like the class that it replaces.
                http=cast("Any", protocol),
                ws="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                # Its notices of start and stop say less than the agent's own.
                log_level=logging.WARNING,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=limits.keep_alive,
                h11_max_incomplete_event_size=limits.head_bytes,
            ),
            limits,
            tunnels,
        )
        self._ended = asyncio.Event()
        self._ended.set()

    @staticmethod
    def bind(host: str, port: int) -> socket.socket:
        """Return a socket that listens already; clients wait in its queue until `serve`.

        An empty host, or ``::``, means every address, IPv4 and IPv6; port 0 a free one. Raises
        `XdpscopeError`, with a hint, if the port is taken, the address not ours, the name unknown.
        """
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if host in ("", "::") and socket.has_dualstack_ipv6():
                return socket.create_server(
                    ("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
                )
            found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)  # noqa: S104
            family, _, _, _, address = found[0]
            return socket.create_server(
                cast("tuple[str, int]", address), family=family, backlog=_BACKLOG
            )
        except socket.gaierror as error:
            raise XdpscopeError(
                f"cannot listen on {shown}: {error.strerror}",
                hint="the host of `listen` must be an address of this host, or a name for one",
            ) from error
        except OSError as error:
            raise XdpscopeError(
                f"cannot listen on {shown}: {os.strerror(error.errno or 0)}",
                hint=_HINTS.get(error.errno or 0),
            ) from error

    @property
    def port(self) -> int:
        """Return the port it listens on, also where a free one was asked for."""
        return cast("int", self._listener.getsockname()[1])

    async def serve(self) -> None:
        """Serve until `stop`, once; if cancelled, stop and raise CancelledError."""
        if self._server.should_exit:
            return
        self._ended.clear()
        try:
            await self._server.serve(sockets=[self._listener])
        except asyncio.CancelledError:
            if self._server.started:
                await self._server.shutdown()
            raise
        finally:
            self._listener.close()
            self._ended.set()

    async def stop(self) -> None:
        """Stop within some 300 ms, whatever clients do: requests get a moment to finish."""
        self._server.request_stop()
        await self._ended.wait()
        self._listener.close()


class _Server(uvicorn.Server):
    """uvicorn's server, but it stops in bounded time, and leaves signals alone."""

    def __init__(self, config: uvicorn.Config, limits: Limits, tunnels: set[Tunnel]) -> None:
        super().__init__(config)
        self._limits = limits
        self._tunnels = tunnels
        self._stop_requested = asyncio.Event()
        # Fine enough for a time-out to be late by a tenth of it.
        self._period = min(
            1.0, limits.head_timeout / 10, limits.stall_timeout / 10, limits.answer_timeout / 10
        )

    def request_stop(self) -> None:
        self.should_exit = True
        self._stop_requested.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.should_exit:
            await self.on_tick(0)  # refreshes the Date header
            for connection in self._connections():
                connection.sweep(loop.time())
            with suppress(TimeoutError):
                async with asyncio.timeout(self._period):
                    await self._stop_requested.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close idle connections, wait a little for the rest, then drop them."""
        for server in self.servers:
            server.close()
        for connection in self._connections():
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.stop_grace):
                while self.server_state.connections:
                    await asyncio.sleep(0.005)
        for connection in self._connections():
            connection.transport.abort()
        for tunnel in list(self._tunnels):
            tunnel.abort()
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _connections(self) -> list[Connection]:
        return cast("list[Connection]", list(self.server_state.connections))
