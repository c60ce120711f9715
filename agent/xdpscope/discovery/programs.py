# SPDX-License-Identifier: Apache-2.0
"""The loaded XDP programs, and how many references are held on each."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EIO, ENODEV
from typing import Self

import structlog

from xdpscope.discovery.claims import Claims
from xdpscope.discovery.entry import problem_of
from xdpscope.discovery.links import TracingLinks
from xdpscope.discovery.listing import Listing
from xdpscope.discovery.model import UNNAMED, ChainPosition, Role, XdpProgram
from xdpscope.discovery.retry import Retries, check_capability
from xdpscope.errors import KernelError, NotPermittedError, VanishedError
from xdpscope.libbpf import Btf, EntryFunction, Program, ProgramInfo, attach_type_name

_log = structlog.get_logger(__name__)

# These depend on the moment, too, and not on the object.
_PASSING = (EIO, ENODEV)

_UNSPECIFIED = 0  # no attach type given: what loaders before 5.9 did; it means plain XDP
_XDP = "xdp"
_FREPLACE = "freplace"

# The functions of libxdp's dispatcher that components take the place of.
_COMPONENT = re.compile(r"prog(\d+)")

SELF_TEST = "xdpscope_self_test"
"""The entry function of bpf/selftest/self_test.bpf.c: the agent's own program."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The census of one program."""

    attach_type: int = _UNSPECIFIED
    extension: bool = False
    at_egress: bool = False
    target: int = 0  # of an extension that is yet to be attached: the program that it is for
    function: int = 0  # of an extension: the type of the function that it was loaded for
    offloaded: bool = False
    tag: str = ""
    name: str = ""  # as the kernel has it, cut at 15 characters
    replaced: str = ""  # of an extension: the name of that function, as far as it fits
    references: int = 0


@dataclass(frozen=True, slots=True)
class ProgramList:
    """The programs of one moment, by id."""

    programs: dict[int, XdpProgram]
    holders: dict[int, int]  # see Snapshot
    chains: dict[int, tuple[ChainPosition, ...]]  # see Snapshot
    claimed: frozenset[int]  # see Snapshot
    extensions: frozenset[int] = frozenset()  # see Snapshot
    # By freplace program: the programs it is attached to; empty where this kernel does not report
    # it.
    extended: dict[int, list[int]] = field(default_factory=dict)


class Census:
    """One read of the kernel's own list of XDP programs.

    A bpf_prog iterator (Linux 5.9) reports references and attach types, which bpf(2) does not. It
    takes one system call, for any number of other programs.
    """

    def __init__(self) -> None:
        """Load the iterator.

        Raises:
            KernelError: this kernel refuses it.
        """
        self._listing = Listing("programs", "program_record")
        self._records: object = None
        self._entries: dict[int, Entry] = {}

    def close(self) -> None:
        self._listing.close()

    def read(self) -> dict[int, "Entry"]:
        """Return the entries by program id; the same object as the last time if nothing changed.

        The iterator's own reference is not counted.
        """
        records = self._listing.read()
        if records is not self._records:
            self._records = records
            names = records.dtype.names or ()
            self._entries = {
                each["id"]: Entry(
                    each["attach_type"],
                    bool(each["extension"]),
                    bool(each["at_egress"]),
                    each["target"],
                    each["function"],
                    bool(each["offloaded"]),
                    bytes(each["tag"]).hex(),
                    each["name"].decode(errors="replace"),
                    each["replaced"].decode(errors="replace"),
                    each["references"] - 1,
                )
                for each in (dict(zip(names, row, strict=True)) for row in records.tolist())
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
        self._unreadable = Retries()
        self._claims = Claims()
        self._positions: dict[tuple[int, int], int | None] = {}  # by program and function
        self._extensions: frozenset[int] = frozenset()
        self._classified: set[int] = set()  # freplace programs, by the names of functions
        self._listed: tuple[object, object] = None, None  # by the kernel: what was found is of that
        self._found = ProgramList({}, {}, {}, frozenset())

    def close(self) -> None:
        if self._census is not None:
            self._census.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> ProgramList:
        """Return all XDP programs and their extensions; the same list, if nothing changed.

        A program that cannot be opened is ``unreadable``, and tried again later.

        The tracers of others are not counted among a program's holders. Otherwise two tracers,
        each of which waits for the other to detach, would keep a program for ever.

        Raises:
            NotPermittedError: CAP_SYS_ADMIN is missing.
        """
        if self._census is None:
            found = self._describe_all(dict.fromkeys(Program.ids(), Entry()))
            return ProgramList(found, {}, {}, frozenset())
        census = self._census.read()
        # After the census: a tracer that was created in between makes the number too small. The
        # program is then detached for a moment, and not kept.
        links = self._links.read()
        same = census is self._listed[0] and links is self._listed[1]
        if same and not self._unreadable.due and not self._claims.due:
            return self._found
        programs = self._describe_all(census)
        tracers: Counter[int] = Counter(link.target for link in links)
        chains: dict[int, list[ChainPosition]] = defaultdict(list)
        extended: dict[int, list[int]] = defaultdict(list)
        # The functions that each freplace program replaces, or was loaded to replace: program and
        # function.
        replaced: dict[int, set[tuple[int, int]]] = defaultdict(set)
        for id, entry in census.items():
            if entry.target:
                replaced[id].add((entry.target, entry.function))
        for link in links:
            program = programs.get(link.program)
            if program is None or not program.extension or link.target not in programs:
                continue
            replaced[program.id].add((link.target, link.function))
            extended[program.id].append(link.target)
            position = self._position(programs[link.target], link.function)
            if position is not None:
                chains[program.id].append(ChainPosition(link.target, position))
        given_up = self._claims.given_up([id for id, entry in census.items() if entry.target])
        claims = set().union(*(ends for id, ends in replaced.items() if id not in given_up))
        self._positions = {ends: at for ends, at in self._positions.items() if ends in claims}
        self._extensions = frozenset(
            program.id
            for program in programs.values()
            if program.extension
            and self._returns_no_verdict(program.id, census[program.id], programs, replaced)
        )
        holders = {id: census[id].references - tracers[id] for id in programs}
        self._found = ProgramList(
            programs,
            holders,
            {id: tuple(sorted(positions, key=_by_dispatcher)) for id, positions in chains.items()},
            frozenset(p.id for p in programs.values() if (p.id, p.entry_type_id) in claims),
            self._extensions,
            dict(extended),
        )
        # If one could not be described, it is tried again.
        self._listed = (census, links) if len(self._known) == len(census) else (None, None)
        return self._found

    def _returns_no_verdict(
        self,
        id: int,
        entry: Entry,
        programs: Mapping[int, XdpProgram],
        replaced: Mapping[int, set[tuple[int, int]]],
    ) -> bool:
        """Return whether a freplace program replaces a function that returns no verdict."""
        targets = [(programs[target], function) for target, function in replaced.get(id, ())
                   if target in programs]  # fmt: skip
        if targets:
            return any(self._position(*each) is None for each in targets)
        if id in self._classified:
            return id in self._extensions
        # Before Linux 5.13 no link reports its target. The name of the function does. It is in the
        # BTF of the program for which the extension was loaded. libxdp replaces that dispatcher
        # when it adds a component, and the kernel may then have anything there. So a name counts
        # only if a loaded program has such a function.
        self._classified.add(id)
        if not entry.replaced or any(
            _COMPONENT.fullmatch(entry.replaced)
            if program.role is Role.DISPATCHER and program.entry_type_id != entry.function
            else program.entry_type_id == entry.function
            and program.function.startswith(entry.replaced)
            for program in programs.values()
        ):
            return False
        return any(_has_function(each, entry) for each in programs if each != id)

    def _position(self, target: XdpProgram, function: int) -> int | None:
        """Return the position of a component that replaces this function; None: not a component.

        The kernel is asked once.
        """
        if target.entry_type_id == function:
            return 0
        if target.role is not Role.DISPATCHER:
            return None
        ends = target.id, function
        if ends not in self._positions:
            try:
                with (
                    Program.open(target.id) as program,
                    Btf.from_kernel(program.info().btf_id) as btf,
                ):
                    found = _COMPONENT.fullmatch(btf.name(function))
            except KernelError as error:
                check_capability(error)
                return None  # not known; asked again at the next scan
            self._positions[ends] = int(found[1]) if found else None
        return self._positions[ends]

    def _describe_all(self, census: Mapping[int, Entry]) -> dict[int, XdpProgram]:
        self._known = {id: program for id, program in self._known.items() if id in census}
        self._unreadable.keep(census)
        for id, entry in census.items():
            if id in self._known and not self._unreadable.is_due(id):
                continue
            try:
                self._known[id] = self._describe(id, entry)
            except KernelError as error:
                # The program is gone, or the network card that was to run it is.
                if not isinstance(error, VanishedError) and error.errno != ENODEV:
                    check_capability(error)
                    self._cannot_read(id, entry, error)
            else:
                self._unreadable.succeeded(id)
        return {id: program for id, program in self._known.items() if program is not None}

    def _describe(self, id: int, entry: Entry) -> XdpProgram | None:
        with Program.open(id) as program:
            info = program.info()
            if not (info.is_xdp or entry.extension):
                return None
            function, problem = self._entry_function(info)
        if function is not None and function.name == SELF_TEST:
            return None
        return XdpProgram(
            id=id,
            tag=info.tag,
            name=info.name,
            function=function.name if function else info.name or UNNAMED,
            entry_type_id=function.type_id if function else 0,
            jited=info.jited,
            attach_type=self._attach_type(entry),
            extension=entry.extension,
            at_egress=entry.at_egress,
            map_ids=info.map_ids,
            offloaded=entry.offloaded,
            entry_problem=problem,
            load_time=info.load_time,
            uid=info.uid,
        )

    def _cannot_read(self, id: int, entry: Entry, error: KernelError) -> None:
        if entry.name == SELF_TEST:
            self._known[id] = None
            return
        if self._unreadable.failed(id, error):
            hint = "does a security module, such as SELinux, forbid it? See its audit log"
            more = {"hint": hint} if isinstance(error, NotPermittedError) else {}
            _log.warning(
                "cannot read a program: it is not traced",
                program_id=id,
                program=entry.name,
                error=error.summary,
                **more,
            )
        # Without the census it is unknown whether it is an XDP program.
        self._known[id] = (
            None
            if self._census is None
            else XdpProgram(
                id=id,
                tag=entry.tag,
                name=entry.name,
                function=entry.name or UNNAMED,
                entry_type_id=0,
                jited=False,
                attach_type=self._attach_type(entry),
                extension=entry.extension,
                at_egress=entry.at_egress,
                offloaded=entry.offloaded,
                unreadable=error.summary,
            )
        )

    @staticmethod
    def _entry_function(info: ProgramInfo) -> tuple[EntryFunction | None, str]:
        """Return the main function, None without BTF; and why no tracer can read it."""
        if not (info.btf_id and info.entry_type_id):
            return None, ""
        type_id = info.entry_type_id
        try:
            with Btf.from_kernel(info.btf_id) as btf:
                return EntryFunction(btf.name(type_id), type_id), problem_of(btf, type_id)
        except (NotPermittedError, VanishedError):
            raise
        except KernelError as error:
            if error.transient or error.errno in _PASSING:
                raise
            return EntryFunction(info.name or UNNAMED, type_id), f"its BTF is not valid: {error}"

    def _attach_type(self, entry: Entry) -> str:
        if self._census is None:
            return ""
        if entry.extension:
            return _FREPLACE
        return _XDP if entry.attach_type == _UNSPECIFIED else attach_type_name(entry.attach_type)


def _by_dispatcher(position: ChainPosition) -> tuple[int, int]:
    return position.dispatcher, position.position


def _has_function(program_id: int, entry: Entry) -> bool:
    """Return whether a program has the function that an extension is said to replace."""
    with (
        suppress(KernelError),
        Program.open(program_id) as program,
        Btf.from_kernel(program.info().btf_id) as btf,
    ):
        return btf.name(entry.function).startswith(entry.replaced)
    return False
