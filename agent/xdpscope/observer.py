# SPDX-License-Identifier: Apache-2.0
"""Observe the host: discover programs, trace them and count their packets.

One thread calls ``scan``. Any thread may read counts and program statuses. A lock guards the totals
and flows. The observer reads the kernel's tables and updates the totals in short steps, and holds
the lock for one step at a time (``read_lock.py``). It holds no lock while it loads, attaches and
detaches tracers.
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

import structlog

from xdpscope import config
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Reason, Selection
from xdpscope.attach.spec import Spec
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
from xdpscope.counters.times import Times
from xdpscope.counters.totals import Location, LocationOf, Tally, Totals
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import Snapshot, XdpProgram
from xdpscope.errors import KernelError
from xdpscope.kernel.netns import HOST
from xdpscope.read_lock import ReadLock, Work
from xdpscope.report import (
    Count,
    FlowReport,
    FlowRow,
    FlowsFound,
    Latency,
    ProgramStatus,
    TracerCost,
)

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps

# Where containers start and stop, interfaces with new names appear and disappear all day. The
# totals of this many locations stay after they disappear, so that they continue if one returns.
_LOCATIONS_REMEMBERED = 4096

# The number of overflow records that a scan deletes, and that one step of it deletes.
_FORGOTTEN_AT_ONCE = 1000
_FORGOTTEN_IN_STEP = 100

# The number of programs that one step lists.
_LISTED_IN_STEP = 8

_NO_TALLY = Tally()

_log = structlog.get_logger(__name__)


def _selects(glob: str | None, *names: str) -> bool:
    """Return whether a shell glob matches one of the names. None matches everything."""
    return glob is None or glob in names or any(fnmatchcase(name, glob) for name in names)


@contextmanager
def _noting(failures: list[KernelError | OSError]) -> Iterator[None]:
    """Append an error of the kernel to ``failures``, and continue."""
    try:
        yield
    except (KernelError, OSError) as error:
        failures.append(error)


class Observer:
    """Find programs, trace them, and keep their totals and flows."""

    def __init__(
        self,
        engine: Engine,
        inventory: Inventory,
        selection: Selection,
        flows: Flows | None = None,
        patience: float = PATIENCE,
        latency: config.Latency | None = None,
    ) -> None:
        """Create an observer. It observes nothing until ``scan``.

        Args:
            engine: Creates the tracers.
            inventory: Finds the programs.
            selection: The programs and interfaces to observe.
            flows: The limits for flows.
            patience: Seconds to wait until each client has seen a new series of a flow at 0.
            latency: Whether to measure times. None: no.
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
        self._targets = Targets(engine, self._specs)
        self._programs_gone: Retention[int] = Retention()
        self._locations_gone: Retention[Location] = Retention()
        self._locations_hidden: dict[Location, None] = {}
        self._scanned = False
        self._unfinished = 0
        self._booked_at = self._flows_at = -inf  # when the last complete reads began
        self._counter_reader = CounterReader(self._totals)
        self._series_index = SeriesIndex()
        tables = engine.flow_tables()
        self._flows = FlowTotals(tables, flows or Flows(), patience) if tables else None
        self._latency_in_use = config.Latency()
        self._timed = False
        self._latency = latency or self._latency_in_use
        self._times: dict[int, Times] = {}  # by program id
        self._flows_of = -1  # version of the counter reader at the last read of flows

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
        return self._engine.usual_sample_rate if self._flows is not None else None

    def sample_flows(self, rate: int) -> None:
        """Take one of this many packets for flows from now on. With 0, take none.

        Raises:
            KernelError: the rate stays.
        """
        if rate != self._engine.sample_rate:
            self._engine.sample_flows(rate)

    def costs(self) -> list[TracerCost]:
        """Return what the kernel has counted about each tracer. It never waits for a scan."""
        found = []
        for target in self._targets:
            tracer = target.tracer
            if tracer is not None:
                expense = tracer.expense()
                found.append(TracerCost(target.program, expense.runs, expense.run_seconds or 0.0))
        return found

    def reconfigure(
        self,
        selection: Selection,
        flows: Flows | None = None,
        *,
        everywhere: bool | None = None,
        latency: config.Latency | None = None,
    ) -> None:
        """Use another selection and other limits from the next scan on.

        Args:
            selection: The programs and interfaces to observe.
            flows: The limits for flows. None: they stay.
            everywhere: Whether to observe all network namespaces, or only that of the agent. None:
                this stays.
            latency: Whether to measure times. None: this stays.
        """
        with self._lock:
            self._selection = selection
            if latency is not None:
                self._latency = latency
            if everywhere is not None:
                self._inventory.everywhere = everywhere
            if self._flows is not None and flows is not None:
                self._flows.limits = flows

    def _switch_latency(self) -> None:
        """Measure times, or not, as configured. All pinned state must be adopted before."""
        latency = self._latency
        if latency == self._latency_in_use:
            return
        self._latency_in_use = latency
        self._timed = False
        if not latency.enabled:
            return
        try:
            self._engine.prepare_times(latency.sample_rate)
        except (KernelError, OSError) as error:
            _log.warning("times cannot be measured", error=str(error))
        else:
            self._timed = True

    def _specs(self, target: Target) -> Spec:
        """Return what the tracer of a target must do."""
        if target.reason is not None:
            return Spec.VERDICTS
        spec = Spec.VERDICTS
        if self._flows is not None:
            spec |= Spec.FLOWS
        return spec | Spec.TIMES if self._timed else spec

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

    def _read_idle(self) -> "Steps[tuple[list[Counted], Mapping[int, OverflowReading]]]":
        """Read the counts of idle programs so far. The totals must not contain them."""
        idle: list[Counted] = []
        for part in read_counts([t.tracer for t in self._targets if t.idle and t.tracer]):
            idle.append(part)
            yield
        overflowing = any(part.records["devices_overflow"].any() for part in idle)
        return idle, (yield from self._engine.overflow()) if overflowing else {}

    def _apply(self, snapshot: Snapshot, failures: list[KernelError | OSError]) -> "Steps[None]":
        """Add all counts to the totals under the old names, then use the names of ``snapshot``."""
        self._device_names.expect(snapshot)
        overflow: Mapping[int, OverflowReading] = {}
        with _noting(failures):
            overflow = yield from self._record(self._device_names.at_once)
            yield from self._read_flows(self._device_names.at_once)
        if snapshot is not self._snapshot:
            # Add the packets that came during the read of flows. Renamed and vanished interfaces
            # still have their old names.
            with _noting(failures):
                overflow = yield from self._record(self._device_names.at_once)
        self._device_names.settle()
        self._snapshot = snapshot
        self._uppers.update(snapshot, time.monotonic())
        if self._scanned:  # before, some records may not be in the totals yet
            with _noting(failures):
                yield from self._delete_overflow(overflow)

    def _trace(self, snapshot: Snapshot, retention: float) -> list[Target]:
        """Attach and detach tracers. Return the targets whose flows are not counted yet."""
        gone = self._targets.reconcile(snapshot, self._selection, self._interrupt.is_set)
        if self._interrupt.is_set():
            return []
        self._targets.vanish(gone)
        for target in self._work.do(lambda: self._retire(set(gone), retention)):
            self._targets.discard(target)
        self._scanned = True
        self._switch_latency()
        return self._targets.incomplete()

    @property
    def flows_held(self) -> int | None:
        """Return the number of flows at the last read. None if flows are not counted."""
        return self._flows.entries if self._flows is not None else None

    def counts(self, since: float | None = None) -> list[Count]:
        """Return the current totals of every program and location to show.

        Args:
            since: A time of the monotonic clock. If a complete read began later, this call does not
                read the kernel again.

        Raises:
            ObserverBusyError: a scan is busy for long. All methods that read counts or programs
                raise this.
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

    def latencies(self, since: float | None = None) -> list[Latency]:
        """Return the times of each program that is measured, or was.

        Args:
            since: See ``counts``.
        """
        began = time.monotonic() if since is None else since

        def steps() -> "Steps[list[Latency]]":
            if self._booked_at <= began:
                yield from self._record(self._device_names.of)
            found: list[Latency] = []
            for part in _parts(self._targets):
                for target in part:
                    times = self._times.get(target.program.id)
                    measured = self._timed and target.reason is None
                    if measured or (times is not None and times.packets):
                        found.append(Latency(target.program, times or Times()))
                yield
            return found

        return self._work.do(steps, self._lock.reading)

    def cpu_counts(self) -> dict[Owner, CpuCounts]:
        """Return the counts of each CPU, by program id and location: see counters/by_cpu.py."""

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
        """Return the current flows. None if flows are not counted.

        Args:
            client: The id of the scraper that receives the flows. Empty: there is none.
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
        """Return flows in the flow table, the highest rates first. By default, return all."""
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
        # Describing thousands of flows takes time, so this holds no lock.
        flows = [FlowRow.of(programs[count.owner[0]], count) for count in held.describe()]
        return FlowsFound(
            flows, held.matched, held.entries, self.sample_rate, self._engine.usual_sample_rate
        )

    def _admitted_by(
        self, query: FlowQuery, programs: Mapping[int, XdpProgram]
    ) -> Callable[[int, Location], bool]:
        """Return a function that says whether a query admits flows of a program at a location.

        Its arguments are the id of the program, and the location.
        """
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
        """Return the status of every program, in the order of their ids."""

        def steps() -> "Steps[list[ProgramStatus]]":
            found: list[ProgramStatus] = []
            for part in _parts(self._targets):
                found += map(self._status, part)
                yield
            return sorted(found, key=lambda status: status.program.id)

        return self._work.do(steps, self._lock.reading)

    def attach_failures(self) -> Counter[Reason]:
        """Return how often attaching a tracer failed, by reason."""
        return Counter(self._targets.failures)

    def _shown(self, target: Target) -> Iterator[tuple[Location, Tally]]:
        totals = self._totals.of(target.program.id)
        locations = dict.fromkeys(totals)
        if target.reason is None:
            # Show zeros too, so that a rate has the first value of a series.
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
            runs=expense.runs if expense else 0,
        )

    def _admits(self, location: Location) -> bool:
        netns, interface = location
        if not self._inventory.everywhere and netns != HOST and location != UNKNOWN_LOCATION:
            return False
        return self._selection.interfaces.admits(interface, *self._uppers.of(location))

    def _record(self, location_of: LocationOf) -> "Steps[Mapping[int, OverflowReading]]":
        """Add all counts to the totals. Return the overflow records."""
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
        counted = self._with_times(read_counts(tracers))
        yield from self._counter_reader.record(counted, overflow, location_of, idle)
        self._booked_at = began
        return overflow

    def _with_times(self, counted: Iterable[Counted]) -> Iterator[Counted]:
        """Yield the same records, after adding their times."""
        for part in counted:
            if self._timed or self._times:
                for program, records in zip(part.programs, part.records, strict=True):
                    self._times[program] = Times.of(records["timing"])
            yield part

    def _update_flows(self, began: float) -> "Steps[None]":
        """Read totals and flows, each only if its last read began before ``began``."""
        if self._booked_at <= began:
            yield from self._record(self._device_names.of)
        if self._flows_at <= began:
            yield from self._read_flows(self._device_names.of)

    def _read_flows(self, location_of: LocationOf) -> "Steps[None]":
        """Read the flows. The totals must be up to date before: see counters/flows.py."""
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
                if target.tracer is not None:
                    self._counter_reader.forget(target.tracer.number)
            self._totals.forget_program(id)
            self._times.pop(id, None)
            self._series_index.forget_program(id)
            yield

        here = {*self._snapshot.interfaces.values(), UNKNOWN_LOCATION}
        namespaces = {netns for _, netns in self._snapshot.namespaces.values()}
        # The scan does not see every namespace. In a namespace that it does not see, a location
        # exists if its totals have grown.
        here.update(location for location in self._totals.grown() if location[0] not in namespaces)
        # Do this for locations without totals too, because their totals may already be forgotten.
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
