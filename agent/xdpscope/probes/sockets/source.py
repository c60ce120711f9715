# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets of every network namespace, read in one scan."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from errno import ENOENT, ESRCH, ESTALE

import structlog

from xdpscope.discovery.model import Snapshot
from xdpscope.errors import KernelError
from xdpscope.kernel import netns
from xdpscope.kernel.xdp_diag import DiagSocket, read_sockets
from xdpscope.probes.sockets.owners import SocketOwners
from xdpscope.probes.sockets.report import XdpSocket

_log = structlog.get_logger(__name__)

# Errors of opening or entering a namespace that is gone, or whose process is.
_GONE = (ENOENT, ESRCH, ESTALE)


class SocketSource:
    """Reads the sockets of the namespaces that a snapshot has.

    A thread made for one reading goes from namespace to namespace and ends with the reading. The
    ways into namespaces are remembered: reading them again takes the longest, and a way that leads
    elsewhere by now is noticed.
    """

    def __init__(self, read: Callable[[], list[DiagSocket]] = read_sockets) -> None:
        """Read nothing yet.

        Args:
            read: Reads the sockets of the calling thread's namespace.
        """
        self._read = read
        self._own = netns.own_inode()
        self._ways: Mapping[int, Sequence[str]] = {}
        self._series_index = SocketOwners()
        self._logged: set[int] = set()  # namespaces whose errors are logged

    def read(self, snapshot: Snapshot) -> list[XdpSocket]:
        """Return the bound sockets of all namespaces in a snapshot.

        A namespace that cannot be read is left out, and logged once.

        Raises:
            KernelError: the agent's own namespace cannot be read.
            OSError: the same.
        """
        serials = {inode: serial for serial, (inode, _) in snapshot.namespaces.items()}
        found: list[tuple[int, DiagSocket]] = []  # inode of the namespace, socket
        if self._own in serials:
            found += [(self._own, each) for each in self._read()]
        others = [inode for inode in serials if inode != self._own]
        if others:
            with ThreadPoolExecutor(1, "sockets") as thread:
                found += thread.submit(lambda: list(self._visit(others))).result()
        self._logged.intersection_update(others)
        bound = [
            (location, each)
            for inode, each in found
            if (location := snapshot.interfaces.get((serials[inode], each.ifindex)))
        ]
        series_index = self._series_index.of([each.inode for _, each in bound])
        return [
            XdpSocket(
                inode=each.inode,
                cookie=each.cookie,
                netns=name,
                interface=interface,
                queue=each.queue,
                uid=each.uid,
                drops=each.drops,
                rx_ring=each.rx_ring,
                tx_ring=each.tx_ring,
                fill_ring=each.fill_ring,
                completion_ring=each.completion_ring,
                zero_copy=each.zero_copy,
                owner=series_index.get(each.inode),
            )
            for (name, interface), each in bound
        ]

    def _visit(self, inodes: Sequence[int]) -> Iterator[tuple[int, DiagSocket]]:
        searched = False
        for inode in inodes:
            try:
                entered = self._enter(inode)
                if not entered and not searched:
                    searched = True
                    self._ways = netns.find().ways
                    entered = self._enter(inode)
                if entered:
                    yield from ((inode, each) for each in self._read())
            except (KernelError, OSError) as error:
                if inode not in self._logged:
                    self._logged.add(inode)
                    _log.warning(
                        "cannot read the AF_XDP sockets of a network namespace",
                        netns_inode=inode,
                        error=str(error),
                    )

    def _enter(self, inode: int) -> bool:
        """Move the thread into a namespace; return False if no known way leads there.

        Raises:
            OSError: it is there, but cannot be entered.
        """
        for way in self._ways.get(inode, ()):
            try:
                netns.enter(way, inode)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
            else:
                return True
        return False
