# SPDX-License-Identifier: Apache-2.0
"""Attach and detach tracers, so that they match the programs that discovery finds."""

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
from xdpscope.attach.spec import Spec
from xdpscope.attach.tracer import Tracer
from xdpscope.discovery.model import Attachment, Part, Role, Snapshot, XdpProgram
from xdpscope.errors import KernelError, LoadError, VanishedError

_log = structlog.get_logger(__name__)

# libxdp completes these programs only after it loads them. A tracer could prevent that.
_IN_SERVICE_ONLY = (Role.DISPATCHER, Role.COMPONENT)

# The agent retries a target that was refused after 1, 2, 4, … seconds, up to this.
_LONGEST_PAUSE = 60.0


@dataclass(slots=True)
class Target:
    """Hold one target: a program, its tracer, and the results of attempts to trace it."""

    program: XdpProgram
    part: Part
    attachments: tuple[Attachment, ...] = ()
    reason: Reason | None = Reason.NOT_ATTACHED  # why it is not traced; None: traced
    tracer: Tracer | None = None
    refusal: Reason | None = None  # why the last attempt to attach failed
    refusals: int = 0
    again_at: float = 0.0
    flow_refusals: int = 0
    flows_again_at: float = 0.0
    shown: bool = False  # whether readers see it; True once its first ``reason`` is known
    recorded: bool = True  # False until the agent has read the counts of an adopted tracer

    @property
    def armed(self) -> bool:
        tracer = self.tracer  # one thread may call this while another removes the tracer
        return tracer is not None and tracer.attached

    @property
    def idle(self) -> bool:
        """Return whether the tracer counts verdicts only, and the program is not in service."""
        waits = self.armed and self.recorded and self.reason is Reason.NOT_ATTACHED
        return waits and not self.counts_flows

    @property
    def counts_flows(self) -> bool:
        tracer = self.tracer
        return tracer is not None and tracer.counts_flows

    @property
    def ends_flows(self) -> bool:
        """Return whether the tracer still counts flows after the program went out of service."""
        return self.reason is Reason.NOT_ATTACHED and self.counts_flows


class Targets:
    """Attach and detach tracers. A failure of one target does not affect the others.

    The agent traces a program while it is in service. A program that is loaded but not yet in
    service is *armed*: it has a tracer, so that its first packet counts. Three rules limit this:

    - A tracer must not keep its target alive. The agent detaches it as soon as only tracers hold
      references to the program.
    - A dispatcher or a component is not armed. libxdp may still replace the entry function of a
      dispatcher, which a tracer would prevent.
    - The agent detaches a tracer when an extension is loaded for the same entry function.

    The tracer of an idle program counts verdicts only. The packets of an idle program come from
    BPF_PROG_RUN, and the agent does not add them to the totals.

    One thread changes targets. Any thread may read them at the same time, without waiting. A reader
    may then see some targets before a change and others after it.
    """

    def __init__(self, engine: Engine, specs: Callable[[Target], Spec]) -> None:
        """Find pinned state, and adopt none yet.

        Args:
            engine: What the tracers share.
            specs: Returns what the tracer of a target must do, for all probes together.
        """
        self._engine = engine
        self._specs = specs
        self._targets: dict[int, Target] = {}
        self._changing = threading.Lock()  # guards the set of targets
        self._tidied = not engine.templates.adopted
        self._pinned: dict[int, TargetPins] = {}  # by program id; not adopted yet
        for pins in engine.pinned():
            # Pins without counts were never used, or an agent ended while it removed them.
            if pins.has_counts and pins.program not in self._pinned:
                self._pinned[pins.program] = pins
            else:
                pins.remove()
        self._settled: tuple[Snapshot, Selection] | None = None  # what all targets match
        self._unlogged: list[XdpProgram] = []  # newly traced
        self._complete_once = False  # whether all targets have matched a scan once
        self._found: set[int] = set()  # programs that the last scan found, and no scan before
        self.failures: Counter[Reason] = Counter()

    def __iter__(self) -> Iterator[Target]:
        with self._changing:
            found = list(self._targets.values())
        return (target for target in found if target.shown)

    def close(self) -> None:
        """Detach every tracer that is not pinned."""
        with self._changing:
            targets, self._targets = self._targets, {}
        for target in targets.values():
            if target.tracer is not None:
                target.tracer.close()

    def reconcile(
        self, snapshot: Snapshot, selection: Selection, interrupted: Callable[[], bool]
    ) -> list[int]:
        """Attach and detach tracers to match ``snapshot``. Return the ids of vanished programs.

        This call first adopts pinned state. At the end, it removes the pins of programs that
        have vanished. It returns early, with part of the work, once ``interrupted`` returns true.
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
        """Log newly traced programs.

        The scan calls this after it has attached all tracers, because hundreds of lines take time.
        """
        unlogged, self._unlogged = self._unlogged, []
        for program in unlogged:
            _log.info("tracing", program=program.function, program_id=program.id)

    def incomplete(self) -> list[Target]:
        """Return targets in service whose tracers do not do what the probes need.

        The result omits programs that the last scan found first. To start counting the flows of a
        program takes twenty times as long as its verdicts, and many programs are short-lived.
        """
        now = time.monotonic()
        return [
            target
            for target in self
            if target.program.id not in self._found and self._is_waiting(target, now)
        ]

    @property
    def postponed(self) -> bool:
        """Return whether ``incomplete`` omits a program that the last scan found first."""
        now = time.monotonic()
        found = map(self._targets.get, self._found)
        return any(target is not None and self._is_waiting(target, now) for target in found)

    def _is_waiting(self, target: Target, now: float) -> bool:
        if target.reason is not None or target.tracer is None or now < target.flows_again_at:
            return False
        return not target.tracer.does(self._specs(target))

    def follow_up(self, target: Target) -> None:
        """Let the tracer of a target do what the probes need."""
        if target.tracer is None or not target.armed:
            return
        try:
            target.tracer.follow_up(self._specs(target), self._engine.writes_packets)
        except (KernelError, OSError) as error:
            self.failures[_reason_of(error)] += 1
            program = target.program
            target.flows_again_at = time.monotonic() + _pause_after(target.flow_refusals)
            target.flow_refusals += 1
            if target.flow_refusals == 1:
                without_flows = self._engine.templates.variant.rest and not target.counts_flows
                _log.warning(
                    "flows are not counted" if without_flows else "tracer not replaced",
                    program=program.function,
                    program_id=program.id,
                    error=str(error),
                )
        else:
            target.flow_refusals = 0

    def vanish(self, program_ids: Iterable[int]) -> None:
        """Mark programs as vanished. Their counts stay readable until ``remove``."""
        for program_id in program_ids:
            target = self._targets[program_id]
            target.attachments = ()
            target.reason = Reason.VANISHED
            self._detach(target)

    def remove(self, program_id: int) -> Target | None:
        """Remove a vanished program, and return its target for ``discard``.

        Return None if the program is already removed.
        """
        with self._changing:
            return self._targets.pop(program_id, None)

    @staticmethod
    def discard(target: Target) -> None:
        """Discard the tracer of a removed target, and its counts."""
        _discard(target)

    def _tidy(self) -> None:
        """Remove the pins that no target has adopted, because their programs have vanished."""
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
        """Attach the tracers that are needed, and detach the others. Return False if interrupted.

        This call prepares all tracers before it attaches the first one. Each tracer then starts to
        count as early as possible.
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
                # Two scans have found the program out of service. A single scan may have missed a
                # device that moved.
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
        return self._engine.reports_targets and snapshot.holders.get(program.id, 0) > 0

    def _prepare(self, target: Target) -> None:
        """Create a tracer, unless the target has one or the next attempt is not due."""
        if target.tracer is not None or time.monotonic() < target.again_at:
            return
        try:
            target.tracer = Tracer(self._engine, target.program)
        except (KernelError, OSError) as error:
            self._refused(target, error)

    def _arm(self, target: Target) -> None:
        """Attach the tracer of a target. If that fails, set ``refusal``."""
        if target.tracer is None or time.monotonic() < target.again_at:
            return
        try:
            target.tracer.attach()
        except (KernelError, OSError) as error:
            self._refused(target, error)
        else:
            target.refusal, target.refusals = None, 0

    def _stop_flows(self, target: Target) -> None:
        """Replace the tracing programs of a target out of service by one that counts verdicts."""
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
            target.again_at = inf  # The verifier would refuse every time.
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
    """Return the seconds until the next attempt."""
    return min(_LONGEST_PAUSE, 2.0 ** min(refusals, 10))


def _cannot_trace(program: XdpProgram, reason: Reason, error: str) -> None:
    # A program may vanish before the agent traces it. That is not an error.
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
        # The verifier allows the same tracer to read the packets of other targets, but not of
        # this target.
        return Reason.UNSUPPORTED_ENTRY
    return Reason.BUSY if error.errno in (EBUSY, E2BIG) else Reason.KERNEL_REFUSED
