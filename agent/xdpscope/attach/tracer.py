# SPDX-License-Identifier: Apache-2.0
"""Attach, detach and read the tracer of one target."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from errno import EAGAIN
from itertools import chain
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from xdpscope.attach.engine import Engine
from xdpscope.attach.pins import TargetPins
from xdpscope.attach.spec import KINDS, Spec
from xdpscope.attach.templates import Attached, Copy
from xdpscope.counters.counter_reader import Counted
from xdpscope.discovery.model import XdpProgram
from xdpscope.errors import KernelError, VanishedError
from xdpscope.libbpf import EntryFunction, Program, typed

_log = structlog.get_logger(__name__)

_ONLY_KEY = b"\0\0\0\0"

# Seconds that the kernel may take to detach an unpinned tracing program.
_PATIENCE = 1.0

# The largest number of records, and of bytes, that are read at once.
_READ_AT_ONCE = 64
_READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Expense:
    """Hold what the kernel reports about the tracing programs of a target."""

    missed: int  # packets for which the kernel did not run the fexit program, which counts
    run_seconds: float | None  # total run time of all programs; None if the kernel never counted it
    runs: int = 0  # runs of fexit programs, counted while the run time is


class Tracer:
    """Count the verdicts of one program, from ``attach`` until ``detach``.

    One thread attaches and detaches. Any thread may read at the same time. A reader never waits
    while the kernel loads, attaches or detaches a program.

    An attached tracer holds a reference to its target, as every tracing program does. Its counts
    stay readable after ``detach``. They continue to grow if the tracer is attached again.

    A *way* is a set of programs for a target in service: ``Variant.way``. With pins, the tracer
    outlives the agent. The next agent may then find one of these sets of tracing programs:

    - the first program, alone or with some programs of a way that counts flows;
    - all programs of a way;
    - all programs of a way, and some of the way that replaces it or that it replaces;
    - no program.

    The first two sets count every packet once (see bpf/probes/flows.bpf.c). So does the third,
    while the handover lasts: the next agent detaches the additional programs, and ends it.
    ``follow_up`` and ``detach`` pass through these sets only, until the remaining programs count
    nothing. ``attach`` then starts again.
    """

    def __init__(
        self, engine: Engine, program: XdpProgram, pinned: TargetPins | None = None
    ) -> None:
        """Adopt the pins of the program, attached or not. Without pins, prepare ``attach``.

        Raises:
            VanishedError: the program is gone.
            KernelError: the map for its counts cannot be created, or the pins are not valid.
        """
        self._engine = engine
        # The lock guards what readers use: the descriptors, and the sums of their costs.
        self._changing = threading.Lock()
        self._target = program.id
        self._at_egress = program.at_egress
        self._entry = EntryFunction(program.function, program.entry_type_id)
        self._attached: dict[str, Attached] = {}  # in the order of attaching
        self._does: dict[Spec, bool] = {}  # what the attached programs do
        self._ready: list[Copy] | None = None  # the first program, not attached yet
        self._last: Expense | None = Expense(0, None)  # None while the tracer is attached
        self._reported = Expense(0, None)
        self._missed = 0
        self._spent_ns = 0  # run time of detached programs
        self._runs = 0  # runs of detached fexit programs
        self._ran = False  # whether the kernel has ever counted run time
        self._detached: list[int] = []  # ids of programs
        with ExitStack() as stack:
            if pinned is not None:
                self._pins: TargetPins | None = pinned
                self.number = pinned.number
                self._counts = stack.enter_context(pinned.counts())
                self._adopt(pinned, stack)
            else:
                self.number = engine.next_number()
                self._counts = stack.enter_context(engine.templates.new_counts())
                self._pins = engine.new_pins(self.number, program.id)
                if self._pins is not None:
                    stack.callback(self._pins.remove)
                    self._pins.put_counts(self._counts)
                self._ready = self._copies((engine.templates.variant.first,))
            stack.pop_all()
        engine.use_number(self.number)

    def _adopt(self, pinned: TargetPins, stack: ExitStack) -> None:
        variant, names = self._engine.templates.variant, pinned.links()
        for name in dict.fromkeys((variant.first, *chain(*map(variant.programs_for, KINDS)))):
            if name in names:
                link = stack.enter_context(pinned.link(name))
                ends = link.ends()
                if ends.target not in (0, self._target):  # 0: this kernel does not report it
                    raise VanishedError(f"what is pinned traces program {ends.target}")
                tracing = stack.enter_context(Program.open(ends.program))
                self._attached[name] = Attached(tracing, link)
        # The run time starts at 0 with each agent. The time of programs that an earlier agent
        # detached is lost. A continued sum would decrease, and a rate would count all of it again.
        for name, each in self._attached.items():
            info = each.program.info()
            self._spent_ns -= info.run_time_ns
            self._runs -= info.run_count if _is_exit(name) else 0
        self._drop([name for name in self._attached if name not in self._valid()])
        if self._attached:
            self._last = None

    def _valid(self) -> set[str]:
        """Return those of the attached programs that together count every packet once."""
        variant, attached = self._engine.templates.variant, set(self._attached)
        if variant.rest and variant.first in attached:
            begun = self._begun()
            return {variant.first, *(() if begun is None else begun)}
        ways = chain(*map(variant.ways, KINDS))
        return next((set(way) for way in ways if attached.issuperset(way)), set())

    def attach(self) -> None:
        """Attach the tracer completely or not at all. Its counts continue from their last values.

        Raises:
            VanishedError: the program is gone.
            LoadError: the kernel refused the tracing program.
            KernelError: the tracing program could not be attached: EBUSY, E2BIG, …
        """
        variant = self._engine.templates.variant
        copies = self._ready
        if copies is None:
            self._clear_last_packet()
            copies = self._copies((variant.first,))
        with Program.open(self._target) as target:
            self._attach(copies, target)
        self._ready = self._last = None

    def _clear_last_packet(self) -> None:
        self._wait_until_detached()
        # The content of ``entry`` and ``timing.packet`` belongs to a packet of the past.
        records = self._counts.lookup(_ONLY_KEY)
        counts = typed(records, self._engine.target_counts)
        counts["entry"] = np.zeros((), counts["entry"].dtype)
        counts["timing"]["packet"] = 0
        self._counts.update(_ONLY_KEY, records.tobytes())

    def _copies(self, names: Iterable[str]) -> list[Copy]:
        return self._engine.templates.copies(
            names, self.number, self._counts, at_egress=self._at_egress
        )

    def _attach(self, copies: Iterable[Copy], target: Program) -> None:
        """Attach one copy after the other. Pin each before the next is attached."""
        with closing(self._engine.templates.attach(copies, target, self._entry)) as attaching:
            for name, each in attaching:
                if self._pins is not None:
                    with ExitStack() as stack:
                        stack.callback(each.close)
                        self._pins.put(name, each.link)
                        stack.pop_all()
                with self._changing:
                    self._attached[name] = each
                self._does.clear()

    def does(self, spec: Spec) -> bool:
        """Return whether the attached programs do what ``spec`` says, and nothing else.

        Each scan asks this of each tracer, so the answers are kept until programs change.
        """
        if (found := self._does.get(spec)) is None:
            ways = self._engine.templates.variant.ways(spec)
            found = self._does[spec] = any(self._attached.keys() == set(way) for way in ways)
        return found

    def follow_up(self, spec: Spec, writes_packets: Callable[[Program], bool]) -> None:
        """Attach the programs that do what ``spec`` says, and detach others.

        The tracer misses no packet and counts none twice. The caller may try again after a failure.

        Args:
            spec: What to do from now on. A tracer that does more than count verdicts continues so.
            writes_packets: Returns whether a target may alter a packet. If not, the fexit program
                reads the packet, and there is no fentry program for it.

        Raises:
            KernelError: the tracer continues as before.
        """
        if self.does(spec):
            return
        variant = self._engine.templates.variant
        with Program.open(self._target) as target:
            begun = self._begun()
            wanted = self._way(spec.kind, begun, lambda: writes_packets(target))
            if variant.rest and variant.first in self._attached:
                begun = begun or wanted
                self._attach_missing(begun, target)
                self._drop([variant.first])
            if begun is not None and begun != wanted:
                self._replace(begun, wanted, target, spec.kind)

    def _way(
        self, kind: Spec, begun: tuple[str, ...] | None, writes_packets: Callable[[], bool]
    ) -> tuple[str, ...]:
        """Return the way of a kind. What is attached may tell whether the target alters packets."""
        variant = self._engine.templates.variant
        both = variant.ways(kind)
        if both[0] == both[1]:
            return both[0]
        for each in (Spec.FLOWS, Spec.TIMES):
            if begun in variant.ways(each):
                return both[variant.ways(each).index(begun)]
        return variant.way(kind, writes_packets=writes_packets())

    def _replace(self, old: Sequence[str], new: Sequence[str], target: Program, kind: Spec) -> None:
        """Attach one way, and detach the other. The caller ends the handover."""
        handover = self._engine.handover
        handover.begin(kind)
        try:
            self._attach_missing(new, target)
        except (KernelError, OSError):
            self._drop([name for name in new if name in self._attached])
            raise
        self._drop(old)
        handover.replaced(self._detached[-len(old) :])

    def _attach_missing(self, names: Iterable[str], target: Program) -> None:
        missing = [name for name in names if name not in self._attached]
        self._attach(self._copies(missing), target)

    def _begun(self) -> tuple[str, ...] | None:
        """Return the way of which some programs are attached. None if there is none."""
        variant = self._engine.templates.variant
        ways = chain(*map(variant.ways, KINDS))
        return next((way for way in ways if not self._attached.keys().isdisjoint(way)), None)

    def _drop(self, names: Sequence[str], *, last: bool = False) -> None:
        """Detach some programs. With ``last``, also record the final cost of the tracer.

        In every variant, the first of these programs is an fexit program. Its misses count.
        """
        for name in names:
            if self._pins is not None:
                self._pins.drop(name)
            self._attached[name].link.close()
        lost: list[KernelError] = []
        with self._changing, ExitStack() as stack:
            for at, name in enumerate(names):
                program = stack.enter_context(self._attached.pop(name).program)
                self._does.clear()
                try:
                    info = program.info()
                except KernelError as error:
                    lost.append(error)
                    continue
                self._missed += info.recursion_misses if at == 0 else 0
                self._spent_ns += info.run_time_ns
                self._runs += info.run_count if _is_exit(name) else 0
                self._ran |= info.run_count > 0
                self._detached.append(info.id)
            if last:
                self._last = self._reported = self._expense()
        for each in lost:
            _log.warning("the cost of a tracer is lost", program_id=self._target, error=str(each))

    def _wait_until_detached(self) -> None:
        """Wait until the kernel has unloaded the detached programs.

        The kernel detaches an unpinned link a moment later, and unloads its program only then.

        Raises:
            KernelError: a program is still loaded after ``_PATIENCE``.
        """
        end = time.monotonic() + _PATIENCE
        while any(_is_loaded(id) for id in self._detached):
            if time.monotonic() > end:
                raise KernelError("what traced it before is not detached yet", EAGAIN)
            time.sleep(0.005)
        self._detached.clear()

    @property
    def attached(self) -> bool:
        return self._last is None

    @property
    def counts_flows(self) -> bool:
        """Return whether any program is attached that does more than count verdicts."""
        return bool(self._attached.keys() - {self._engine.templates.variant.first})

    @property
    def unused(self) -> bool:
        """Return whether the tracer was never attached."""
        return self._ready is not None

    def detach(self) -> None:
        """Detach the tracer. A packet that is still in the target may count a moment later."""
        if self._last is None:
            self._drop(list(self._attached), last=True)

    def close(self) -> None:
        """Detach the tracer, and close its counts. With pins, it stays attached and counts."""
        if self._pins is None:
            self.discard()
            return
        with self._changing:
            self._last = self._reported
            for each in self._attached.values():
                each.close()
            self._counts.close()

    def discard(self) -> None:
        """Detach the tracer, and discard its counts, pinned or not."""
        self.detach()
        if self._pins is not None:
            self._pins.remove()
        with self._changing:
            self._counts.close()
        self._engine.give_up_number(self.number)

    def records(self) -> NDArray[Any]:
        """Return ``struct target_counts`` of each CPU, without the overflow records."""
        return typed(self._counts.lookup(_ONLY_KEY), self._engine.target_counts)

    def read_into(self, values: NDArray[np.uint8]) -> bool:
        """Read the bytes of ``records`` into ``values``, shape (CPUs, stride).

        Returns:
            False if the tracer is already closed.

        Raises:
            KernelError: the counts cannot be read.
        """
        with self._changing:
            if self._counts.closed:
                return False
            self._counts.lookup_into(_ONLY_KEY, values)
            return True

    def expense(self) -> Expense:
        """Return the misses and, if known, the run time. On an error, return the last values."""
        with self._changing:
            if self._last is not None:
                return self._last
            with suppress(KernelError):
                self._reported = self._expense()
            return self._reported

    def _expense(self) -> Expense:
        missed, spent, runs = self._missed, self._spent_ns, self._runs
        for at, (name, each) in enumerate(self._attached.items()):
            stats = each.program.run_stats()
            missed += stats.recursion_misses if at == 0 else 0
            spent += stats.run_time_ns
            runs += stats.run_count if _is_exit(name) else 0
            self._ran |= stats.run_count > 0
        return Expense(missed, spent / 1e9 if self._ran else None, runs)


def read_counts(tracers: Sequence[Tracer]) -> Iterator[Counted]:
    """Yield the records of many tracers, in parts. Omit those that cannot be read."""
    if not tracers:
        return
    engine = tracers[0]._engine
    info, layout = engine.templates.counts_info, engine.target_counts
    step = max(1, min(_READ_AT_ONCE, _READ_SIZE // (info.cpus * info.stride)))
    for begin in range(0, len(tracers), step):
        part = tracers[begin : begin + step]
        values = np.empty((len(part), info.cpus, info.stride), np.uint8)
        read: list[Tracer] = []
        for tracer in part:
            try:
                if tracer.read_into(values[len(read)]):
                    read.append(tracer)
            except KernelError as error:
                _log.warning("counts cannot be read", program_id=tracer._target, error=str(error))
        yield Counted(
            [tracer._target for tracer in read],
            [tracer.number for tracer in read],
            typed(values[: len(read)], layout),
        )


def _is_exit(name: str) -> bool:
    """Return whether a program of a variant runs at the exit. It runs once per packet."""
    return not name.startswith("entry_")


def _is_loaded(program_id: int) -> bool:
    try:
        Program.open(program_id).close()
    except VanishedError:
        return False
    return True
