# SPDX-License-Identifier: Apache-2.0
"""Read the records of all targets once, for every probe that needs them.

A lock guards the totals, and what probes derive from the records. Readers and the scan take it for
one short step at a time (``read_lock.py``).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, TypeVar

from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.targets import Target, Targets
from xdpscope.attach.tracer import read_counts
from xdpscope.counters.counter_reader import Counted, CounterReader
from xdpscope.counters.device_names import UNKNOWN_LOCATION, DeviceNames, Uppers
from xdpscope.counters.gone_devices import GoneDevices
from xdpscope.counters.locations import LocationRetention
from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.overflow_cleanup import OverflowCleanup
from xdpscope.counters.records import Reading
from xdpscope.counters.totals import Location, LocationOf, Tally, Totals
from xdpscope.discovery.model import Snapshot
from xdpscope.kernel.netns import HOST
from xdpscope.read_lock import ReadLock, Work

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps

T = TypeVar("T")

# The number of overflow records that a scan deletes, and that one step of it deletes.
_DELETED_AT_ONCE = 1000
_DELETED_IN_STEP = 100

# The number of programs that one step lists.
_LISTED_IN_STEP = 8

_NO_TALLY = Tally()


class TargetReader:
    """Read the records of targets into totals, under the names of the last scan.

    The generators among the methods are steps of a job: see ``do`` and ``read``. The lock is held
    during each step.
    """

    def __init__(
        self, engine: Engine, targets: Targets, selection: Selection, *, everywhere: bool = True
    ) -> None:
        """Read nothing yet.

        Args:
            engine: What the tracers share.
            targets: The targets to read.
            selection: The programs and interfaces to observe.
            everywhere: Whether to show other network namespaces than that of the agent.
        """
        self.engine = engine
        self.targets = targets
        self.device_names = DeviceNames()
        self.uppers = Uppers()
        self.totals = Totals()
        self.counters = CounterReader(self.totals)
        self.read_at = -inf
        """When the last complete reading began, by the monotonic clock."""
        self.listeners: list[Callable[[Counted], None]] = []
        """What receives the records of each reading, some targets at a time."""
        self.lock = ReadLock()
        self._work = Work(self.lock)
        self._selection = selection
        self._everywhere = everywhere
        self._locations = LocationRetention()
        self._overflow = OverflowCleanup()
        self._gone_devices = GoneDevices()
        self._moves = 0  # records that had moved at the last reading

    def reconfigure(self, selection: Selection, *, everywhere: bool) -> None:
        """Show other programs and interfaces from now on."""
        with self.lock:
            self._selection, self._everywhere = selection, everywhere

    def do(self, begin: "Callable[[], Steps[T]]") -> T:
        """Do a job of the scan in steps, and return its result."""
        return self._work.do(begin)

    def read(self, begin: "Callable[[], Steps[T]]") -> T:
        """Do a job of a reader in steps, and return its result.

        Raises:
            ObserverBusyError: a scan is busy for long.
        """
        return self._work.do(begin, self.lock.reading)

    # --- what readers show

    def parts(self) -> Iterator[list[Target]]:
        """Yield all targets, as many at a time as one step lists."""
        found = iter(self.targets)
        while part := list(islice(found, _LISTED_IN_STEP)):
            yield part

    def shown(self, target: Target) -> Iterator[tuple[Location, Tally]]:
        """Yield the locations of a target that have series, with their totals."""
        totals = self.totals.of(target.program.id)
        locations = dict.fromkeys(totals)
        if target.reason is None:
            # Show zeros too, so that a rate has the first value of a series.
            locations.update(
                dict.fromkeys((at.netns, at.interface) for at in target.attachments if at.receives)
            )
        for location in locations:
            if not self._locations.hides(location) and self.admits(location):
                yield location, totals.get(location, _NO_TALLY)

    def admits(self, location: Location) -> bool:
        """Return whether the configuration selects a location."""
        netns, interface = location
        if not self._everywhere and netns != HOST and location != UNKNOWN_LOCATION:
            return False
        return self._selection.interfaces.admits(interface, *self.uppers.of(location))

    @property
    def view(self) -> object:
        """Return a value that differs if names, or what ``admits`` returns, may differ."""
        return self.device_names.version, self.uppers.version, self._selection, self._everywhere

    # --- records to totals

    def update(self, began: float) -> "Steps[None]":
        """Read all records, unless the last complete reading began after ``began``.

        Read them again if a record has moved: its slot may have flows of another device.
        """
        if self.read_at <= began or self._moves != self.engine.vacancies.moves:
            yield from self.record(self.device_names.of)

    def record(self, location_of: LocationOf) -> "Steps[Mapping[int, OverflowReading]]":
        """Add all counts to the totals. Return the overflow records.

        The totals stay as they are while a record is moving between the tables.
        """
        with self.engine.vacancies.reading() as still:
            return (yield from self._record(location_of)) if still else {}

    def _record(self, location_of: LocationOf) -> "Steps[Mapping[int, OverflowReading]]":
        began = time.monotonic()
        self._moves = self.engine.vacancies.moves
        overflow = yield from self.engine.overflow()
        tracers, idle = [], set()
        for target in self.targets:
            tracer = target.tracer
            if tracer is None:
                continue
            if target.idle:
                idle.add(tracer.number)
            else:
                tracers.append(tracer)
                target.recorded = True
        yield
        counted = self._reported(read_counts(tracers))
        yield from self.counters.record(counted, overflow, location_of, idle)
        self.read_at = began
        return overflow

    def _reported(self, counted: Iterable[Counted]) -> Iterator[Counted]:
        """Yield the same records, after reporting them to the listeners."""
        for part in counted:
            for listener in self.listeners:
                listener(part)
            yield part

    def read_idle(self) -> "Steps[tuple[list[Counted], Mapping[int, OverflowReading]]]":
        """Read the counts of idle programs so far. The totals must not contain them."""
        idle: list[Counted] = []
        with self.engine.vacancies.reading():
            for part in read_counts([t.tracer for t in self.targets if t.idle and t.tracer]):
                idle.append(part)
                yield
            overflowing = any(part.records["devices_overflow"].any() for part in idle)
            return idle, (yield from self.engine.overflow()) if overflowing else {}

    def delete_overflow(self, overflow: Mapping[int, OverflowReading]) -> "Steps[None]":
        """Delete overflow records of devices that are gone, after adding their last counts."""
        done = self._overflow.done_with(overflow, self.device_names, time.monotonic())
        wanted = islice(done, _DELETED_AT_ONCE)
        while part := list(islice(wanted, _DELETED_IN_STEP)):
            yield
            deleted: defaultdict[int, Reading] = defaultdict(dict)
            for (number, _, _), last in self.engine.delete_overflow(part):
                deleted[number] |= last
            for number, readings in deleted.items():
                self.counters.close_overflow(number, readings, self.device_names.until_now)

    # --- what is gone

    def publish_gone(self, retention: float) -> "Steps[None]":
        """Let tracers give the slots of devices that are gone to others.

        Raises:
            KernelError: the tracers may use a part of these slots.
        """
        gone = yield from self._gone_devices.update(
            self.counters.slots,
            self.device_names,
            self.totals.packets_of,
            time.monotonic(),
            retention,
        )
        yield from self.engine.vacancies.publish(gone)

    def forget(self, program: int, target: Target | None) -> None:
        """Remove the totals of a program that is gone, and of its target if there is one."""
        if target is not None and target.tracer is not None:
            self.counters.forget(target.tracer.number)
        self.totals.forget_program(program)

    def retire_locations(self, snapshot: Snapshot, now: float, retention: float) -> "Steps[None]":
        """Hide locations that are gone after their retention, and forget the oldest of them."""
        here = {*snapshot.interfaces.values(), UNKNOWN_LOCATION}
        namespaces = {netns for _, netns in snapshot.namespaces.values()}
        # The scan does not see every namespace. In a namespace that it does not see, a location
        # exists if its totals have grown.
        here.update(location for location in self.totals.grown() if location[0] not in namespaces)
        known = {*self.totals.locations()}
        for location in self._locations.update(here, known, now, retention):
            self.totals.forget_location(location)
            yield
