# SPDX-License-Identifier: Apache-2.0
"""Links: what attaches a program, for as long as the link is held."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EAGAIN, EIO
from typing import Self

from xdpscope.errors import VanishedError
from xdpscope.libbpf._raw import ffi, lib
from xdpscope.libbpf.descriptor import Pinnable, each_id, fail
from xdpscope.libbpf.program import Program

_READ_SIZE = 1 << 16


@dataclass(frozen=True, slots=True)
class LinkEnds:
    """The program that a link attaches, and the target of a tracing link.

    ``target`` is the id of a BPF program, or of a BTF object for a kernel function. It is 0 for
    other kinds of links, and before Linux 5.13, which does not report it. ``function`` is the id
    of the function in the target's BTF.
    """

    program: int
    target: int
    function: int


class Link(Pinnable):
    """An attachment of one of our programs; closing it detaches, unless it is pinned."""

    __slots__ = ()

    @staticmethod
    def ids() -> Iterator[int]:
        """Return the id of every link, in ascending order."""
        return each_id(lib.bpf_link_get_next_id, "listing BPF links")

    @classmethod
    def open(cls, link_id: int) -> Self:
        """Return the link of this id.

        Raises:
            VanishedError: it is gone, or is not attached yet. A link gets its id a moment before
                it is attached (EAGAIN, kernel/bpf/syscall.c: bpf_link_by_id).
            NotPermittedError: CAP_SYS_ADMIN is missing.
        """
        fd = lib.bpf_link_get_fd_by_id(link_id)
        if fd == -EAGAIN:
            raise VanishedError(f"BPF link {link_id} is only being made", EAGAIN)
        if fd < 0:
            fail(fd, f"opening BPF link {link_id}")
        return cls(fd)

    @classmethod
    def trace(cls, program: Program, attach_type: int) -> Self:
        """Attach a tracing program to the target it was loaded for.

        Raises:
            KernelError: EBUSY: a freplace program holds the function. E2BIG: the trampoline has no
                room for another tracer.
        """
        # Kernels before 5.15 take tracing programs through BPF_RAW_TRACEPOINT_OPEN only;
        # libbpf falls back to it.
        fd = lib.bpf_link_create(program.fileno(), 0, attach_type, ffi.NULL)
        if fd < 0:
            fail(fd, "attaching a tracer")
        return cls(fd)

    @classmethod
    def iterate(cls, program: Program) -> Self:
        """Make an iterator program readable with ``read_all``."""
        return cls.trace(program, lib.BPF_TRACE_ITER)

    def ends(self) -> LinkEnds:
        """Return the program and the target of the link."""
        info = ffi.new("struct bpf_link_info *")
        size = ffi.new("__u32 *", ffi.sizeof("struct bpf_link_info"))
        result = lib.bpf_obj_get_info_by_fd(self.fileno(), info, size)
        if result < 0:
            fail(result, "reading a link's info")
        return LinkEnds(
            info.prog_id, lib.xdpscope_tracing_target(info), lib.xdpscope_tracing_function(info)
        )

    def read_all(self) -> bytes:
        """Run the iterator once, and return its output."""
        fd = lib.bpf_iter_create(self.fileno())
        if fd < 0:
            fail(fd, "starting an iterator")
        parts = []
        try:
            while part := os.read(fd, _READ_SIZE):
                parts.append(part)
        except OSError as error:
            fail(-(error.errno or EIO), "reading an iterator")
        finally:
            os.close(fd)
        return b"".join(parts)
