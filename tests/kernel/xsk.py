# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets made by hand, for tests: rings in their memory, and the kernel's own counts."""

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Mapping
from typing import Self

from xdpscope.kernel.xdp_diag import REASONS

# include/uapi/linux/if_xdp.h
_AF_XDP, _SOL_XDP = 44, 283
_MMAP_OFFSETS, _RX_RING, _TX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING, _STATISTICS = range(
    1, 8
)
_COPY = 1 << 1
_PAGE_OFFSETS = {_TX_RING: 0x80000000, _FILL_RING: 0x100000000}
_ADDRESS = struct.Struct("=HHIII")  # struct sockaddr_xdp: family, flags, ifindex, queue, shared fd
_DESCRIPTOR = struct.Struct("=QII")  # struct xdp_desc: address, length, options
_ENTRY_SIZES = {_TX_RING: _DESCRIPTOR.size, _FILL_RING: 8}

_CHUNK = 2048

_libc = ctypes.CDLL(None, use_errno=True)


class XdpSocket:
    """A socket in copy mode that nobody reads from."""

    def __init__(
        self, rx: int = 64, fill: int = 64, tx: int = 64, chunks: int = 128, headroom: int = 0
    ) -> None:
        """Open it in the calling thread's namespace.

        Args:
            rx: Size of the rx ring, in descriptors. So of the others; each is a power of two.
            fill: Of the fill ring.
            tx: Of the tx ring.
            chunks: Packets that there is memory for.
            headroom: Bytes of each chunk that the kernel leaves out before a packet.
        """
        self._sizes = {_RX_RING: rx, _TX_RING: tx, _FILL_RING: fill, _COMPLETION_RING: 64}
        self._socket = socket.socket(_AF_XDP, socket.SOCK_RAW, 0)
        self._memory = mmap.mmap(-1, chunks * _CHUNK)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        umem = struct.pack("=QQIII4x", address, len(self._memory), _CHUNK, headroom, 0)
        self._socket.setsockopt(_SOL_XDP, _UMEM_REG, umem)
        for ring, size in self._sizes.items():
            self._socket.setsockopt(_SOL_XDP, ring, struct.pack("=I", size))
        self._rings = self._mapped()

    def bind(self, ifindex: int, queue: int = 0) -> Self:
        """Bind it to a queue of an interface."""
        address = _ADDRESS.pack(_AF_XDP, _COPY, ifindex, queue, 0)
        if _libc.bind(self._socket.fileno(), address, len(address)) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return self

    def fill(self, chunks: int) -> None:
        """Give so many chunks to the kernel, through the fill ring."""
        for number in range(chunks):
            self._produce(_FILL_RING, struct.pack("=Q", number * _CHUNK))

    def transmit(self, address: int, length: int) -> None:
        """Have the kernel send what is at an address of the memory."""
        self._produce(_TX_RING, _DESCRIPTOR.pack(address, length, 0))
        self._socket.send(b"", socket.MSG_DONTWAIT)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def inode(self) -> str:
        """The inode number: the value of the label ``socket``."""
        return str(os.fstat(self._socket.fileno()).st_ino)

    def statistics(self) -> Mapping[str, int]:
        """What XDP_STATISTICS says, by the names of our reasons."""
        raw = self._socket.getsockopt(_SOL_XDP, _STATISTICS, 48)
        dropped, rx_invalid, tx_invalid, full, fill_empty, tx_empty = struct.unpack("=6Q", raw)
        in_our_order = dropped, rx_invalid, full, fill_empty, tx_invalid, tx_empty
        return dict(zip(REASONS, in_our_order, strict=True))

    def close(self) -> None:
        for memory, *_ in self._rings.values():
            memory.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mapped(self) -> Mapping[int, tuple[mmap.mmap, int, int]]:
        """Map the rings that we produce for. Linux 6.1 refuses it once a socket is bound.

        Returns:
            By ring: its memory, and the offsets of its producer and of its first entry.
        """
        raw = self._socket.getsockopt(_SOL_XDP, _MMAP_OFFSETS, 128)
        # struct xdp_ring_offset of rx, tx, fill and completion ring.
        offsets = dict(
            zip((_RX_RING, _TX_RING, _FILL_RING), struct.iter_unpack("=4Q", raw), strict=False)
        )
        mapped = {}
        for ring, page in _PAGE_OFFSETS.items():
            producer, _, entries, _ = offsets[ring]
            length = entries + self._sizes[ring] * _ENTRY_SIZES[ring]
            mapped[ring] = mmap.mmap(self._socket.fileno(), length, offset=page), producer, entries
        return mapped

    def _produce(self, ring: int, entry: bytes) -> None:
        """Write an entry and move the producer: nobody else produces in this ring."""
        memory, producer, entries = self._rings[ring]
        (at,) = struct.unpack_from("=I", memory, producer)
        start = entries + (at % self._sizes[ring]) * len(entry)
        memory[start : start + len(entry)] = entry
        struct.pack_into("=I", memory, producer, at + 1)
