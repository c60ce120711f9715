# SPDX-License-Identifier: Apache-2.0
"""Which programs are traced, kept in step with what discovery finds."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from errno import E2BIG, EACCES, EBUSY
from math import inf

import structlog

from xdpscope.attach.engine import Engine
from xdpscope.attach.pins import TargetPins
from xdpscope.attach.reason import Reason, Selection
from xdpscope.attach.tracer import Tracer
from xdpscope.discovery.model import Attachment, Part, Role, Snapshot, XdpProgram
from xdpscope.errors import KernelError, LoadError, VanishedError

_log = structlog.get_logger(__name__)

# What libxdp puts together only after loading it: a tracer might be in its way.
_IN_SERVICE_ONLY = (Role.DISPATCHER, Role.COMPONENT)

# A target that was refused is tried again after a second, two, four … up to this.
_LONGEST_PAUSE = 60.0


@dataclass(slots=True)
class Target:
    """One program and how it stands with us."""

    program: XdpProgram
    part: Part
    attachments: tuple[Attachment, ...] = ()
    reason: Reason | None = Reason.NOT_ATTACHED  # why its packets are not seen; None: they are
    tracer: Tracer | None = None
    refusal: Reason | None = None  # why the last attempt to attach failed
    refusals: int = 0
    again_at: float = 0.0
    flow_refusals: int = 0
    flows_again_at: float = 0.0
    shown: bool = False  # whether readers see it: not before its first ``reason`` is known
    recorded: bool = True  # False: what a tracer counted before this agent started is not read yet

    @property
    def armed(self) -> bool:
        tracer = self.tracer  # any thread may ask, while another takes the tracer away
        return tracer is not None and tracer.attached

    @property
    def idle(self) -> bool:
        """Whether a tracer of verdicts alone is in place although no packets come."""
        waits = self.armed and self.recorded and self.reason is Reason.NOT_ATTACHED
        return waits and not self.counts_flows

    @property
    def counts_flows(self) -> bool:
        tracer = self.tracer
        return tracer is not None and tracer.counts_flows

    @property
    def ends_flows(self) -> bool:
        """Whether flows are still counted although the program went out of service."""
        return self.reason is Reason.NOT_ATTACHED and self.counts_flows


class Targets:
    """Attaches and detaches tracers. Each target fails alone.

    A program is traced while it is attached somewhere. One that is loaded but attached
    nowhere is *armed*: its tracer is in place, so that not one packet is missed when it is
    put to work, in place of another program say. That must not keep it alive, so it is let
    go as soon as tracers alone hold it; and a dispatcher is not armed,
    because libxdp may still replace its entry function, which a tracer would forbid. Nor does a
    tracer stay where an extension is loaded that is meant for its place.

    The tracer of an idle program counts verdicts only. So it can be told which packets came while
    nothing ran the program: those are of BPF_PROG_RUN, and are not counted.

    One thread keeps targets in step; any thread may read them meanwhile, and waits for nothing.
    Readers may see some targets as they are now and others as they were.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._targets: dict[int, Target] = {}
        self._changing = threading.Lock()  # of that: which targets there are
        self._tidied = not engine.templates.adopted
        self._pinned: dict[int, TargetPins] = {}  # by program id; nobody's yet
        for pins in engine.pinned():
            # Without counts it was never used, or is being removed.
            if pins.has_counts and pins.program not in self._pinned:
                self._pinned[pins.program] = pins
            else:
                pins.remove()
        self._settled: tuple[Snapshot, Selection] | None = None  # with which all are in step
        self._unlogged: list[XdpProgram] = []  # newly traced
        self._complete_once = False  # whether all were ever in step
        self._found: set[int] = set()  # programs that the last scan found, and no scan before
        self.failures: Counter[Reason] = Counter()

    def __iter__(self) -> Iterator[Target]:
        with self._changing:
            found = list(self._targets.values())
        return (target for target in found if target.shown)

    def close(self) -> None:
        """Detaches every tracer that is not pinned."""
        with self._changing:
            targets, self._targets = self._targets, {}
        for target in targets.values():
            if target.tracer is not None:
                target.tracer.close()

    def reconcile(
        self, snapshot: Snapshot, selection: Selection, interrupted: Callable[[], bool]
    ) -> list[int]:
        """Brings the tracers in step with ``snapshot``; the ids of programs that are gone.

        What is pinned is taken over first, and what is pinned of programs that are gone is
        removed. Returns early, with the rest undone, once ``interrupted`` says so.
        """
        self._found.clear()
        if (
            self._settled is not None
            and snapshot is self._settled[0]
            and selection == self._settled[1]
        ):
            targets = [t for t in self if t.refusal is not None or t.ends_flows]
            self._settle(targets, snapshot, selection, interrupted)
            return [id for id in self._targets if id not in snapshot.programs]
        self._settled = None
        targets = []
        for program_id, program in snapshot.programs.items():
            if interrupted():
                return []
            part = snapshot.part_of(program)
            target = self._targets.get(program_id)
            if target is None:
                target = Target(program, part)
                with self._changing:
                    self._targets[program_id] = target
                if self._complete_once:
                    self._found.add(program_id)
            target.program, target.part = program, part
            self._adopt(target)
            target.attachments = snapshot.attachments.get(program_id, ())
            targets.append(target)
        if not self._settle(targets, snapshot, selection, interrupted):
            return []
        if not self._tidied:
            self._tidy()
        self._settled = snapshot, selection
        self._complete_once = True
        return [id for id in self._targets if id not in snapshot.programs]

    def log_attached(self) -> None:
        """Says in the log what has come to be traced. Nothing is to wait for hundreds of lines."""
        unlogged, self._unlogged = self._unlogged, []
        for program in unlogged:
            _log.info("tracing", program=program.function, program_id=program.id)

    def incomplete(self) -> list[Target]:
        """Return targets in service of which only verdicts are counted so far.

        Without those that the last scan was the first to find: to count flows of a program takes
        ten times what it takes to count its verdicts, and many programs do not live long.
        """
        return [target for target in self._waiting() if target.program.id not in self._found]

    @property
    def postponed(self) -> bool:
        """Whether ``incomplete`` leaves out a program that the last scan was the first to find."""
        return any(target.program.id in self._found for target in self._waiting())

    def _waiting(self) -> Iterator[Target]:
        now = time.monotonic()
        for target in self:
            tracer = target.tracer
            waiting = target.reason is None and tracer is not None and not tracer.complete
            if waiting and now >= target.flows_again_at:
                yield target

    def follow_up(self, target: Target) -> None:
        """Has a target's flows counted, too."""
        if target.tracer is None or not target.armed or target.tracer.complete:
            return
        try:
            target.tracer.follow_up(self._engine.writes_packets)
        except (KernelError, OSError) as error:
            self.failures[_reason_of(error)] += 1
            program = target.program
            target.flows_again_at = time.monotonic() + _pause_after(target.flow_refusals)
            target.flow_refusals += 1
            if target.flow_refusals == 1:
                _log.warning(
                    "flows are not counted",
                    program=program.function,
                    program_id=program.id,
                    error=str(error),
                )
        else:
            target.flow_refusals = 0

    def vanish(self, program_ids: Iterable[int]) -> None:
        """Marks programs as gone; their counts stay readable until ``remove``."""
        for program_id in program_ids:
            target = self._targets[program_id]
            target.attachments = ()
            target.reason = Reason.VANISHED
            self._detach(target)

    def remove(self, program_id: int) -> Target | None:
        """Take out a program that is gone; None if it is out already. Then ``discard`` it."""
        with self._changing:
            return self._targets.pop(program_id, None)

    @staticmethod
    def discard(target: Target) -> None:
        """Give up a target that was taken out, and its counts."""
        _discard(target)

    def _tidy(self) -> None:
        """Removes what is pinned and, as is now known, nobody's."""
        while self._pinned:
            program_id, pins = self._pinned.popitem()
            pins.remove()
            _log.info("gone meanwhile", program_id=program_id)
        self._engine.all_known()
        self._tidied = True

    def _adopt(self, target: Target) -> None:
        program = target.program
        pins = self._pinned.pop(program.id, None)
        if pins is None:
            return
        try:
            target.tracer = Tracer(self._engine, program, pins)
            target.recorded = False
        except (KernelError, OSError) as error:
            pins.remove()
            _log.warning(
                "cannot adopt pinned state, counters reset",
                program=program.function,
                program_id=program.id,
                error=str(error),
            )

    def _settle(
        self,
        targets: Iterable[Target],
        snapshot: Snapshot,
        selection: Selection,
        interrupted: Callable[[], bool],
    ) -> bool:
        """Attaches to those that are to be traced, lets go of the others; False if interrupted.

        All are made ready before the first is attached, so that each counts from as early as
        can be.
        """
        arming: list[tuple[Target, Reason | None]] = []
        for target in targets:
            if interrupted():
                return False
            reason = selection.reason_against(target.program, snapshot)
            arm = (
                selection.arm and reason is Reason.NOT_ATTACHED and self._may_arm(target, snapshot)
            )
            if reason is None or arm:
                if not target.armed:
                    self._prepare(target)
                    arming.append((target, reason))
                    continue
                # At the second scan: one alone may have missed a device that moved.
                if arm and target.ends_flows:
                    self._stop_flows(target)
            elif target.armed:
                self._detach(target)
                program = target.program
                _log.info(
                    "tracer detached",
                    program=program.function,
                    program_id=program.id,
                    reason=reason,
                )
            if reason is None and target.reason is not None:
                self._unlogged.append(target.program)
            if reason is Reason.UNSUPPORTED_ENTRY and target.reason is not reason:
                _cannot_trace(target.program, reason, target.program.entry_problem)
            target.reason, target.shown = reason, True
        for target, reason in arming:
            if interrupted():
                return False
            self._arm(target)
            target.reason, target.shown = reason or target.refusal, True
            if target.reason is None:
                self._unlogged.append(target.program)
        return True

    def _may_arm(self, target: Target, snapshot: Snapshot) -> bool:
        program = target.program
        if program.role in _IN_SERVICE_ONLY or program.id in snapshot.claimed:
            return False
        return self._engine.tells_targets and snapshot.holders.get(program.id, 0) > 0

    def _prepare(self, target: Target) -> None:
        """Makes what it takes to attach a tracer, unless it is there or too early."""
        if target.tracer is not None or time.monotonic() < target.again_at:
            return
        try:
            target.tracer = Tracer(self._engine, target.program)
        except (KernelError, OSError) as error:
            self._refused(target, error)

    def _arm(self, target: Target) -> None:
        """Attaches a tracer; else ``refusal`` says why not."""
        if target.tracer is None or time.monotonic() < target.again_at:
            return
        try:
            target.tracer.attach()
        except (KernelError, OSError) as error:
            self._refused(target, error)
        else:
            target.refusal, target.refusals = None, 0

    def _stop_flows(self, target: Target) -> None:
        """Replace the tracer of a program that went out of service by one of verdicts."""
        if target.tracer is None:
            return
        self._detach(target)
        try:
            target.tracer.attach()
        except (KernelError, OSError) as error:
            self._refused(target, error)

    @staticmethod
    def _detach(target: Target) -> None:
        if target.tracer is None:
            return
        try:
            target.tracer.detach()
        except (KernelError, OSError) as error:
            _log.warning("cannot detach", program_id=target.program.id, error=str(error))

    def _refused(self, target: Target, error: KernelError | OSError) -> None:
        if target.tracer is not None and target.tracer.unused:
            _discard(target)
        target.refusal = reason = _reason_of(error)
        self.failures[reason] += 1
        target.again_at = time.monotonic() + _pause_after(target.refusals)
        if reason is Reason.UNSUPPORTED_ENTRY:
            target.again_at = inf  # The verifier's answer stays the same.
        target.refusals += 1
        if target.refusals == 1:
            _cannot_trace(target.program, reason, str(error))


def _discard(target: Target) -> None:
    tracer, target.tracer = target.tracer, None
    if tracer is None:
        return
    try:
        tracer.discard()
    except (KernelError, OSError) as error:
        _log.warning("cannot remove a tracer", program_id=target.program.id, error=str(error))


def _pause_after(refusals: int) -> float:
    """Seconds until the next attempt."""
    return min(_LONGEST_PAUSE, 2.0 ** min(refusals, 10))


def _cannot_trace(program: XdpProgram, reason: Reason, error: str) -> None:
    # That a program is gone before we come is nobody's fault.
    say = _log.info if reason is Reason.VANISHED else _log.warning
    say(
        "cannot trace",
        program=program.function,
        program_id=program.id,
        reason=reason,
        error=error,
    )


def _reason_of(error: KernelError | OSError) -> Reason:
    if isinstance(error, VanishedError):
        return Reason.VANISHED
    if isinstance(error, LoadError) and error.errno == EACCES and error.log:
        # The verifier lets the same tracer read the packet of other targets, but not of this one.
        return Reason.UNSUPPORTED_ENTRY
    return Reason.BUSY if error.errno in (EBUSY, E2BIG) else Reason.KERNEL_REFUSED
