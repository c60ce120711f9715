# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets: who has them open, and the packets that they drop.

Each scan reads them over sock_diag(7); a scrape only shows the last result. The kernel counts the
drops in any case, so this costs nothing per packet.
"""

import threading
import time
from collections.abc import Iterable
from errno import ENOENT

import structlog
from prometheus_client.core import Metric

from xdpscope.counters.clients import PATIENCE, READER, Readers
from xdpscope.counters.retention import Retention
from xdpscope.discovery.retry import Retries
from xdpscope.errors import KernelError
from xdpscope.kernel.xdp_diag import REASONS, has_xdp_sockets
from xdpscope.probes.probe import Probe, Scan
from xdpscope.probes.sockets.metrics import families
from xdpscope.probes.sockets.report import XdpSocket, by_location
from xdpscope.probes.sockets.source import SocketSource

__all__ = ["SOCKETS_LIMIT", "SocketsProbe"]

_log = structlog.get_logger(__name__)

SOCKETS_LIMIT = 1024
"""Sockets that are reported, at most. Each has seven series."""

RETENTION = 65.0
"""Seconds for which the last counts of a closed socket stay: every scraper with an interval of up
to a minute reads them."""

_NO_DROPS = (0,) * len(REASONS)
_DIAG = 0  # the one thing whose failures are noted here


class SocketsProbe(Probe):
    """Reports AF_XDP sockets of all network namespaces.

    The drops of a socket that appears while the agent runs start at 0, until every scraper has seen
    the 0: `increase()` then misses nothing. A socket that is older than the agent shows its whole
    count at once.
    """

    name = "sockets"
    section = "outcomes"

    def __init__(self, source: SocketSource | None = None, retention: float = RETENTION) -> None:
        """Report nothing yet.

        Args:
            source: Reads the sockets.
            retention: Seconds for which a closed socket keeps its series.
        """
        self._source = source or SocketSource()
        self._retention = retention
        self._enabled = True
        self._retries = Retries()
        self._lock = threading.Lock()  # for everything below
        self._reading = 0
        self._first = True  # the next reading has sockets that are older than the agent
        self._readers = Readers(PATIENCE)
        # By cookie, open and recently closed; and at which reading each appeared, until seen.
        self._sockets: dict[int, XdpSocket] = {}
        self._new: dict[int, int] = {}
        self._closed: Retention[int] = Retention(SOCKETS_LIMIT)
        self._omitted = False

    def update(self, scan: Scan) -> None:
        """Read all sockets."""
        if not self._enabled or (self._retries and not self._retries.due):
            return
        try:
            found = self._source.read(scan.snapshot)
        except KernelError as error:
            self._failed(error)
            return
        self._retries.succeeded(_DIAG)
        with self._lock:
            self._merge(found, time.monotonic())

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of the last update."""
        client, now = READER.get(), time.monotonic()
        with self._lock:
            for cookie, since in list(self._new.items()):
                if self._readers.all_have_seen(since, now):
                    del self._new[cookie]
            if client:
                self._readers.shown(client, self._reading, now)
            open_now = self._open()
            # By label values: a new socket may have the inode number of a closed one.
            counts = {
                (each.inode, each.netns, each.interface, each.queue): (
                    each,
                    _NO_DROPS if each.cookie in self._new else each.drops,
                )
                for each in (*self._sockets.values(), *open_now)
            }
        return families(open_now, counts.values())

    def sockets(self) -> list[XdpSocket]:
        """Return the sockets that are open, by namespace, interface and queue."""
        with self._lock:
            return sorted(self._open(), key=by_location)

    def reconfigure(self, section: object) -> None:
        """Read sockets, or not, as ``outcomes.enabled`` says."""
        self._enabled = bool(getattr(section, "enabled", True))
        if not self._enabled:
            with self._lock:
                self._sockets, self._new, self._first = {}, {}, True
                self._closed = Retention(SOCKETS_LIMIT)

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def _open(self) -> list[XdpSocket]:
        return [each for cookie, each in self._sockets.items() if cookie not in self._closed]

    def _merge(self, found: list[XdpSocket], now: float) -> None:
        """Adopt what was read, known sockets first: a series must not come and go."""
        first, self._first = self._first, False
        self._reading += 1
        found.sort(key=lambda each: (each.cookie not in self._sockets, each.inode))
        self._log_omitted(len(found) - SOCKETS_LIMIT)
        here = {each.cookie: each for each in found[:SOCKETS_LIMIT]}
        for cookie in self._sockets:
            if cookie in here:
                self._closed.back(cookie)
            else:
                self._closed.gone(cookie, now)
        for cookie in self._closed.over(now, self._retention):
            self._sockets.pop(cookie, None)
            self._new.pop(cookie, None)
        for cookie, each in here.items():
            if cookie not in self._sockets and not first:
                self._new[cookie] = self._reading
            self._sockets[cookie] = each

    def _failed(self, error: KernelError) -> None:
        if not self._retries.failed(_DIAG, error) or not has_xdp_sockets():
            return
        if error.errno == ENOENT:
            # Nothing is wrong: many distributions build kernels without it, such as Debian 12.
            _log.info(
                "AF_XDP sockets are not reported: this kernel does not list them",
                hint="if it has the module xsk_diag, load it: modprobe xsk_diag",
            )
            return
        _log.warning("cannot read AF_XDP sockets: they have no series", error=error.summary)

    def _log_omitted(self, omitted: int) -> None:
        if omitted > 0 and not self._omitted:
            _log.warning("too many AF_XDP sockets: the newest have no series", omitted=omitted)
        self._omitted = omitted > 0
