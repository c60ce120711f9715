# SPDX-License-Identifier: Apache-2.0
"""The agent: which parts start and stop, in which order, and on which signal.

The event loop serves requests and receives signals. A thread of its own scans the host: its system
calls block, for seconds when hundreds of programs appear together.
"""

import asyncio
import os
import platform
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector

from xdpscope import __version__, log
from xdpscope.attach.engine import Engine
from xdpscope.attach.pins import PinPath
from xdpscope.attach.reason import Reason, Selection
from xdpscope.attach.templates import FlowSizes
from xdpscope.config import Config, Flows, Listen, needing_restart, warnings
from xdpscope.counters.clients import READER
from xdpscope.counters.flow_query import FlowQuery
from xdpscope.describe import as_json, count_as_json, cpus_as_json, flows_as_json
from xdpscope.discovery.events import LinkEvents
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.namespaces import NamespaceSource
from xdpscope.errors import ConfigError, KernelError, NotPermittedError, ObserverBusyError
from xdpscope.kernel import capabilities, machine
from xdpscope.libbpf import possible_cpus
from xdpscope.metrics import (
    SCRAPE_BEGAN,
    AgentCollector,
    FlowCollector,
    IsolatedCollectors,
    ProgramCollector,
    ScanCollector,
    VerdictCollector,
)
from xdpscope.observer import Count, FlowReport, FlowsFound, Observer, ProgramStatus
from xdpscope.probes import REGISTRY, RunningProbes, Scan
from xdpscope.probes.events import EventsProbe
from xdpscope.probes.events.report import as_json as event_as_json
from xdpscope.probes.sockets import SocketsProbe
from xdpscope.probes.sockets.report import as_json as socket_as_json
from xdpscope.scan_limiter import ScanLimiter
from xdpscope.scans import HangDetector, ScanRecord, ScanStatus
from xdpscope.web.app import create_app
from xdpscope.web.policy import policy_source
from xdpscope.web.server import WebServer

_log = structlog.get_logger(__name__)

# Changes come in bursts: an attachment alone makes several messages.
_SETTLING = 0.05
# Retention in seconds: every scraper with an interval of up to a minute reads the last counts. The
# number of scans is a second limit, because a device is missing from one while it moves.
_RETENTION = 65.0
_RETENTION_SCANS = 2
# Seconds after which a scan leaves the flows of further programs to the next one.
_FOLLOW_UP = 0.25
# The time for closing after a signal. The kernel closes the rest with the process.
_CLOSING = 0.5


class ScanThread(threading.Thread):
    """The thread that scans the host, at intervals and on request."""

    def __init__(self, config: Config) -> None:
        super().__init__(name="watch", daemon=True)
        self.config = config
        self.observer: Observer | None = None
        self.failure: Exception | None = None
        self.scans = ScanRecord()
        self.started: Callable[[Observer], None] | None = None  # called after the first scan
        self.probes = RunningProbes(make() for make in REGISTRY)
        self._wake = threading.Event()
        self._hurry = threading.Event()  # ends a rest
        self._stopping = threading.Event()

    def run(self) -> None:
        """Load, scan until stopped, then release everything except pinned state."""
        try:
            with ExitStack() as stack:
                config = self.config
                flows = config.flows
                path = config.state.pin_path
                pins = stack.enter_context(PinPath.open(path)) if path else None
                sizes = _sizes(flows) if flows.enabled else None
                engine = stack.enter_context(Engine(sizes, pins=pins))
                namespaces = NamespaceSource(everywhere=_everywhere(config))
                inventory = stack.enter_context(Inventory(namespaces))
                observer = stack.enter_context(
                    Observer(engine, inventory, _selection(config), flows)
                )
                self.observer = observer
                stack.enter_context(self.probes)
                self.probes.reconfigure(config)
                if not engine.watches_devices:
                    why = {"error": engine.hook_failure} if engine.hook_failure else {}
                    _log.warning("devices cannot be watched: tracing costs a little more", **why)
                limiter = ScanLimiter()
                while not self._stopping.is_set():
                    if config is not self.config:
                        config = self.config
                        observer.reconfigure(
                            _selection(config), config.flows, everywhere=_everywhere(config)
                        )
                        self.probes.reconfigure(config)
                    began = time.monotonic()
                    self._scan(observer)
                    if observer.scanned and self.started is not None:
                        self.started(observer)
                        self.started = None
                    if observer.unfinished:
                        continue  # a scan finds new objects in between
                    now, interval = time.monotonic(), self.config.discovery.interval
                    rest = limiter.rest(now - began, now, interval)
                    self._hurry.wait(rest)
                    if not observer.postponed:
                        self._wake.wait(interval - rest)
                    self._hurry.clear()
                    self._wake.clear()
                self.observer = None
        except Exception as error:  # noqa: BLE001 - raised again by Agent.run
            self.failure = error

    def _scan(self, observer: Observer) -> None:
        retention = max(_RETENTION, _RETENTION_SCANS * self.config.discovery.interval)
        try:
            with self.scans.scan():
                try:
                    observer.scan(retention, _FOLLOW_UP)
                finally:  # what could not be read is as it was; all else is new
                    self.probes.update(Scan(observer.snapshot))
        except Exception as error:
            if isinstance(error, NotPermittedError) and not capabilities.may_open_programs():
                raise
            if not observer.scanned and not isinstance(error, KernelError | OSError):
                raise
            # Traced programs stay traced. The reason may have passed by the next scan.
            _log.exception("scan failed, scanning again later")

    def scan_soon(self) -> None:
        """Request a scan after the current wait."""
        self._wake.set()

    def reconfigure(self, config: Config) -> None:
        """Use another configuration from the next scan on, which starts now.

        The caller serves requests, and must not wait for a scan that hangs.
        """
        self.config = config
        self._hurry.set()
        self._wake.set()

    def stop(self) -> None:
        """End the thread soon."""
        self._stopping.set()
        if self.observer is not None:
            self.observer.interrupt()
        self._hurry.set()
        self._wake.set()


def _everywhere(config: Config) -> bool:
    return config.discovery.netns == "all"


def _selection(config: Config) -> Selection:
    return Selection(config.programs, config.interfaces, config.programs.arm)


def _sizes(flows: Flows) -> FlowSizes:
    return FlowSizes.for_entries(
        flows.max_entries, flows.sample_rate, machine.cpus_to_serve(), possible_cpus()
    )


class AgentSource:
    """The source of the web application; empty until the thread has loaded the BPF programs."""

    def __init__(self, scan_thread: ScanThread, probes: RunningProbes | None = None) -> None:
        self._scan_thread = scan_thread
        self._sockets = probes.find(SocketsProbe) if probes else None
        self._events = probes.find(EventsProbe) if probes else None
        self.registry = CollectorRegistry()
        collectors = IsolatedCollectors(
            {
                "verdicts": VerdictCollector(self._counts),
                "flows": FlowCollector(self._flow_report),
                "programs": ProgramCollector(self._statuses, self._expects),
                "agent": AgentCollector(self._attach_failures, self._watches_devices),
                "scans": ScanCollector(self._scans),
                "process": ProcessCollector(registry=None),
                **(probes.collectors() if probes else {}),
            }
        )
        self.registry.register(collectors)

    def ready(self) -> bool:
        """Return whether the first discovery has finished."""
        observer = self._scan_thread.observer
        return observer is not None and observer.scanned

    def problem(self) -> str | None:
        """Return why the agent is not healthy; None if it is."""
        scans = self._scans()
        return f"last successful scan: {scans}" if scans.overdue else None

    def programs(self, cpus: bool = False) -> list[dict[str, object]]:
        """Return every program, as ``xdpscope list --json`` prints it, with its counts by
        location.

        With ``cpus``, also the counts of each CPU.
        """
        observer = self._scan_thread.observer
        if observer is None:
            return []
        of_cpus = observer.cpu_counts() if cpus else None
        counts: dict[int, list[dict[str, object]]] = {}
        for count in observer.counts():
            shown = count_as_json(count)
            if of_cpus is not None:
                found = of_cpus.get((count.program.id, count.location))
                shown["cpus"] = [] if found is None else cpus_as_json(found)
            counts.setdefault(count.program.id, []).append(shown)
        return [
            as_json(status) | {"counts": counts.get(status.program.id, [])}
            for status in observer.statuses()
        ]

    def flows(self, query: FlowQuery) -> dict[str, object]:
        """Return the flows in the table, as ``/api/v1/flows`` shows them."""
        observer = self._scan_thread.observer
        if observer is None:
            return flows_as_json(FlowsFound(enabled=self._scan_thread.config.flows.enabled))
        return flows_as_json(observer.held_flows(query))

    def sockets(self) -> list[dict[str, object]]:
        """AF_XDP sockets that are open, as ``xdpscope list --json`` prints them."""
        return [socket_as_json(each) for each in self._sockets.sockets()] if self._sockets else []

    def events(self, limit: int, since: float | None) -> list[dict[str, object]]:
        """The newest changes of programs, as ``/api/v1/events`` shows them."""
        found = self._events.events(limit, since) if self._events else ()
        return [event_as_json(each) for each in found]

    def status(self) -> dict[str, object]:
        """Return the facts at the top of the page."""
        observer = self._scan_thread.observer
        try:
            statuses = self._statuses()
        except ObserverBusyError:
            traced = missed = "not to be read now"
        else:
            traced = f"{sum(s.reason is None for s in statuses)} of {len(statuses)}"
            missed = f"{sum(status.missed for status in statuses):,}"
        held = observer.flows_held if observer is not None else None
        return {
            "Ready": self.ready(),
            "Last scan": str(self._scans()),
            "Programs traced": traced,
            "Packets missed": missed,
            "Failed attachments": f"{sum(self._attach_failures().values()):,}",
            "Flows held": "off" if held is None else f"{held:,}",
            "Host": platform.node(),
            "Kernel": platform.release(),
            "Agent": __version__,
        }

    def _scans(self) -> ScanStatus:
        return self._scan_thread.scans.status(self._scan_thread.config.discovery.interval)

    def _counts(self) -> Sequence[Count]:
        observer = self._scan_thread.observer
        return observer.counts(SCRAPE_BEGAN.get()) if observer is not None else ()

    def _flow_report(self) -> FlowReport | None:
        observer = self._scan_thread.observer
        if observer is None:
            return None
        return observer.flow_counts(READER.get(), SCRAPE_BEGAN.get())

    def _statuses(self) -> Sequence[ProgramStatus]:
        observer = self._scan_thread.observer
        return observer.statuses() if observer is not None else ()

    def _expects(self, *names: str) -> bool | None:
        return self._scan_thread.config.programs.expects(*names)

    def _watches_devices(self) -> bool | None:
        observer = self._scan_thread.observer
        return observer.watches_devices if observer is not None else None

    def _attach_failures(self) -> Mapping[Reason, int]:
        observer = self._scan_thread.observer
        return observer.attach_failures() if observer is not None else {}


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
