# SPDX-License-Identifier: Apache-2.0
"""The tracers of a session: a copy of ``bpf/sessions/capture.bpf.c`` for each program.

Nothing is pinned. Every tracer ends with the process, however that ends.
"""

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from xdpscope import bpf
from xdpscope.attach import packet_writes
from xdpscope.attach.engine import unavailable
from xdpscope.discovery.model import XdpProgram
from xdpscope.discovery.programs import SELF_TEST
from xdpscope.errors import KernelError, TracingUnavailableError
from xdpscope.libbpf import (
    EntryFunction,
    Link,
    Map,
    Object,
    PacketRings,
    Program,
    Template,
    possible_cpus,
    typed,
)
from xdpscope.libbpf.capture import PIECE, RECORD_SIZE, SNAPLEN
from xdpscope.sessions.packet_filter import PacketFilter, Reader
from xdpscope.sessions.selectors import Selectors

__all__ = ["ENTRY", "EXIT", "Counts", "Plan", "Target", "Tracers"]

ENTRY, EXIT = 0, 1
"""The points of capture, ``enum capture_point`` of bpf/common/capture.h."""

# bpf/common/capture.h: what stands for a constant in the templates.
_TARGET, _EGRESS, _KEEPS, _CPU_MASK = 0x7A26E7, 0xE6E55, 0x6EE95, 211
_PAIR, _LATE = 16, 64  # enum capture_flags
_ARRIVAL = 8  # struct capture_arrival
_STATES = ".data.states"

_ONLY_KEY = b"\0\0\0\0"
_READERS: tuple[Reader, ...] = ("plain", "cast", "copy")
_TARGETS = 0xFFFF  # a packet's id has 16 bits for its target
_LARGEST_FRAGMENT_FREE = 2048  # a snaplen up to this is in a packet's first buffer

# Memory for the rings of all CPUs together, and the limits of each; all powers of two.
_RINGS, _SMALLEST_RING, _LARGEST_RING = 64 << 20, 256 << 10, 8 << 20


@dataclass(frozen=True)
class Plan:
    """What is captured of each packet."""

    entry: bool = True
    exit: bool = True
    snaplen: int = SNAPLEN
    selectors: Selectors = field(default_factory=Selectors)
    filter: PacketFilter | None = None
    inner: PacketFilter | None = None
    """The filter for packets inside tunnels."""

    @property
    def filtered(self) -> bool:
        """Whether the packet as it arrives decides if it is wanted."""
        return self.filter is not None or self.inner is not None

    def programs(self, *, writes_packets: bool) -> tuple[str, ...]:
        """Return the tracers that a target needs, in the order of attaching.

        The exit comes first, so that each entry that is seen has its exit.
        """
        late = self.selectors.late
        if self.entry and not self.exit and not late:
            return ("capture_entry",)
        needs_pair = bool(self.selectors.min_inside) or (self.entry and self.exit)
        if not needs_pair:
            # The packet at exit is what is wanted, or it is as it was at entry.
            as_it_leaves = self.exit and not self.filtered
            if as_it_leaves or not writes_packets:
                return ("capture_exit_only",)
        return ("capture_exit", "capture_entry")

    @property
    def points(self) -> tuple[int, ...]:
        """The points of capture, at which each packet is counted."""
        return tuple(point for point, on in ((ENTRY, self.entry), (EXIT, self.exit)) if on)

    def variant(self, name: str) -> str:
        """Return the name of the tracer of ``capture.bpf.c`` that is used as ``name``."""
        quick = self.filter is not None and self.filter.quick is not None
        return f"{name}_quick" if quick and name != "capture_exit" else name

    @property
    def asks_for_alteration(self) -> bool:
        """Whether the tracers depend on whether a program alters packets.

        If it does not, a packet is copied once, or one tracer is enough.
        """
        altering, other = (self.programs(writes_packets=each) for each in (True, False))
        return altering != other or (self.entry and "capture_exit" in altering)


@dataclass
class Counts:
    """Packets of one target at one point."""

    matched: int = 0
    captured: int = 0
    lost: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.matched + other.matched, self.captured + other.captured, self.lost + other.lost
        )


class Target:
    """One program that is traced, and what is counted of it, until it is closed."""

    def __init__(self, program: XdpProgram, number: int, maps: Sequence[Map]) -> None:
        self.program = program
        self.number = number
        self._maps = maps  # the state first
        self._attached: dict[str, tuple[Program, Link]] = {}
        self._last: Counts | None = None
        self.missed = 0
        """Packets that the kernel did not run a tracer for."""

    def add(self, name: str, program: Program, link: Link) -> None:
        """Note that a tracer is attached."""
        self._attached[name] = program, link

    def counts(self, dtype: np.dtype[Any]) -> Counts:
        """Return what was counted, at each point of capture that the session has.

        A packet whose exit was seen, but could not be recognised, counts as lost.
        """
        if self._last is not None:
            return self._last
        found = typed(self._maps[0].lookup(_ONLY_KEY).reshape(-1, dtype.itemsize), dtype)
        emitted = Counts(
            *(int(found["counts"][name].sum()) for name in ("matched", "captured", "lost"))
        )
        unrecognised = int(found["displaced"].sum() + found["orphaned"].sum())
        return emitted + Counts(unrecognised, 0, unrecognised)

    def detach(self, dtype: np.dtype[Any]) -> None:
        """Let the program go; counts stay. Again is no error."""
        if self._last is not None:
            return
        # The entry first, so that each entry that was seen has its exit.
        for _, link in reversed(self._attached.values()):
            link.close()
        try:
            self._last = self.counts(dtype)
            self.missed = sum(p.run_stats().recursion_misses for p, _ in self._attached.values())
        except KernelError:
            self._last = Counts()
        for program, _ in self._attached.values():
            program.close()
        for each in self._maps:
            each.close()


class Tracers:
    """Attaches to programs, and counts what was captured at each point.

    Safe for use by two threads: one that attaches, one that reads.
    """

    def __init__(self, plan: Plan) -> None:
        """Load everything, and trace a program of our own for a moment.

        Raises:
            TracingUnavailableError: this kernel does not trace BPF programs for us; it says why.
        """
        self.plan = plan
        self.targets: dict[int, Target] = {}
        """By the number in their records; those that were detached too."""
        self._lock = threading.Lock()
        self._read_only: frozenset[int] | None = None
        with ExitStack() as stack:
            try:
                self._load(stack)
            except KernelError as error:
                raise unavailable(error) from error
            self._resources = stack.pop_all()

    def _load(self, stack: ExitStack) -> None:
        anchored = stack.enter_context(Object(bpf.path_of("self_test")))
        anchored.load()
        anchor = stack.enter_context(anchored.program(SELF_TEST))
        entry = anchor.entry_function()
        if entry is None:
            raise TracingUnavailableError(
                "this kernel keeps no BTF of BPF programs",
                hint="use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            )
        plan, cpus = self.plan, possible_cpus()
        used = {*plan.programs(writes_packets=True), *plan.programs(writes_packets=False)}
        names = {name: plan.variant(name) for name in sorted(used)}
        loaded = stack.enter_context(Object(bpf.path_of("capture")))
        loaded.set_autoload(*names.values())
        for name in names.values():
            loaded.set_attach_target(name, anchor, entry.name)
            loaded.keep_log(name)
        loaded.set_initial_value(".rodata", self._config(loaded))
        loaded.set_value_size("records", _record_size(plan))
        loaded.resize("records", cpus)
        loaded.resize("rings", cpus)
        loaded.load()
        self._state_type = loaded.btf.struct("capture_state")
        self._loss_type = loaded.btf.struct("capture_loss")
        self._cpus = 1 << (cpus - 1).bit_length()  # that a target's states are for
        self._states = stack.enter_context(loaded.map(_STATES))
        self._records = stack.enter_context(loaded.map("records"))
        self._fds = loaded.map_fd(_STATES), loaded.map_fd("records")
        self._devices = stack.enter_context(loaded.map("devices"))
        self._losses = stack.enter_context(loaded.map("losses"))
        self.rings = self._make_rings(loaded, cpus, stack)
        self._templates = {name: loaded.template(variant) for name, variant in names.items()}
        self.reader = _READERS[0]
        """How filters read packets on this kernel."""
        if plan.filtered:
            self._find_reader(anchor, entry)

    def _config(self, loaded: Object) -> bytes:
        plan = self.plan
        value = np.zeros((), loaded.btf.struct("capture_config"))
        value["snaplen"] = plan.snaplen
        value["verdicts"] = plan.selectors.verdict_bits
        value["min_inside"] = plan.selectors.min_inside
        value["entry"], value["exit"] = plan.entry, plan.exit
        value["paired"] = plan.programs(writes_packets=True) != ("capture_entry",)
        if plan.entry and plan.exit:
            value["flags"] = _PAIR | (_LATE if plan.selectors.late else 0)
        value["decided"] = bool(plan.selectors.verdicts)
        value["selected"] = plan.selectors.by_device or plan.filtered
        value["devices"] = plan.selectors.by_device
        value["filter"] = plan.filter is not None
        value["filter_length"] = plan.filter is not None and plan.filter.uses_length
        value["inner"] = plan.inner is not None
        if plan.snaplen > _LARGEST_FRAGMENT_FREE:
            found = _kernel_symbols("page_offset_base", "vmemmap_base")
            if len(found) == 2:
                value["page_offset_base"] = found["page_offset_base"]
                value["vmemmap_base"] = found["vmemmap_base"]
        return value.tobytes()

    @staticmethod
    def _make_rings(loaded: Object, cpus: int, stack: ExitStack) -> PacketRings:
        size = max(_SMALLEST_RING, min(_LARGEST_RING, 1 << (_RINGS // cpus).bit_length() - 1))
        rings = stack.enter_context(PacketRings(cpus, size))
        with loaded.map("rings") as outer, ThreadPoolExecutor(min(cpus, 32)) as pool:

            def put(cpu: int) -> None:
                outer.update(struct.pack("=I", cpu), struct.pack("=i", rings.maps[cpu].fileno()))

            # Each update waits for a grace period of RCU: together they wait for few.
            list(pool.map(put, range(cpus)))
        return rings

    def _find_reader(self, anchor: Program, entry: EntryFunction) -> None:
        """Find the cheapest way to read packets in a filter that this kernel accepts."""
        for self.reader in _READERS:
            try:
                for name in self._templates:
                    copy = self._copy(name, 0)
                    Program.load(copy, name[:15], anchor, entry).close()
            except KernelError:
                if self.reader == _READERS[-1]:
                    raise
            else:
                return

    def _copy(
        self,
        name: str,
        number: int,
        *,
        at_egress: bool = False,
        keeps: bool = False,
        maps: Sequence[Map] = (),
    ) -> Template:
        template = self._templates[name]
        fillings = [
            (template.constant_slots(_TARGET), number),
            (template.constant_slots(_EGRESS), int(at_egress)),
            (template.constant_slots(_KEEPS), int(keeps)),
        ]
        if maps:
            fillings.append((template.constant_slots(_CPU_MASK), self._cpus - 1))
            fillings += [
                (template.map_slots(fd), each.fileno())
                for fd, each in zip(self._fds, maps, strict=True)
            ]
        copy = template.filled(*fillings)
        # Last, because a filter may contain the same constants.
        depth = template.frame_depth() if self.plan.filtered else 0
        for each, inner in ((self.plan.filter, False), (self.plan.inner, True)):
            if each is not None:
                copy = each.insert(copy, self.reader, inner=inner, depth=depth)
        return copy

    def close(self) -> None:
        """Detach from all programs, and unload everything."""
        self.detach_all()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, program: XdpProgram) -> Target:
        """Trace a program.

        Raises:
            VanishedError: the program is gone.
            KernelError: it cannot be traced: EBUSY, E2BIG, …
        """
        number = len(self.targets) + 1
        if number > _TARGETS:
            raise TracingUnavailableError("this session has traced as many programs as it can")
        with ExitStack() as stack:
            target = stack.enter_context(Program.open(program.id))
            alters = not self.plan.asks_for_alteration or self._alters_packets(target)
            names = self.plan.programs(writes_packets=alters)
            # Else the exit shows what arrived.
            keeps = alters and self.plan.entry and "capture_exit" in names
            keep = stack.enter_context(ExitStack())
            maps = [
                keep.enter_context(of.sibling(f"xdpscope_{name}", size))
                for name, of, size in (
                    ("state", self._states, self._cpus * self._state_type.itemsize),
                    ("record", self._records, None),
                )
            ]
            entry = EntryFunction(program.function, program.entry_type_id)
            made = Target(program, number, maps)
            waiting = []
            for name in names:
                copy = self._copy(name, number, at_egress=program.at_egress, keeps=keeps, maps=maps)
                each = keep.enter_context(Program.load(copy, name[:15], target, entry))
                waiting.append((name, copy, each))
            for name, copy, each in waiting:
                made.add(name, each, keep.enter_context(Link.trace(each, copy.attach_type)))
            keep.pop_all()
        with self._lock:
            self.targets[number] = made
        return made

    def _alters_packets(self, target: Program) -> bool:
        if self._read_only is None:
            try:
                self._read_only = packet_writes.read_only_calls()
            except KernelError:
                self._read_only = frozenset()
        return packet_writes.writes_packets(target.instructions(), self._read_only)

    def detach(self, target: Target) -> None:
        """Let a program go; its counts stay."""
        with self._lock:
            target.detach(self._state_type)

    def detach_all(self) -> None:
        """Let all programs go; their counts stay."""
        for target in list(self.targets.values()):
            self.detach(target)

    def select_devices(self, devices: Iterable[tuple[int, int]]) -> None:
        """Set the devices, (namespace's inode, ifindex), whose packets are wanted."""
        wanted = {struct.pack("=II", *each) for each in devices}
        keys, _ = self._devices.items()
        there = {key.tobytes() for key in keys}
        for key in wanted - there:
            self._devices.update(key, b"\1\0\0\0")
        for key in there - wanted:
            self._devices.delete(key)

    def counts(self) -> Iterator[tuple[Target, int, Counts]]:
        """Yield what was counted of each target at each point."""
        with self._lock:
            for target in self.targets.values():
                counts = target.counts(self._state_type)
                for point in self.plan.points:
                    yield target, point, counts

    def losses(self) -> dict[tuple[int, int, int, int], int]:
        """Return how many packets were lost by (target, point, namespace's inode, ifindex)."""
        keys, values = self._losses.items()
        found = typed(keys, self._loss_type)
        return {
            (int(target), point, int(inode), int(index)): int(typed(value, np.dtype("u8")).sum())
            for (target, _, inode, index), value in zip(found.tolist(), values, strict=True)
            for point in self.plan.points
        }


def _record_size(plan: Plan) -> int:
    """Return the size of a value of ``records``: room for a last piece behind the packet."""
    size = RECORD_SIZE + plan.snaplen
    if plan.entry and plan.exit:
        size += _ARRIVAL + plan.snaplen
    size += PIECE if plan.snaplen > _LARGEST_FRAGMENT_FREE else 0
    return (size + 7) & ~7


def _kernel_symbols(*names: str) -> dict[str, int]:
    """Return the addresses of variables of the kernel; none where it does not tell them."""
    wanted = {name.encode() for name in names}
    found = {}
    try:
        with Path("/proc/kallsyms").open("rb") as symbols:
            for line in symbols:
                parts = line.split()
                if parts[2] in wanted and int(parts[0], 16):
                    found[parts[2].decode()] = int(parts[0], 16)
                    if len(found) == len(names):
                        break
    except OSError:
        return {}
    return found
