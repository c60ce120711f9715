# SPDX-License-Identifier: Apache-2.0
"""The loaded XDP programs, and how many references are held on each."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from xdpscope.discovery.links import TracingLinks
from xdpscope.discovery.listing import Listing
from xdpscope.discovery.model import ChainPlace, XdpProgram
from xdpscope.errors import KernelError, Vanished
from xdpscope.libbpf import Btf, LinkEnds, Program, attach_type_name

_UNSPECIFIED = 0  # no attach type given: what loaders before 5.9 did; it means plain XDP
_XDP = "xdp"
_FREPLACE = "freplace"

# The functions of libxdp's dispatcher that components take the place of.
_COMPONENT = re.compile(r"prog(\d+)")

ANCHOR = "xdpscope_anchor"
"""The entry function of bpf/anchor.bpf.c: the agent's own program, which is nobody's business."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the census says of one program."""

    attach_type: int = _UNSPECIFIED
    extension: bool = False
    at_egress: bool = False
    target: int = 0  # of an extension that is yet to be attached: the program that it is for,
    function: int = 0  # and the type of the function there
    references: int = 0


@dataclass(frozen=True, slots=True)
class ProgramList:
    """The programs of one moment, by id."""

    programs: dict[int, XdpProgram]
    holders: dict[int, int]  # see Snapshot
    chains: dict[int, tuple[ChainPlace, ...]]  # see Snapshot
    claimed: frozenset[int]  # see Snapshot


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
        self._listing = Listing("programs", "program_record")
        self._records: object = None
        self._entries: dict[int, Entry] = {}

    def close(self) -> None:
        self._listing.close()

    def read(self) -> dict[int, "Entry"]:
        """By program id, the same as the last time if nothing changed.

        The iterator's own reference is not counted.
        """
        records = self._listing.read()
        if records is not self._records:
            self._records = records
            self._entries = {
                id: Entry(kind, bool(extension), bool(at_egress), target, function, references - 1)
                for id, kind, extension, at_egress, target, function, references in records.tolist()
            }
        return self._entries


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
        self._positions: dict[LinkEnds, int | None] = {}
        self._told: tuple[object, object] = None, None  # by the kernel: what was found is of that
        self._found = ProgramList({}, {}, {}, frozenset())

    def close(self) -> None:
        if self._census is not None:
            self._census.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> ProgramList:
        """All XDP programs and extensions of them; the same list, if nothing changed.

        A tracer of somebody else is not counted among a program's holders: two that waited
        for each other to let go would keep a program for ever.

        Raises:
            NotPermitted: for want of CAP_SYS_ADMIN.
        """
        if self._census is None:
            found = self._describe_all(dict.fromkeys(Program.ids(), Entry()))
            return ProgramList(found, {}, {}, frozenset())
        census = self._census.read()
        # After the census, so that a tracer new in between makes the number too small: then
        # a program is let go for a moment, not kept.
        links = self._links.read()
        if census is self._told[0] and links is self._told[1]:
            return self._found
        programs = self._describe_all(census)
        tracers: Counter[int] = Counter()
        chains: dict[int, list[ChainPlace]] = defaultdict(list)
        positions: dict[LinkEnds, int | None] = {}
        claims = {(entry.target, entry.function) for entry in census.values() if entry.target}
        for link in links:
            tracers[link.target] += 1
            program = programs.get(link.program)
            target = programs.get(link.target)
            if program is None or not program.extension or target is None:
                continue
            claims.add((link.target, link.function))
            with suppress(Vanished):
                positions[link] = self._position(link, target)
                chains[program.id].append(ChainPlace(target.id, positions[link]))
        self._positions = positions
        holders = {id: census[id].references - tracers[id] for id in programs}
        self._found = ProgramList(
            programs,
            holders,
            {id: tuple(sorted(places, key=_by_dispatcher)) for id, places in chains.items()},
            frozenset(p.id for p in programs.values() if (p.id, p.entry_type_id) in claims),
        )
        # If one could not be described, it is tried again.
        self._told = (census, links) if len(self._known) == len(census) else (None, None)
        return self._found

    def _position(self, link: LinkEnds, target: XdpProgram) -> int | None:
        """The position that this link gives a component; asked for once."""
        if target.entry_type_id == link.function:
            return 0
        if link in self._positions:
            return self._positions[link]
        with Program.open(target.id) as program, Btf.from_kernel(program.info().btf_id) as btf:
            found = _COMPONENT.fullmatch(btf.name(link.function))
        return int(found[1]) if found else None

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
            at_egress=entry.at_egress,
            map_ids=info.map_ids,
        )

    def _attach_type(self, entry: Entry) -> str:
        if self._census is None:
            return ""
        if entry.extension:
            return _FREPLACE
        return _XDP if entry.attach_type == _UNSPECIFIED else attach_type_name(entry.attach_type)


def _by_dispatcher(place: ChainPlace) -> tuple[int, int]:
    return place.dispatcher, -1 if place.position is None else place.position
