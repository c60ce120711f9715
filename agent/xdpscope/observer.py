# SPDX-License-Identifier: Apache-2.0
"""Observe the host: discover programs, trace them, and let probes read what their tracers count.

One thread calls ``scan``. Any thread may read program statuses. The observer holds no lock while it
loads, attaches and detaches tracers.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from errno import EAGAIN
from math import inf
from typing import TYPE_CHECKING, Self

from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Reason, Selection
from xdpscope.attach.targets import Target, Targets
from xdpscope.counters.counter_reader import Counted
from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.retention import Retention
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import Snapshot
from xdpscope.errors import KernelError
from xdpscope.probes.running import RunningProbes
from xdpscope.report import ProgramStatus, TracerCost
from xdpscope.target_reader import TargetReader

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps


@contextmanager
def _noting(failures: list[KernelError | OSError]) -> Iterator[None]:
    """Append an error of the kernel to ``failures``, and continue."""
    try:
        yield
    except (KernelError, OSError) as error:
        failures.append(error)


class Observer:
    """Find programs and trace them. The probes say what the tracers do, and read them."""

    def __init__(
        self,
        engine: Engine,
        inventory: Inventory,
        selection: Selection,
        probes: RunningProbes,
        scan_wanted: Callable[[], None] = lambda: None,
    ) -> None:
        """Create an observer. It observes nothing until ``scan``.

        Args:
            engine: Creates the tracers.
            inventory: Finds the programs.
            selection: The programs and interfaces to observe.
            probes: All probes. The caller updates and closes them.
            scan_wanted: Any thread calls this when the next scan has work for tracers.
        """
        self.scan_wanted = scan_wanted
        self._engine = engine
        self._inventory = inventory
        self._selection = selection
        self._probes = probes
        self._interrupt = threading.Event()
        self._snapshot = Snapshot()
        self._targets = Targets(engine, probes.specs)
        self._reader = TargetReader(
            engine, self._targets, selection, everywhere=inventory.everywhere
        )
        self._programs_gone: Retention[int] = Retention()
        self._scanned = False
        self._unfinished = 0
        probes.open(self._reader)

    def close(self) -> None:
        """Detach every tracer that is not pinned. A running ``scan`` ends soon."""
        self._interrupt.set()
        self._targets.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def interrupt(self) -> None:
        """Make a running ``scan`` end before its next target."""
        self._interrupt.set()

    @property
    def scanned(self) -> bool:
        """Return whether a first scan is complete."""
        return self._scanned

    @property
    def unfinished(self) -> int:
        """Return how many programs wait for the next scan to start counting their flows."""
        return self._unfinished

    @property
    def snapshot(self) -> Snapshot:
        """Return the snapshot of the last scan. It is empty before the first scan."""
        return self._snapshot

    @property
    def postponed(self) -> bool:
        """Return whether the next scan must come soon, to count the flows of new programs."""
        return self._targets.postponed

    @property
    def watches_devices(self) -> bool:
        """Return whether tracers recognise devices without reading their identity per packet."""
        return self._engine.watches_devices

    @property
    def sample_rate(self) -> int:
        """Return the sample rate: one of this many packets counts for flows; 0: none."""
        return self._engine.sample_rate

    @property
    def usual_sample_rate(self) -> int | None:
        """Return ``flows.sample_rate``. None if flows are not counted."""
        return self._engine.usual_sample_rate if self._engine.flow_sizes is not None else None

    def sample_flows(self, rate: int, without: Set[int] = frozenset()) -> None:
        """Take one of this many packets for flows from now on. With 0, take none.

        Args:
            rate: The sample rate.
            without: Ids of programs, with rate 0: the next scan replaces their tracers by ones that
                take no packets, and cost less.

        Raises:
            KernelError: the rate stays.
        """
        if rate != self._engine.sample_rate or without != self._engine.without_flows:
            self._engine.sample_flows(rate, without)
            self.scan_wanted()

    def costs(self) -> list[TracerCost]:
        """Return what the kernel has counted about each tracer. It never waits for a scan."""
        found = []
        for target in self._targets:
            tracer = target.tracer
            if tracer is not None:
                expense = tracer.expense()
                found.append(TracerCost(target.program, expense.runs, expense.run_seconds or 0.0))
        return found

    def reconfigure(self, selection: Selection, *, everywhere: bool | None = None) -> None:
        """Use another selection from the next scan on.

        Args:
            selection: The programs and interfaces to observe.
            everywhere: Whether to observe all network namespaces, or only that of the agent. None:
                this stays.
        """
        if everywhere is not None:
            self._inventory.everywhere = everywhere
        self._selection = selection
        self._reader.reconfigure(selection, everywhere=self._inventory.everywhere)

    def scan(self, retention: float, follow_up: float = inf) -> None:
        """Scan the host, and attach and detach tracers to match it.

        Args:
            retention: Seconds for which the series of a vanished program or interface stay.
            follow_up: Seconds in which the scan starts to count the flows of newly traced programs.
                It always does so for at least one program. The others are ``unfinished``, because
                the scan finds nothing new during this time.

        Raises:
            KernelError: a part of the host could not be read. The last state of that part stays,
                and the scan did everything else.
            OSError: a part of the host could not be read, as for KernelError.
        """
        failures: list[KernelError | OSError] = []
        self._unfinished = 0
        idle: list[Counted] = []
        overflow: Mapping[int, OverflowReading] = {}
        with _noting(failures):
            # Read this before the inventory. A program that is not in service in the inventory has
            # run only in tests until now.
            idle, overflow = self._reader.do(self._reader.read_idle)
        snapshot = self._inventory.take()
        failures += self._inventory.failures
        if not failures:
            with _noting(failures):
                self._reader.do(
                    lambda: self._reader.counters.skip(idle, overflow, snapshot.in_service)
                )
        with _noting(failures):
            self._engine.check_devices(snapshot.interfaces.keys())
        self._reader.do(lambda: self._apply(snapshot, failures, retention))
        incomplete = self._trace(snapshot, retention)
        self._targets.log_attached()
        end = time.monotonic() + follow_up
        try:
            for number, target in enumerate(incomplete):
                if self._interrupt.is_set():
                    return
                if number and time.monotonic() >= end:
                    self._unfinished = len(incomplete) - number
                    break
                self._targets.follow_up(target)
        finally:
            with _noting(failures):
                self._engine.end_handover()
        if failures:
            raise failures[0]

    def _apply(
        self, snapshot: Snapshot, failures: list[KernelError | OSError], retention: float
    ) -> "Steps[None]":
        with self._engine.vacancies.reading() as still:
            if not still:
                failures.append(KernelError("a CPU does not finish moving a record", EAGAIN))
            yield from self._apply_still(snapshot, failures)
            if self._scanned:
                with _noting(failures):
                    yield from self._reader.publish_gone(retention)

    def _apply_still(
        self, snapshot: Snapshot, failures: list[KernelError | OSError]
    ) -> "Steps[None]":
        """Add all counts to the totals under the old names, then use the names of ``snapshot``."""
        reader, names = self._reader, self._reader.device_names
        names.expect(snapshot)
        overflow: Mapping[int, OverflowReading] = {}
        with _noting(failures):
            overflow = yield from reader.record(names.at_once)
            yield from self._probes.read()
        if snapshot is not self._snapshot:
            # Add the packets that came while the probes read. Renamed and vanished interfaces
            # still have their old names.
            with _noting(failures):
                overflow = yield from reader.record(names.at_once)
        names.settle()
        self._snapshot = snapshot
        reader.uppers.update(snapshot, time.monotonic())
        if self._scanned:  # before, some records may not be in the totals yet
            with _noting(failures):
                yield from reader.delete_overflow(overflow)

    def _trace(self, snapshot: Snapshot, retention: float) -> list[Target]:
        """Attach and detach tracers. Return the targets that do not do yet what probes need."""
        gone = self._targets.reconcile(snapshot, self._selection, self._interrupt.is_set)
        if self._interrupt.is_set():
            return []
        self._targets.vanish(gone)
        for target in self._reader.do(lambda: self._retire(set(gone), retention)):
            self._targets.discard(target)
        self._scanned = True
        self._probes.prepare()
        return self._targets.incomplete()

    def _retire(self, programs: set[int], retention: float) -> "Steps[list[Target]]":
        """Remove programs and locations after their retention.

        Returns:
            The removed targets. The caller discards them without holding the lock.
        """
        now = time.monotonic()
        for id in programs:
            self._programs_gone.gone(id, now)
        for id in set(self._programs_gone) - programs:
            self._programs_gone.back(id)
        removed: list[Target] = []
        for id in self._programs_gone.over(now, retention):
            target = self._targets.remove(id)
            if target is not None:
                removed.append(target)
            self._reader.forget(id, target)
            self._probes.forget(id)
            yield
        yield from self._reader.retire_locations(self._snapshot, now, retention)
        return removed

    def statuses(self) -> list[ProgramStatus]:
        """Return the status of every program, in the order of their ids.

        Raises:
            ObserverBusyError: a scan is busy for long.
        """

        def steps() -> "Steps[list[ProgramStatus]]":
            found: list[ProgramStatus] = []
            for part in self._reader.parts():
                found += map(_status, part)
                yield
            return sorted(found, key=lambda status: status.program.id)

        return self._reader.read(steps)

    def attach_failures(self) -> Counter[Reason]:
        """Return how often attaching a tracer failed, by reason."""
        return Counter(self._targets.failures)


def _status(target: Target) -> ProgramStatus:
    tracer = target.tracer
    expense = tracer.expense() if tracer is not None else None
    return ProgramStatus(
        program=target.program,
        part=target.part,
        attachments=target.attachments,
        reason=target.reason,
        missed=expense.missed if expense else 0,
        run_seconds=expense.run_seconds if expense else None,
        runs=expense.runs if expense else 0,
    )
