# SPDX-License-Identifier: Apache-2.0
"""The loaded XDP programs, and how many references are held on each."""

from typing import Self

import numpy as np

from xdpscope import bpf
from xdpscope.discovery.model import XdpProgram
from xdpscope.discovery.tracers import TracerCount
from xdpscope.errors import KernelError, Vanished
from xdpscope.libbpf import Link, Object, Program, attach_type_name

_UNSPECIFIED = 0  # no attach type given: what loaders before 5.9 did; it means plain XDP
_XDP = "xdp"

ANCHOR = "xdpscope_anchor"
"""The entry function of bpf/anchor.bpf.c: the agent's own program, which is nobody's business."""


class Census:
    """One read of the kernel's own list of XDP programs.

    A bpf_prog iterator (Linux 5.9): it tells references and attach types, which bpf(2)
    does not, and takes one system call however many other programs there are.
    """

    def __init__(self) -> None:
        """Loads the iterator.

        Raises:
            KernelError: this kernel refuses it.
        """
        with Object(bpf.path_of("programs")) as loaded:
            loaded.keep_log("programs")
            loaded.load()
            self._record = loaded.btf.struct("program_record")
            with loaded.program("programs") as program:
                self._link = Link.iterate(program)

    def close(self) -> None:
        self._link.close()

    def read(self) -> dict[int, tuple[int, int]]:
        """Program id to (attach type, references); the iterator's own is not counted."""
        records = np.frombuffer(self._link.read_all(), self._record)
        return {
            int(id): (int(attach_type), int(references) - 1)
            for id, attach_type, references in records
        }


class ProgramSource:
    """The XDP programs of the host; what never changes is read once a program."""

    def __init__(self) -> None:
        self._census: Census | None
        try:
            self._census = Census()
        except KernelError:
            self._census = None
        self._tracers = TracerCount()
        self._known: dict[int, XdpProgram | None] = {}  # None: not an XDP program

    def close(self) -> None:
        if self._census is not None:
            self._census.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> tuple[dict[int, XdpProgram], dict[int, int]]:
        """All XDP programs, and how many references others than tracers hold on each.

        A tracer of somebody else must not count as a user: two that wait for each other
        to let go would keep a program for ever.

        Raises:
            NotPermitted: for want of CAP_SYS_ADMIN.
        """
        if self._census is not None:
            census = self._census.read()
        else:
            census = dict.fromkeys(Program.ids(), (_UNSPECIFIED, 0))
        self._known = {id: program for id, program in self._known.items() if id in census}
        for id, (attach_type, _) in census.items():
            if id not in self._known:
                try:
                    self._known[id] = self._describe(id, attach_type)
                except Vanished:
                    continue
        programs = {id: program for id, program in self._known.items() if program is not None}
        if self._census is None:
            return programs, {}
        # After the census, so that a tracer new in between makes the number too small: then
        # a program is let go for a moment, not kept.
        tracers = self._tracers.read()
        return programs, {id: census[id][1] - tracers[id] for id in programs}

    def _describe(self, id: int, attach_type: int) -> XdpProgram | None:
        with Program.open(id) as program:
            info = program.info()
            if not info.is_xdp:
                return None
            entry = program.entry_function(info)
        if entry is not None and entry.name == ANCHOR:
            return None
        type_name = attach_type_name(attach_type) if attach_type != _UNSPECIFIED else _XDP
        return XdpProgram(
            id=id,
            tag=info.tag,
            name=info.name,
            function=entry.name if entry else info.name,
            entry_type_id=entry.type_id if entry else 0,
            jited=info.jited,
            attach_type=type_name if self._census is not None else "",
        )
