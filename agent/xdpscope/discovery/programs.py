# SPDX-License-Identifier: Apache-2.0
"""The loaded XDP programs, and how many references are held on each."""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import numpy as np

from xdpscope import bpf
from xdpscope.discovery.links import TracingLinks
from xdpscope.discovery.model import XdpProgram
from xdpscope.errors import KernelError, Vanished
from xdpscope.libbpf import Link, Object, Program, attach_type_name

_UNSPECIFIED = 0  # no attach type given: what loaders before 5.9 did; it means plain XDP
_XDP = "xdp"
_FREPLACE = "freplace"

ANCHOR = "xdpscope_anchor"
"""The entry function of bpf/anchor.bpf.c: the agent's own program, which is nobody's business."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the census says of one program."""

    attach_type: int = _UNSPECIFIED
    extension: bool = False
    references: int = 0


@dataclass(frozen=True, slots=True)
class ProgramList:
    """The programs of one moment, by id."""

    programs: dict[int, XdpProgram]
    holders: dict[int, int]  # see Snapshot
    extends: dict[int, frozenset[int]]  # an extension: the programs it replaces functions of
    replaced: frozenset[int]  # see Snapshot


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

    def read(self) -> dict[int, "Entry"]:
        """By program id; the iterator's own reference is not counted."""
        records = np.frombuffer(self._link.read_all(), self._record)
        return {
            int(record["id"]): Entry(
                int(record["attach_type"]),
                bool(record["extension"]),
                int(record["references"]) - 1,
            )
            for record in records
        }


class ProgramSource:
    """The XDP programs of the host; what never changes is read once a program."""

    def __init__(self) -> None:
        self._census: Census | None
        try:
            self._census = Census()
        except KernelError:
            self._census = None
        self._links = TracingLinks()
        self._known: dict[int, XdpProgram | None] = {}  # None: not an XDP program

    def close(self) -> None:
        if self._census is not None:
            self._census.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> ProgramList:
        """All XDP programs and extensions of them.

        A tracer of somebody else is not counted among a program's holders: two that waited
        for each other to let go would keep a program for ever.

        Raises:
            NotPermitted: for want of CAP_SYS_ADMIN.
        """
        if self._census is None:
            found = self._describe_all(dict.fromkeys(Program.ids(), Entry()))
            return ProgramList(found, {}, {}, frozenset())
        census = self._census.read()
        programs = self._describe_all(census)
        # After the census, so that a tracer new in between makes the number too small: then
        # a program is let go for a moment, not kept.
        tracers: Counter[int] = Counter()
        extends: dict[int, frozenset[int]] = {}
        replaced = set()
        for link in self._links.read():
            tracers[link.target] += 1
            program = programs.get(link.program)
            if program is not None and program.extension:
                extends[program.id] = extends.get(program.id, frozenset()) | {link.target}
                target = programs.get(link.target)
                if target is not None and target.entry_type_id == link.function:
                    replaced.add(link.target)
        holders = {id: census[id].references - tracers[id] for id in programs}
        return ProgramList(programs, holders, extends, frozenset(replaced))

    def _describe_all(self, census: Mapping[int, Entry]) -> dict[int, XdpProgram]:
        self._known = {id: program for id, program in self._known.items() if id in census}
        for id, entry in census.items():
            if id not in self._known:
                with suppress(Vanished):
                    self._known[id] = self._describe(id, entry)
        return {id: program for id, program in self._known.items() if program is not None}

    def _describe(self, id: int, entry: Entry) -> XdpProgram | None:
        with Program.open(id) as program:
            info = program.info()
            if not (info.is_xdp or entry.extension):
                return None
            function = program.entry_function(info)
        if function is not None and function.name == ANCHOR:
            return None
        return XdpProgram(
            id=id,
            tag=info.tag,
            name=info.name,
            function=function.name if function else info.name,
            entry_type_id=function.type_id if function else 0,
            jited=info.jited,
            attach_type=self._attach_type(entry),
            extension=entry.extension,
        )

    def _attach_type(self, entry: Entry) -> str:
        if self._census is None:
            return ""
        if entry.extension:
            return _FREPLACE
        return _XDP if entry.attach_type == _UNSPECIFIED else attach_type_name(entry.attach_type)
