# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets as the kernel lists them over sock_diag(7): ``net/xdp/xsk_diag.c``.

The kernel counts drops in the socket itself. Reading them costs no packet anything.
"""

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from xdpscope.errors import KernelError

REASONS: Final = (
    "rx_dropped",
    "rx_invalid",
    "rx_ring_full",
    "fill_ring_empty",
    "tx_invalid",
    "tx_ring_empty",
)
"""Drop reasons, in the order of ``struct xdp_diag_stats``."""

_NETLINK_SOCK_DIAG, _AF_XDP = 4, 44  # linux/netlink.h, linux/socket.h

# include/uapi/linux/netlink.h
_HEADER = struct.Struct("=LHHLL")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_ERROR = struct.Struct("=i")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_SOCK_DIAG_BY_FAMILY = 20  # include/uapi/linux/sock_diag.h

# include/uapi/linux/xdp_diag.h
_REQUEST = struct.Struct("=BBHIIQ")  # struct xdp_diag_req: family, protocol, pad, inode, show, …
_MESSAGE = struct.Struct("=BBHIQ")  # struct xdp_diag_msg: family, type, pad, inode, cookie
_SHOW_INFO, _SHOW_RING_CFG, _SHOW_UMEM, _SHOW_STATS = 1 << 0, 1 << 1, 1 << 2, 1 << 4
_INFO, _UID, _RX_RING, _TX_RING, _UMEM, _FILL_RING, _COMPLETION_RING = range(1, 8)
_STATS = 9
_NUMBER = struct.Struct("=I")
_DIAG_INFO = struct.Struct("=II")  # struct xdp_diag_info: ifindex, queue
_DIAG_UMEM = struct.Struct("=Q8I")  # struct xdp_diag_umem: …, flags, references
_DIAG_STATS = struct.Struct("=6Q")
_ZEROCOPY = 1 << 0  # XDP_DU_F_ZEROCOPY

_READ_SIZE = 1 << 17  # more than the kernel puts into one answer


@dataclass(frozen=True, slots=True)
class DiagSocket:
    """One AF_XDP socket. Sizes of rings are in descriptors; 0: the socket has no such ring."""

    inode: int
    cookie: int  # given once until the next boot; an inode number is given again
    ifindex: int  # 0: not bound
    queue: int
    uid: int  # of the owner, as the agent's user namespace sees it
    drops: tuple[int, ...]  # by REASONS
    rx_ring: int = 0
    tx_ring: int = 0
    fill_ring: int = 0
    completion_ring: int = 0
    zero_copy: bool = False


def has_xdp_sockets() -> bool:
    """Return whether this kernel has AF_XDP sockets (CONFIG_XDP_SOCKETS)."""
    try:
        lines = Path("/proc/self/net/protocols").read_text().splitlines()
    except OSError:
        return True  # not known
    return any(line.split()[:1] == ["XDP"] for line in lines)


def read_sockets() -> list[DiagSocket]:
    """Return the AF_XDP sockets of the network namespace that the calling thread is in.

    The kernel stops its list at a socket whose interface is gone: sockets that were opened before
    that one are missing (``XSK_UNBOUND`` in ``xsk_diag_fill``).

    Raises:
        KernelError: ENOENT: the module xsk_diag is not loaded, and cannot be. Any other error of
            the kernel.
        OSError: no netlink socket can be opened or read.
    """
    show = _SHOW_INFO | _SHOW_RING_CFG | _SHOW_UMEM | _SHOW_STATS
    body = _REQUEST.pack(_AF_XDP, 0, 0, 0, show, 0)
    size = _HEADER.size + len(body)
    header = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    found: list[DiagSocket] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as opened:
        opened.send(header + body)
        while True:
            for kind, message in _messages(opened.recv(_READ_SIZE)):
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    errno = -_ERROR.unpack_from(message)[0]
                    raise KernelError("listing AF_XDP sockets failed", errno)
                if kind == _SOCK_DIAG_BY_FAMILY:
                    found.append(_decode(message))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        size, kind, _, _, _ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : size]
        data = data[_aligned(max(size, _HEADER.size)) :]


def _decode(message: bytes) -> DiagSocket:
    _, _, _, inode, cookie = _MESSAGE.unpack_from(message)
    values = dict(_attributes(message[_MESSAGE.size :]))
    ifindex, queue = _DIAG_INFO.unpack_from(values.get(_INFO, bytes(_DIAG_INFO.size)))
    stats = _DIAG_STATS.unpack_from(values.get(_STATS, bytes(_DIAG_STATS.size)))
    flags = _DIAG_UMEM.unpack_from(values.get(_UMEM, bytes(_DIAG_UMEM.size)))[-2]

    def number(attribute: int) -> int:
        return int.from_bytes(values.get(attribute, b"")[: _NUMBER.size], sys.byteorder)

    return DiagSocket(
        inode,
        cookie,
        ifindex,
        queue,
        number(_UID),
        stats,
        rx_ring=number(_RX_RING),
        tx_ring=number(_TX_RING),
        fill_ring=number(_FILL_RING),
        completion_ring=number(_COMPLETION_RING),
        zero_copy=bool(flags & _ZEROCOPY),
    )


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        yield kind, data[_ATTRIBUTE.size : size]
        data = data[_aligned(max(size, _ATTRIBUTE.size)) :]


def _aligned(size: int) -> int:
    return size + 3 & ~3
