# SPDX-License-Identifier: Apache-2.0
"""The agent: which parts start and stop, in which order, and on which signal.

The event loop serves requests and receives signals. A thread of its own scans the host: its system
calls block, for seconds when hundreds of programs appear together.
"""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import structlog

from xdpscope import __version__, log
from xdpscope.config import Config, Listen, needing_restart, warnings
from xdpscope.discovery.events import LinkEvents
from xdpscope.errors import ConfigError
from xdpscope.kernel import machine
from xdpscope.observer import Observer
from xdpscope.scanner import ScanThread
from xdpscope.scans import HangDetector
from xdpscope.source import AgentSource
from xdpscope.web.app import create_app
from xdpscope.web.policy import policy_source
from xdpscope.web.server import WebServer

_log = structlog.get_logger(__name__)

# Changes come in bursts: an attachment alone makes several messages.
_SETTLING = 0.05
# The time for closing after a signal. The kernel closes the rest with the process.
_CLOSING = 0.5


class Agent:
    """Everything ``xdpscope run`` runs."""

    def __init__(
        self, config: Config, read: Callable[[], Config], file: Path | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            config: What to begin with.
            read: Returns the configuration of this moment, for a reload. Raises `ConfigError`.
            file: What ``config`` was read from, for errors of the file that its key names.
        """
        self._file = file
        self._read = read
        self._config = config
        self._scan_thread = ScanThread(config)

    async def run(self) -> None:
        """Run until a signal ends it.

        Raises:
            XdpscopeError: it could not start; nothing new is left attached.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

        policy = policy_source(self._config.web_config, self._file)
        listener = WebServer.bind(self._config.listen.host, self._config.listen.port)
        with listener, LinkEvents() as events:
            loop.add_reader(events, self._changed, events)
            app = create_app(
                AgentSource(self._scan_thread, self._scan_thread.probes), policy=policy
            )
            server = WebServer(app, listener, policy=policy)
            serving = asyncio.create_task(server.serve())
            host, port = listener.getsockname()[:2]
            where = {
                "version": __version__,
                "listen": str(Listen(host, port)),
                "scheme": "https" if policy().context else "http",
            }
            _log.info("listening", **where)
            self._scan_thread.started = partial(_log_started, where)
            self._scan_thread.start()
            hangs = HangDetector(self._scan_thread.scans)
            hangs.start()
            _warn_of(self._config)
            if policy().open and not ip_address(host.partition("%")[0]).is_loopback:
                _log.warning(
                    "everyone in reach of the address can read what is served: "
                    "there is neither TLS nor basic authentication, see web_config",
                    listen=str(Listen(host, port)),
                )
            ended = asyncio.create_task(asyncio.to_thread(self._scan_thread.join))
            waiting = asyncio.create_task(stop.wait())
            await asyncio.wait({ended, waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
            loop.remove_reader(events)
            _log.info("stopping")
            hangs.stop()
            self._scan_thread.stop()
            await server.stop()
            waiting.cancel()
            await asyncio.wait({ended, serving}, timeout=_CLOSING)
        if self._scan_thread.failure is not None:
            raise self._scan_thread.failure
        if self._scan_thread.is_alive():
            # The thread is in a system call. It releases the rest, as at any exit.
            sys.stderr.flush()
            os._exit(0)

    def _changed(self, events: LinkEvents) -> None:
        events.drain()
        asyncio.get_running_loop().call_later(_SETTLING, self._scan_thread.scan_soon)

    def _reload(self) -> None:
        try:
            config = self._read()
        except ConfigError as error:
            _log.error("configuration not reloaded", error=str(error))
            return
        for key in needing_restart(self._config, config):
            _log.warning("takes effect after a restart", key=key)
        log.set_level(config.log.level)
        _warn_of(config)
        self._scan_thread.reconfigure(config)
        _log.info("configuration reloaded")


def _log_started(where: Mapping[str, str], observer: Observer) -> None:
    statuses = observer.statuses()
    traced = sum(status.reason is None for status in statuses)
    _log.info("started", **where, programs=len(statuses), traced=traced)


def _warn_of(config: Config) -> None:
    for key, problem in warnings(config):
        _log.warning("configuration is suspicious", key=key, problem=problem)


def run(config: Config, read: Callable[[], Config], file: Path | None) -> None:
    """Run the agent in the foreground; the arguments are those of `Agent`.

    Raises:
        XdpscopeError: it could not start, or cannot go on.
    """
    machine.require_supported()
    _allow_descriptors()
    asyncio.run(Agent(config, read, file).run())


def _allow_descriptors() -> None:
    """Take as many descriptors as we may have: a target needs up to five.

    Hosts give 1,024 to begin with, for the sake of select(2), which nothing here uses.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
