# SPDX-License-Identifier: Apache-2.0
"""Run the scan thread, and limit how often it scans a host that changes all the time."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import structlog

from xdpscope.attach.engine import Engine
from xdpscope.attach.pins import PinPath
from xdpscope.attach.reason import Selection
from xdpscope.config import Config
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.namespaces import NamespaceSource
from xdpscope.errors import KernelError, NotPermittedError
from xdpscope.kernel import capabilities
from xdpscope.observer import Observer
from xdpscope.probes import REGISTRY, RunningProbes, Scan
from xdpscope.probes.flows import flow_sizes
from xdpscope.scans import ScanRecord

_log = structlog.get_logger(__name__)

# The retention in seconds. Every scraper with an interval of up to a minute reads the last counts.
# The number of scans is a second limit, because a scan does not find a device while it moves.
_RETENTION = 65.0
_RETENTION_SCANS = 2
# Seconds after which a scan leaves the flows of further programs to the next scan.
_FOLLOW_UP = 0.25

# If a host changes all the time, the programs that change it need the CPU.
_SHARE = 0.1
"""The largest share of the time that scans take in the long term."""
_CREDIT = 2.0
"""Seconds of scans that may exceed their share of the time."""
_PROMPT = 0.5
"""The longest wait in seconds while there is credit."""
_LONGEST = 5.0
"""The longest wait in seconds in any case."""


class ScanLimiter:
    """Allow scans in quick succession, also on a slow machine, but only for a limited time."""

    def __init__(self) -> None:
        self._owed = 0.0  # seconds of scans, minus their share of the time since then
        self._at = 0.0

    def rest(self, took: float, now: float, interval: float) -> float:
        """Return how long to wait after a scan.

        Args:
            took: Seconds that the scan took.
            now: When it ended, in seconds of a monotonic clock.
            interval: Seconds after which the next scan is due in any case.

        Returns:
            Seconds, at most ``interval``.
        """
        longest = min(interval, _LONGEST)
        owed = max(0.0, self._owed - _SHARE * (now - self._at)) + took
        # The longest wait pays back a part of it. The limiter forgets the rest.
        self._owed = min(owed, _CREDIT + _SHARE * longest)
        self._at = now
        prompt = min((1 / _SHARE - 1) * took, _PROMPT)
        return min(max(prompt, (self._owed - _CREDIT) / _SHARE), longest)


class ScanThread(threading.Thread):
    """Scan the host in a thread, at intervals and on request."""

    def __init__(self, config: Config) -> None:
        super().__init__(name="scan", daemon=True)
        self.config = config
        self.observer: Observer | None = None
        self.failure: Exception | None = None
        self.scans = ScanRecord()
        self.started: Callable[[Observer], None] | None = None  # called after the first scan
        self.probes = RunningProbes(make() for make in REGISTRY)
        self._wake = threading.Event()
        self._hurry = threading.Event()  # ends the wait between two scans
        self._stopping = threading.Event()

    def run(self) -> None:
        """Load, scan until stopped, then release everything except pinned state."""
        try:
            with ExitStack() as stack:
                config = self.config
                path = config.state.pin_path
                pins = stack.enter_context(PinPath.open(path)) if path else None
                engine = stack.enter_context(Engine(flow_sizes(config.flows), pins=pins))
                namespaces = NamespaceSource(everywhere=_everywhere(config))
                inventory = stack.enter_context(Inventory(namespaces))
                self.probes.reconfigure(config)
                observer = stack.enter_context(
                    Observer(engine, inventory, _selection(config), self.probes, self.scan_soon)
                )
                self.observer = observer
                stack.enter_context(self.probes)
                if not engine.watches_devices:
                    why = {"error": engine.hook_failure} if engine.hook_failure else {}
                    _log.warning("devices cannot be watched: tracing costs a little more", **why)
                limiter = ScanLimiter()
                while not self._stopping.is_set():
                    if config is not self.config:
                        config = self.config
                        observer.reconfigure(_selection(config), everywhere=_everywhere(config))
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
                finally:  # after an error, the part that could not be read has its last state
                    self.probes.update(Scan(observer.snapshot, observer))
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
        """Use another configuration from the next scan on, and request that scan now.

        The caller serves requests. This call therefore does not wait, because a scan may hang.
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
