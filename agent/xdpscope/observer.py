# SPDX-License-Identifier: Apache-2.0
"""The host as it is observed: discovery, tracing and accounting.

One thread runs ``scan``, now and then; any thread may ask for counts and programs. A lock guards
what is accounted. Reading the kernel's tables and booking what is in them goes in short steps, with
the lock held for one step at a time (``read_lock.py``). To load, attach and detach tracers takes
no lock.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Self

from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Reason, Selection
from xdpscope.attach.targets import Target, Targets
from xdpscope.attach.tracer import read_counts
from xdpscope.config import Flows
from xdpscope.counters.by_cpu import CpuCounts, add_overflow, by_cpu
from xdpscope.counters.counter_reader import Counted, CounterReader
from xdpscope.counters.device_names import UNKNOWN_LOCATION, DeviceNames, Uppers
from xdpscope.counters.flow_query import FlowQuery
from xdpscope.counters.flows import PATIENCE, FlowTotals, HeldFlows
from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.overflow_cleanup import OverflowCleanup
from xdpscope.counters.records import Reading
from xdpscope.counters.retention import Retention
from xdpscope.counters.series_index import Owner, SeriesIndex
from xdpscope.counters.totals import Location, LocationOf, Tally, Totals
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import Snapshot, XdpProgram
from xdpscope.errors import KernelError
from xdpscope.kernel.netns import HOST
from xdpscope.read_lock import ReadLock, Work
from xdpscope.report import Count, FlowReport, FlowRow, FlowsFound, ProgramStatus

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps

# Interfaces come and go all day where containers do, under ever new names. So many that
# are gone keep their totals, to go on from should the name come back.
_LOCATIONS_REMEMBERED = 4096

# So many overflow records are deleted at each scan, and in each of its steps.
_FORGOTTEN_AT_ONCE = 1000
_FORGOTTEN_IN_STEP = 100

# So many programs are listed in each step.
_LISTED_IN_STEP = 8

_NO_TALLY = Tally()


def _selects(glob: str | None, *names: str) -> bool:
    """Return whether a shell glob matches one of the names; None matches everything."""
    return glob is None or glob in names or any(fnmatchcase(name, glob) for name in names)


@contextmanager
def _noting(failures: list[KernelError | OSError]) -> Iterator[None]:
    """Go on after an error of the kernel's, and keep it."""
    try:
        yield
    except (KernelError, OSError) as error:
        failures.append(error)


class Observer:
    """Finds programs, traces them, keeps their accounts."""

    def __init__(
        self,
        engine: Engine,
        inventory: Inventory,
        selection: Selection,
        flows: Flows | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Observe nothing yet.

        Args:
            engine: What traces programs.
            inventory: What finds them.
            selection: Which of them, and of their interfaces, are observed.
            flows: Limits of what is kept of flows.
            patience: Seconds for which a client is waited for to see a flow's new series at 0.
        """
        self._engine = engine
        self._inventory = inventory
        self._selection = selection
        self._lock = ReadLock()
        self._work = Work(self._lock)
        self._interrupt = threading.Event()
        self._snapshot = Snapshot()
        self._device_names = DeviceNames()
        self._uppers = Uppers()
        self._overflow = OverflowCleanup()
        self._totals = Totals()
        self._targets = Targets(engine)
        self._programs_gone: Retention[int] = Retention()
        self._locations_gone: Retention[Location] = Retention()
        self._locations_hidden: dict[Location, None] = {}
        self._scanned = False
        self._unfinished = 0
        self._booked_at = self._flows_at = -inf  # when the last complete readings began
        self._counter_reader = CounterReader(self._totals)
        self._series_index = SeriesIndex()
        tables = engine.flow_tables()
        self._flows = FlowTotals(tables, flows or Flows(), patience) if tables else None
        self._flows_of = -1  # version of the books at whose flows were read last

    def close(self) -> None:
        """Detaches every tracer that is not pinned; a ``scan`` under way ends soon."""
        self._interrupt.set()
        self._targets.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def interrupt(self) -> None:
        """Has a ``scan`` under way end before its next target."""
        self._interrupt.set()

    @property
    def scanned(self) -> bool:
        """Whether there was a first complete look."""
        return self._scanned

    @property
    def unfinished(self) -> int:
        """Of how many programs the flows are still to be counted: another look does that."""
        return self._unfinished

    @property
    def snapshot(self) -> Snapshot:
        """What the last scan found; empty before the first."""
        return self._snapshot

    @property
    def postponed(self) -> bool:
        """Whether another look is to come soon: flows of programs new in the last one are left."""
        return self._targets.postponed

    @property
    def watches_devices(self) -> bool:
        """Whether devices are recognised without reading their identity for each packet."""
        return self._engine.watches_devices

    @property
    def sample_rate(self) -> int:
        """Of so many packets one is taken for flows."""
        return self._engine.sample_rate

    def reconfigure(
        self, selection: Selection, flows: Flows | None = None, *, everywhere: bool | None = None
    ) -> None:
        """Observes, from the next look on, what this scope has in it, within these limits.

        Args:
            selection: Programs and interfaces.
            flows: If given, limits of what is kept of flows.
            everywhere: If given, whether in all network namespaces or in our own alone.
        """
        with self._lock:
            self._selection = selection
            if everywhere is not None:
                self._inventory.everywhere = everywhere
            if self._flows is not None and flows is not None:
                self._flows.limits = flows

    def scan(self, retention: float, follow_up: float = inf) -> None:
        """Looks at the host, and attaches and detaches what has changed.

        Args:
            retention: Seconds for which what is gone stays on the page.
            follow_up: Seconds in which programs newly traced get their flows counted, too; at
                least one does. The others are ``unfinished``: meanwhile nothing new is seen.

        Raises:
            KernelError: some part of the host cannot be looked at: what was found there before
                stays. Everything else was done.
            OSError: the same.
        """
        failures: list[KernelError | OSError] = []
        self._unfinished = 0
        idle: list[Counted] = []
        overflow: Mapping[int, OverflowReading] = {}
        with _noting(failures):
            # Before the inventory: what is not in service then has run in tests only until now.
            idle, overflow = self._work.do(self._read_idle)
        snapshot = self._inventory.take()
        failures += self._inventory.failures
        if not failures:
            with _noting(failures):
                self._work.do(
                    lambda: self._counter_reader.skip(idle, overflow, snapshot.in_service)
                )
        with _noting(failures):
            self._engine.check_devices(snapshot.interfaces.keys())
        self._work.do(lambda: self._apply(snapshot, failures))
        incomplete = self._trace(snapshot, retention)
        self._targets.log_attached()
        end = time.monotonic() + follow_up
        for number, target in enumerate(incomplete):
            if self._interrupt.is_set():
                return
            if number and time.monotonic() >= end:
                self._unfinished = len(incomplete) - number
                break
            self._targets.follow_up(target)
        if failures:
            raise failures[0]

    def _read_idle(self) -> "Steps[tuple[list[Counted], Mapping[int, OverflowReading]]]":
        """Read what idle programs have counted up to now: it is not to be booked."""
        idle: list[Counted] = []
        for part in read_counts([t.tracer for t in self._targets if t.idle and t.tracer]):
            idle.append(part)
            yield
        overflowing = any(part.records["devices_overflow"].any() for part in idle)
        return idle, (yield from self._engine.overflow()) if overflowing else {}

    def _apply(self, snapshot: Snapshot, failures: list[KernelError | OSError]) -> "Steps[None]":
        """Book all there is under the names of before, then go over to those of ``snapshot``."""
        self._device_names.expect(snapshot)
        overflow: Mapping[int, OverflowReading] = {}
        with _noting(failures):
            overflow = yield from self._record(self._device_names.at_once)
            yield from self._read_flows(self._device_names.at_once)
        if snapshot is not self._snapshot:
            # Under the old names still, of interfaces that were renamed or are gone: what
            # has come since the flows were read.
            with _noting(failures):
                overflow = yield from self._record(self._device_names.at_once)
        self._device_names.settle()
        self._snapshot = snapshot
        self._uppers.update(snapshot, time.monotonic())
        if self._scanned:  # else there may be some that were never booked
            with _noting(failures):
                yield from self._delete_overflow(overflow)

    def _trace(self, snapshot: Snapshot, retention: float) -> list[Target]:
        """Attach and detach tracers; return programs of which flows are to be counted, too."""
        gone = self._targets.reconcile(snapshot, self._selection, self._interrupt.is_set)
        if self._interrupt.is_set():
            return []
        self._targets.vanish(gone)
        for target in self._work.do(lambda: self._retire(set(gone), retention)):
            self._targets.discard(target)
        self._scanned = True
        return self._targets.incomplete()

    @property
    def flows_held(self) -> int | None:
        """How many flows there were at the last reading; None if none are kept."""
        return self._flows.entries if self._flows is not None else None

    def counts(self, since: float | None = None) -> list[Count]:
        """The totals of this moment of every program and place to be shown.

        Args:
            since: A moment of the monotonic clock. What anybody has read since then is not read
                again. All that read counts take this.

        Raises:
            ObserverBusyError: a scan is busy for long. So do all that read counts and programs.
        """
        began = time.monotonic() if since is None else since

        def steps() -> "Steps[list[Count]]":
            if self._booked_at <= began:
                yield from self._record(self._device_names.of)
            found: list[Count] = []
            for part in _parts(self._targets):
                found += (
                    Count(target.program, location, tally.copy())
                    for target in part
                    for location, tally in self._shown(target)
                )
                yield
            return found

        return self._work.do(steps, self._lock.reading)

    def cpu_counts(self) -> dict[Owner, CpuCounts]:
        """Return the counts of each CPU by program's id and location; see counters/by_cpu.py."""

        def steps() -> "Steps[dict[Owner, CpuCounts]]":
            found: dict[int, dict[Location, CpuCounts]] = {}
            programs: dict[int, int] = {}
            tracers = [tracer for t in self._targets if not t.idle and (tracer := t.tracer)]
            for part in read_counts(tracers):
                programs.update(zip(part.numbers, part.programs, strict=True))
                for number, records in zip(part.numbers, part.records, strict=True):
                    found[number] = by_cpu(records, self._device_names.of)
                yield
            for number, records in self._engine.overflow_records():
                if number in found:
                    add_overflow(found[number], records, self._device_names.of)
                yield
            return {
                (programs[number], location): counts
                for number, locations in found.items()
                for location, counts in locations.items()
            }

        return self._work.do(steps, self._lock.reading)

    def flow_counts(self, client: str = "", since: float | None = None) -> FlowReport | None:
        """Return the flows of this moment; None if none are kept.

        Args:
            client: Who is shown them: a scraper, by whatever tells it from others. Empty: nobody.
            since: See ``counts``.
        """
        began = time.monotonic() if since is None else since

        def steps() -> "Steps[FlowReport | None]":
            flows = self._flows
            if flows is None:
                return None
            yield from self._update_flows(began)
            report = FlowReport(
                flows.entries,
                dict(flows.evictions),
                self._engine.sample_rate,
                max_entries=flows.limits.max_entries,
            )
            shown = {}
            for part in _parts(self._targets):
                for target in part:
                    for location, tally in self._shown(target):
                        owner = target.program.id, location
                        shown[owner] = target.program
                        report.others.append(Count(target.program, location, flows.other(owner)))
                        report.unaccounted.append(Count(target.program, location, tally.copy()))
                yield
            if client:
                flows.shown(client, time.monotonic())
            report.exported.extend(
                FlowRow.of(shown[count.owner], count)
                for count in flows.exported
                if count.owner in shown
            )
            return report

        return self._work.do(steps, self._lock.reading)

    def held_flows(self, query: FlowQuery | None = None) -> FlowsFound:
        """Return flows that are held; by default all, those with the highest rates first."""
        query = query or FlowQuery()
        began = time.monotonic()
        programs: dict[int, XdpProgram] = {}

        def steps() -> "Steps[HeldFlows | None]":
            if self._flows is None:
                return None
            yield from self._update_flows(began)
            programs.update((target.program.id, target.program) for target in self._targets)
            series = self._series_index.series_where(self._admitted_by(query, programs))
            return self._flows.held(self._series_index, query, series)

        held = self._work.do(steps, self._lock.reading)
        if held is None:
            return FlowsFound(enabled=False)
        # Without the lock: describing thousands of flows takes a while.
        flows = [FlowRow.of(programs[count.owner[0]], count) for count in held.describe()]
        return FlowsFound(flows, held.matched, held.entries, self.sample_rate)

    def _admitted_by(
        self, query: FlowQuery, programs: Mapping[int, XdpProgram]
    ) -> Callable[[int, Location], bool]:
        """Return whether a query admits flows of a program's id at a location."""
        wanted = {
            id for id, program in programs.items() if _selects(query.program, *program.selectors)
        }

        def admitted(program: int, location: Location) -> bool:
            netns, interface = location
            return (
                program in wanted
                and _selects(query.netns, netns)
                and _selects(query.interface, interface, *self._uppers.of(location))
            )

        return admitted

    def statuses(self) -> list[ProgramStatus]:
        """Every program there is, in the order of their ids."""

        def steps() -> "Steps[list[ProgramStatus]]":
            found: list[ProgramStatus] = []
            for part in _parts(self._targets):
                found += map(self._status, part)
                yield
            return sorted(found, key=lambda status: status.program.id)

        return self._work.do(steps, self._lock.reading)

    def attach_failures(self) -> Counter[Reason]:
        """How often attaching a tracer failed, by reason."""
        return Counter(self._targets.failures)

    def _shown(self, target: Target) -> Iterator[tuple[Location, Tally]]:
        totals = self._totals.of(target.program.id)
        locations = dict.fromkeys(totals)
        if target.reason is None:
            # Noughts too, so that a rate knows where a count began.
            locations.update(
                dict.fromkeys((at.netns, at.interface) for at in target.attachments if at.receives)
            )
        for location in locations:
            if location not in self._locations_hidden and self._admits(location):
                yield location, totals.get(location, _NO_TALLY)

    @staticmethod
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
        )

    def _admits(self, location: Location) -> bool:
        netns, interface = location
        if not self._inventory.everywhere and netns != HOST and location != UNKNOWN_LOCATION:
            return False
        return self._selection.interfaces.admits(interface, *self._uppers.of(location))

    def _record(self, location_of: LocationOf) -> "Steps[Mapping[int, OverflowReading]]":
        """Book all there is; return what the engine's ``overflow`` had."""
        began = time.monotonic()
        overflow = yield from self._engine.overflow()
        tracers, idle = [], set()
        for target in self._targets:
            tracer = target.tracer
            if tracer is None:
                continue
            if target.idle:
                idle.add(tracer.number)
            else:
                tracers.append(tracer)
                target.recorded = True
        yield
        yield from self._counter_reader.record(read_counts(tracers), overflow, location_of, idle)
        self._booked_at = began
        return overflow

    def _update_flows(self, began: float) -> "Steps[None]":
        """Read totals and flows, unless both were read after that moment."""
        if self._booked_at <= began:
            yield from self._record(self._device_names.of)
        if self._flows_at <= began:
            yield from self._read_flows(self._device_names.of)

    def _read_flows(self, location_of: LocationOf) -> "Steps[None]":
        """Read the flows. The totals must have been booked before: see counters/flows.py."""
        if self._flows is None:
            return

        def admitted(*device: *tuple[int, int, int, str]) -> Location | None:
            location = location_of(*device)
            return location if location is not None and self._admits(location) else None

        began, version = self._booked_at, self._counter_reader.version
        everywhere = self._inventory.everywhere
        view = self._device_names.version, self._uppers.version, self._selection, everywhere
        moved = self._series_index.update(self._counter_reader.seen, admitted, view)
        yield
        totals = {
            (target.program.id, location): tally
            for target in self._targets
            for location, tally in self._totals.of(target.program.id).items()
        }
        still = not moved and version == self._flows_of
        yield from self._flows.read(self._series_index, totals, time.monotonic(), moved, still)
        self._flows_of, self._flows_at = version, began

    def _delete_overflow(self, overflow: Mapping[int, OverflowReading]) -> "Steps[None]":
        done = self._overflow.done_with(overflow, self._device_names, time.monotonic())
        wanted = islice(done, _FORGOTTEN_AT_ONCE)
        while part := list(islice(wanted, _FORGOTTEN_IN_STEP)):
            yield
            deleted: defaultdict[int, Reading] = defaultdict(dict)
            for (number, _, _), last in self._engine.delete_overflow(part):
                deleted[number] |= last
            for number, readings in deleted.items():
                self._counter_reader.close_overflow(number, readings, self._device_names.until_now)

    def _retire(self, programs: set[int], retention: float) -> "Steps[list[Target]]":
        """Remove what has been gone for long; return targets, to be discarded without the lock."""
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
                if target.tracer is not None:
                    self._counter_reader.forget(target.tracer.number)
            self._totals.forget_program(id)
            self._series_index.forget_program(id)
            yield

        here = {*self._snapshot.interfaces.values(), UNKNOWN_LOCATION}
        namespaces = {netns for _, netns in self._snapshot.namespaces.values()}
        # Where we cannot look: what is counted there is there.
        here.update(location for location in self._totals.grown() if location[0] not in namespaces)
        # Also if nothing was ever counted there: what was may be forgotten by now.
        for location in here.intersection(self._locations_gone):
            self._locations_gone.back(location)
        for location in here.intersection(self._locations_hidden):
            del self._locations_hidden[location]
        for location in {*self._totals.locations()} - here:
            if location not in self._locations_hidden:
                self._locations_gone.gone(location, now)
        for location in self._locations_gone.over(now, retention):
            self._locations_hidden[location] = None
        while len(self._locations_hidden) > _LOCATIONS_REMEMBERED:
            location = next(iter(self._locations_hidden))
            del self._locations_hidden[location]
            self._totals.forget_location(location)
            yield
        return removed


def _parts(targets: Iterable[Target]) -> Iterator[list[Target]]:
    found = iter(targets)
    while part := list(islice(found, _LISTED_IN_STEP)):
        yield part
