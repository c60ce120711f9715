# SPDX-License-Identifier: Apache-2.0
"""The BPF ring buffer, read in order."""

from collections.abc import Callable
from typing import Self

from xdpscope.libbpf._raw import ffi, lib
from xdpscope.libbpf.descriptor import fail
from xdpscope.libbpf.map import Map


class RingBuffer:
    """Hands each record of a BPF_MAP_TYPE_RINGBUF map to ``consume``, as bytes."""

    def __init__(self, source: Map, consume: Callable[[bytes], None]) -> None:
        self._consume = consume
        self._failure: BaseException | None = None
        self._self = ffi.new_handle(self)
        self._handle = lib.xdpscope_ring_buffer_new(source.fileno(), self._self)
        if self._handle == ffi.NULL:
            fail(-ffi.errno, f"mapping the ring buffer {source.info.name!r}")

    def fileno(self) -> int:
        """Return a descriptor that is readable while there are records."""
        fd: int = lib.ring_buffer__epoll_fd(self._handle)
        return fd

    def poll(self, timeout: float) -> int:
        """Wait up to ``timeout`` seconds for records, consume them, and return their number.

        Raises:
            Exception: what ``consume`` raised; the records after it stay for the next call.
        """
        count: int = lib.ring_buffer__poll(self._handle, int(timeout * 1000))
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if count < 0:
            fail(count, "reading a ring buffer")
        return count

    def take(self, record: bytes) -> int:
        """Consume one record, called by libbpf; return a negative number to stop the reading."""
        try:
            self._consume(record)
        except BaseException as failure:  # noqa: BLE001 (must not unwind through libbpf)
            self._failure = failure
            return -1
        return 0

    def close(self) -> None:
        """Unmap the buffer. A second call does nothing."""
        handle, self._handle = self._handle, ffi.NULL
        if handle != ffi.NULL:
            lib.ring_buffer__free(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@ffi.def_extern()  # type: ignore[untyped-decorator]
def xdpscope_ring_sample(ctx: object, data: object, size: int) -> int:
    """Find the RingBuffer that libbpf calls for."""
    ring: RingBuffer = ffi.from_handle(ctx)
    return ring.take(bytes(ffi.buffer(data, size)))
