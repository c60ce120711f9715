# SPDX-License-Identifier: Apache-2.0
"""Owned file descriptors, pinned ones too, and how a failed call becomes an exception."""

import os
import warnings
from collections.abc import Callable, Iterator
from errno import EACCES, ENOENT, EPERM
from pathlib import Path
from typing import Any, NoReturn, Self

from xdpscope.errors import KernelError, NotPermittedError, VanishedError
from xdpscope.libbpf._raw import ffi, lib

# Room for the verifier's log of one program. A longer log is cut at its beginning.
VERIFIER_LOG_SIZE = 1 << 20

_PRIVILEGE = "run as root: what others loaded is shown to CAP_SYS_ADMIN only"


def fail(result: int, action: str) -> NoReturn:
    """Raise the exception for a negative ``result``, which libbpf sets to -errno."""
    errno = -result
    if errno == ENOENT:
        raise VanishedError(f"{action} failed", errno)
    if errno in (EPERM, EACCES):
        raise NotPermittedError(f"{action} failed", errno, hint=_PRIVILEGE)
    raise KernelError(f"{action} failed", errno)


def each_id(next_id: Callable[[int, Any], int], action: str) -> Iterator[int]:
    """Yield the ids of one kind of object with its ``bpf_*_get_next_id``.

    Raises:
        NotPermittedError: CAP_SYS_ADMIN is missing.
    """
    found = ffi.new("__u32 *", 0)
    while (result := next_id(found[0], found)) == 0:
        yield found[0]
    if result != -ENOENT:  # the end of the list
        fail(result, action)


class Descriptor:
    """Owns one descriptor; ``close`` gives it back, once, whatever happens in between."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor's number.

        Raises:
            ValueError: it is closed.
        """
        if self._fd < 0:
            raise ValueError(f"{type(self).__name__} is closed")
        return self._fd

    @property
    def closed(self) -> bool:
        return self._fd < 0

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            message = f"unclosed {type(self).__name__}"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
            self.close()


class Pinnable(Descriptor):
    """Something that a path on a bpffs can keep alive, as this descriptor does."""

    __slots__ = ()

    def pin(self, path: Path) -> None:
        """Pin it to a path. It lives until the path is unlinked and every descriptor is closed.

        Raises:
            KernelError: EINVAL where that is not on a bpffs, EPERM for a dot in the name, EEXIST,
                ENOSPC, …
        """
        result = lib.bpf_obj_pin(self.fileno(), os.fsencode(path))
        if result < 0:
            fail(result, f"pinning {path}")

    @classmethod
    def pinned(cls, path: Path) -> Self:
        """Open the object that is pinned there. The caller must know its kind: nothing checks it.

        Raises:
            VanishedError: nothing is pinned there.
        """
        fd = lib.bpf_obj_get(os.fsencode(path))
        if fd < 0:
            fail(fd, f"opening {path}")
        return cls(fd)
