# SPDX-License-Identifier: Apache-2.0
"""Read packet records of ``bpf/sessions/capture.bpf.c`` (``_rings.c``); write pcapng
(``_pcapng.c``).
"""

import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from enum import IntEnum
from errno import EINTR
from typing import Any, NamedTuple, Self

from xdpscope.libbpf._raw import ffi, lib
from xdpscope.libbpf.descriptor import fail
from xdpscope.libbpf.map import Map

SNAPLEN: int = lib.CAPTURE_SNAPLEN
"""Bytes of a packet that a record can have."""
PIECE: int = lib.CAPTURE_PIECE
RECORD_SIZE: int = ffi.sizeof("struct capture_record")
"""Bytes of a record without the packet."""

_LAYOUT = struct.Struct("=QQQIIIIIIIIHBBxxxx")
assert _LAYOUT.size == RECORD_SIZE  # noqa: S101

_READ_SIZE = 1 << 20


class Record(NamedTuple):
    """``struct capture_record`` of bpf/common/capture.h and the bytes of the packet."""

    time: int  # CLOCK_MONOTONIC, ns
    id: int
    inside: int  # ns
    target: int
    ifindex: int
    netns: int  # inode
    queue: int
    verdict: int
    length: int
    captured: int
    lost: int
    cpu: int
    point: int
    flags: int
    data: bytes


class Drained(IntEnum):
    """Why ``PcapngWriter.drain`` returned."""

    ALL = lib.DRAINED
    UNKNOWN = lib.DRAINED_UNKNOWN  # a record has no interface yet: see ``unknown``
    LIMIT = lib.DRAINED_LIMIT
    ROTATE = lib.DRAINED_ROTATE
    EVENT = lib.DRAINED_EVENT  # a packet left with a verdict that ``keep`` names


class PacketRings:
    """The ring buffers of all CPUs, read in the order of their records' times."""

    def __init__(self, count: int, size: int) -> None:
        """Create so many rings of ``size`` bytes each, a power of two.

        Raises:
            KernelError: there is no memory for them.
        """
        self._room: Any = None
        with ExitStack() as stack:
            self.maps: Sequence[Map] = [
                stack.enter_context(
                    Map.create(lib.BPF_MAP_TYPE_RINGBUF, "xdpscope_ring", 0, 0, size)
                )
                for _ in range(count)
            ]
            """The rings, as maps."""
            fds = ffi.new("int[]", [ring.fileno() for ring in self.maps])
            self._handle = lib.xdpscope_rings_new(fds, count, size)
            if self._handle == ffi.NULL:
                fail(-ffi.errno, "mapping the ring buffers")
            stack.pop_all()

    def read(self, *, all: bool = False) -> list[Record]:
        """Return the next records, at most about a megabyte.

        A record that is newer than this call waits for the next one, because another CPU may still
        be about to hand over an earlier one. ``all`` takes it too.
        """
        if self._room is None:
            self._room = ffi.new("uint8_t[]", _READ_SIZE)
        used = lib.xdpscope_rings_read(self._handle, self._room, _READ_SIZE, all)
        found, at = [], 0
        buffer = ffi.buffer(self._room, used)
        while at < used:
            fields = _LAYOUT.unpack_from(buffer, at)
            start = at + RECORD_SIZE
            end = start + fields[9]
            found.append(Record(*(*fields, buffer[start:end])))
            at = (end + 7) & ~7
        return found

    def close(self) -> None:
        """Unmap and free the rings; again is no error."""
        handle, self._handle = self._handle, ffi.NULL
        if handle != ffi.NULL:
            lib.xdpscope_rings_free(handle)
        for each in self.maps:
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PcapngWriter:
    """Writes packet records to a file as pcapng blocks, in C and without the GIL.

    Blocks are collected in a buffer. A file contains whole blocks, unless it cannot be written:
    then ``whole`` says where the last whole block ends.
    """

    def __init__(self, *, limit: int = 0, counted_point: int = -1, rotate_at: int = 0) -> None:
        """Prepare it; ``open`` comes next.

        Args:
            limit: Packets to write; 0 stands for no limit.
            counted_point: The point (0 entry, 1 exit) at which they are counted; -1 counts all.
            rotate_at: The size at which ``drain`` returns ``ROTATE``; 0 stands for never.
        """
        self._handle = lib.xdpscope_writer_new()
        if self._handle == ffi.NULL:
            raise MemoryError
        self._handle.limit = limit
        self._handle.counted_point = counted_point
        self._handle.rotate_at = rotate_at

    def open(self, fd: int) -> None:
        """Write to this descriptor from now on; what is buffered is forgotten."""
        lib.xdpscope_writer_open(self._handle, fd)

    def put(self, blocks: bytes) -> None:
        """Add whole blocks.

        Raises:
            OSError: the file cannot be written.
        """
        _check(lib.xdpscope_writer_put(self._handle, blocks, len(blocks)))

    def keep(self, records: int, events: int = 0) -> None:
        """Keep the last records back until ``release``.

        Args:
            records: How many.
            events: The verdicts at which ``drain`` returns ``EVENT``: one bit for each
                ``enum xdp_action``, 32 for any other value.
        """
        _check(lib.xdpscope_writer_keep(self._handle, records))
        self._handle.events = events

    def release(self) -> None:
        """Write what was kept back; from now on nothing is.

        Raises:
            OSError: the file cannot be written.
        """
        self._handle.events = 0
        _check(lib.xdpscope_writer_release(self._handle))

    @property
    def verdicts(self) -> list[int]:
        """Packets at exit by verdict, in the order of ``enum xdp_action``, then any other."""
        return list(self._handle.verdicts)

    def drain(self, rings: PacketRings, *, all: bool = False) -> Drained:
        """Write the records of the rings; ``all`` as in ``PacketRings.read``.

        Raises:
            OSError: the file cannot be written; InterruptedError: a signal came, call it again.
        """
        result = lib.xdpscope_writer_drain(self._handle, rings._handle, all)
        _check(result)
        return Drained(result)

    def flush(self) -> None:
        """Write what is buffered.

        Raises:
            OSError: the file cannot be written; InterruptedError: a signal came, call it again.
        """
        _check(lib.xdpscope_writer_flush(self._handle))

    @property
    def unknown(self) -> Record:
        """The record, without packet, that needs an interface."""
        fields = _LAYOUT.unpack(ffi.buffer(ffi.addressof(self._handle.unknown)))
        return Record(*(*fields, b""))

    def add_interface(self, record: Record, number: int) -> None:
        """Write records of this one's target, point and device with this interface's number."""
        result = lib.xdpscope_writer_interface(self._handle, _header(record), number)
        if result < 0:
            raise MemoryError

    def packets_of(self, record: Record) -> int:
        """Return how many packets were written of the interface of this record."""
        count: int = lib.xdpscope_writer_packets(self._handle, _header(record))
        return count

    @property
    def packets(self) -> int:
        """Packets written so far, as ``limit`` counts them."""
        count: int = self._handle.packets
        return count

    @packets.setter
    def packets(self, count: int) -> None:
        self._handle.packets = count

    @property
    def pending(self) -> int:
        """Bytes in the buffer."""
        count: int = self._handle.used
        return count

    @property
    def size(self) -> int:
        """Bytes of the file, with those in the buffer."""
        count: int = self._handle.flushed + self._handle.used
        return count

    @property
    def whole(self) -> int:
        """The size of the file without a block that is there in part only."""
        size: int = lib.xdpscope_writer_whole(self._handle)
        return size

    def close(self) -> None:
        """Free the buffer; the descriptor stays open. Again is no error."""
        handle, self._handle = self._handle, ffi.NULL
        if handle != ffi.NULL:
            lib.xdpscope_writer_free(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(result: int) -> None:
    if result == -EINTR:
        raise InterruptedError(EINTR, os.strerror(EINTR))
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _header(record: Record) -> Any:
    header = ffi.new("struct capture_record *")
    header.target, header.point = record.target, record.point
    header.netns, header.ifindex = record.netns, record.ifindex
    return header
