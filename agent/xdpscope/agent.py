# SPDX-License-Identifier: Apache-2.0
"""Start and stop the parts of the agent, in a defined order, and handle signals.

The event loop serves requests and receives signals. A separate thread scans the host, because its
system calls block. When hundreds of programs appear together, they block for seconds.
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
from xdpscope.kernel.malloc import return_freed_memory
from xdpscope.observer import Observer
from xdpscope.scanner import ScanThread
from xdpscope.scans import HangDetector
from xdpscope.source import AgentSource
from xdpscope.web.app import create_app
from xdpscope.web.policy import policy_source
from xdpscope.web.server import WebServer

_log = structlog.get_logger(__name__)

# Changes come in bursts: a single attachment causes several messages.
_SETTLING = 0.05
# Seconds for closing after a signal. The kernel releases the rest when the process ends.
_CLOSING = 0.5


class Agent:
    """Own all parts of ``xdpscope run``."""

    def __init__(
        self, config: Config, read: Callable[[], Config], file: Path | None = None
    ) -> None:
        """Create an agent. It starts nothing until ``run``.

        Args:
            config: The first configuration.
            read: Returns the current configuration, for a reload. Raises `ConfigError`.
            file: The file of ``config``. Errors in the file that ``web_config`` names refer to it.
        """
        self._file = file
        self._read = read
        self._config = config
        self._scan_thread = ScanThread(config)

    async def run(self) -> None:
        """Run until a signal ends the agent.

        Raises:
            XdpscopeError: the agent could not start. Nothing new stays attached.
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
            app = create_app(AgentSource(self._scan_thread), policy=policy)
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
            # The thread is in a system call. The kernel releases the rest, as at any exit.
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
    """Run the agent in the foreground. The arguments are those of `Agent`.

    Raises:
        XdpscopeError: the agent could not start, or cannot continue.
    """
    machine.require_supported()
    _allow_descriptors()
    return_freed_memory()
    asyncio.run(Agent(config, read, file).run())


def _allow_descriptors() -> None:
    """Raise the limit of open descriptors to its maximum. A target needs up to five.

    The usual limit of 1,024 exists for select(2). The agent does not use that.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
