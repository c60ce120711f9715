# SPDX-License-Identifier: Apache-2.0
"""Plain values about AF_XDP sockets."""

from collections.abc import Mapping
from dataclasses import dataclass

from xdpscope.kernel.xdp_diag import REASONS


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that has a socket open. ``comm`` is its command, cut at 15 characters."""

    pid: int
    comm: str


@dataclass(frozen=True, slots=True)
class XdpSocket:
    """One AF_XDP socket that is bound to a queue of an interface.

    Sizes of rings are in descriptors; 0: the socket has no such ring.
    """

    inode: int
    cookie: int
    netns: str
    interface: str
    queue: int
    uid: int
    drops: tuple[int, ...]  # by REASONS
    rx_ring: int
    tx_ring: int
    fill_ring: int
    completion_ring: int
    zero_copy: bool
    owner: Owner | None = None  # None: not known

    @property
    def dropped(self) -> Mapping[str, int]:
        """The socket's own counts by reason."""
        return dict(zip(REASONS, self.drops, strict=True))


def by_location(socket: XdpSocket) -> tuple[str, str, int, int]:
    """Return what sockets are sorted by."""
    return socket.netns, socket.interface, socket.queue, socket.inode


def as_json(socket: XdpSocket) -> dict[str, object]:
    """Return JSON values only. docs/api.md describes them."""
    owner = socket.owner
    return {
        "socket": socket.inode,
        "netns": socket.netns,
        "interface": socket.interface,
        "queue": socket.queue,
        "pid": owner.pid if owner else None,
        "comm": owner.comm if owner else "",
        "uid": socket.uid,
        "zero_copy": socket.zero_copy,
        "rings": {
            "rx": socket.rx_ring,
            "tx": socket.tx_ring,
            "fill": socket.fill_ring,
            "completion": socket.completion_ring,
        },
        "dropped": socket.dropped,
    }
