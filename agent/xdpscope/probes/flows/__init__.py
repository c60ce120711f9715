# SPDX-License-Identifier: Apache-2.0
"""The flows of packets, if ``flows.enabled``: the exported ones, and all that are in the table."""

import time
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from math import inf
from typing import TYPE_CHECKING

import structlog
from prometheus_client.core import Metric

from xdpscope.attach.spec import NOTHING, Spec
from xdpscope.attach.targets import Target
from xdpscope.config import Flows
from xdpscope.counters.clients import PATIENCE, READER, SCRAPE_BEGAN
from xdpscope.counters.series_index import SeriesIndex
from xdpscope.counters.totals import Location
from xdpscope.discovery.model import XdpProgram
from xdpscope.errors import KernelError
from xdpscope.probes.flows.metrics import families
from xdpscope.probes.flows.query import FlowQuery
from xdpscope.probes.flows.report import FlowReport, FlowRow, FlowsFound
from xdpscope.probes.flows.tables import flow_sizes, flow_tables
from xdpscope.probes.flows.totals import FlowTotals, HeldFlows
from xdpscope.probes.probe import AGAIN, TracerProbe
from xdpscope.report import Count
from xdpscope.target_reader import TargetReader

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps

__all__ = ["FlowsProbe", "flow_sizes"]

_log = structlog.get_logger(__name__)


class FlowsProbe(TracerProbe):
    """Counts the flows of each target in service, if the engine has flow tables."""

    name = "flows"

    def __init__(self, patience: float = PATIENCE) -> None:
        """Read nothing yet.

        Args:
            patience: Seconds to wait until each client has seen a new series of a flow at 0.
        """
        self._patience = patience
        self._limits = Flows()
        self._flows: FlowTotals | None = None
        self._can_leave_out = False  # whether there are tracers that take no packet
        self._again_at = -inf  # when loading them is tried again
        self._series_index = SeriesIndex()
        self._read_at = -inf  # when the last reading of totals began that flows were read after
        self._version = -1  # version of the counter reader at the last reading of flows

    def open(self, reader: TargetReader) -> None:
        """Read the engine's flow tables, if it has any."""
        super().open(reader)
        tables = flow_tables(reader.engine)
        self._flows = FlowTotals(tables, self._limits, self._patience) if tables else None

    def specs(self, target: Target) -> Spec:
        """Count the flows of a target in service, unless the budget leaves them out."""
        if self.reader is None or self._flows is None or target.reason is not None:
            return NOTHING
        left_out = self._can_leave_out and target.program.id in self.reader.engine.without_flows
        return Spec.SAMPLED_OUT if left_out else Spec.FLOWS

    def prepare(self) -> None:
        """Load the programs that take no packets, once the budget needs them."""
        engine = self.reader.engine if self.reader is not None else None
        if engine is None or not engine.without_flows or self._can_leave_out:
            return
        if (now := time.monotonic()) < self._again_at:
            return
        try:
            engine.prepare(Spec.SAMPLED_OUT)
        except (KernelError, OSError) as error:
            if self._again_at == -inf:
                _log.warning("flows cannot be left out", error=str(error))
            self._again_at = now + AGAIN
        else:
            self._can_leave_out = True

    def reconfigure(self, section: object) -> None:
        """Use other limits from now on."""
        if not isinstance(section, Flows):
            return
        self._limits = section
        if self.reader is not None and self._flows is not None:
            with self.reader.lock:
                self._flows.limits = section

    def read(self) -> "Steps[None]":
        """Read the flows. Interfaces have the names of the last scan."""
        if self.reader is not None and self._flows is not None:
            yield from self._read(self.reader, self._flows)

    def forget(self, program: int) -> None:
        """Remove the series of a program that is gone."""
        self._series_index.forget_program(program)

    def close(self) -> None:
        """Stop reading."""
        super().close()
        self._flows = None

    @property
    def held(self) -> int | None:
        """Return the number of flows at the last reading. None if flows are not counted."""
        flows = self._flows
        return flows.entries if flows is not None else None

    def collect(self) -> Iterable[Metric]:
        """Return the exported flows of this moment; nothing if flows are not counted."""
        if self.reader is None:
            return families(None)
        report = self.report(READER.get(), SCRAPE_BEGAN.get())
        return families(report) if report is not None else []

    def report(self, client: str = "", since: float | None = None) -> FlowReport | None:
        """Return the current flows. None if flows are not counted.

        Args:
            client: The id of the scraper that receives the flows. Empty: there is none.
            since: A time of the monotonic clock. If complete readings began later, this call does
                not read the kernel again.

        Raises:
            ObserverBusyError: a scan is busy for long.
        """
        if (reader := self.reader) is None:
            return None
        began = time.monotonic() if since is None else since

        def steps() -> "Steps[FlowReport | None]":
            flows = self._flows
            if flows is None:
                return None
            yield from self._update(reader, flows, began)
            report = FlowReport(
                flows.entries,
                dict(flows.evictions),
                reader.engine.sample_rate,
                max_entries=flows.limits.max_entries,
            )
            shown = {}
            for part in reader.parts():
                for target in part:
                    for location, tally in reader.shown(target):
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

        return reader.read(steps)

    def find(self, query: FlowQuery | None = None) -> FlowsFound:
        """Return flows in the flow table, the highest rates first. By default, return all.

        Raises:
            ObserverBusyError: a scan is busy for long.
        """
        if (reader := self.reader) is None:
            return FlowsFound(enabled=self._limits.enabled)
        query = query or FlowQuery()
        began = time.monotonic()
        programs: dict[int, XdpProgram] = {}

        def steps() -> "Steps[HeldFlows | None]":
            flows = self._flows
            if flows is None:
                return None
            yield from self._update(reader, flows, began)
            programs.update((target.program.id, target.program) for target in reader.targets)
            series = self._series_index.series_where(_admitted_by(query, programs, reader))
            return flows.held(self._series_index, query, series)

        held = reader.read(steps)
        if held is None:
            return FlowsFound(enabled=False)
        # Describing thousands of flows takes time, so this holds no lock.
        flows = [FlowRow.of(programs[count.owner[0]], count) for count in held.describe()]
        engine = reader.engine
        return FlowsFound(
            flows, held.matched, held.entries, engine.sample_rate, engine.usual_sample_rate
        )

    def _update(self, reader: TargetReader, flows: FlowTotals, began: float) -> "Steps[None]":
        """Read totals and flows, each only if its last reading began before ``began``."""
        with reader.engine.vacancies.reading():
            yield from reader.update(began)
            if self._read_at <= began:
                yield from self._read(reader, flows)

    def _read(self, reader: TargetReader, flows: FlowTotals) -> "Steps[None]":
        """Read the flows. The totals must be up to date before: see probes/flows/totals.py."""

        def admitted(*device: *tuple[int, int, int, str]) -> Location | None:
            location = reader.device_names.at_once(*device)
            return location if reader.admits(location) else None

        if not reader.engine.vacancies.still:
            return  # a slot may have flows of another device than its record
        began, version = reader.read_at, reader.counters.version
        moved = yield from self._series_index.update(reader.counters.seen, admitted, reader.view)
        yield
        totals = {
            (target.program.id, location): tally
            for target in reader.targets
            for location, tally in reader.totals.of(target.program.id).items()
        }
        still = not moved and version == self._version
        yield from flows.read(self._series_index, totals, time.monotonic(), moved, still)
        self._version, self._read_at = version, began


def _admitted_by(
    query: FlowQuery, programs: Mapping[int, XdpProgram], reader: TargetReader
) -> Callable[[int, Location], bool]:
    """Return a function that says whether a query admits flows of a program at a location.

    Its arguments are the id of the program, and the location.
    """
    wanted = {id for id, program in programs.items() if _selects(query.program, *program.selectors)}

    def admitted(program: int, location: Location) -> bool:
        netns, interface = location
        return (
            program in wanted
            and _selects(query.netns, netns)
            and _selects(query.interface, interface, *reader.uppers.of(location))
        )

    return admitted


def _selects(glob: str | None, *names: str) -> bool:
    """Return whether a shell glob matches one of the names. None matches everything."""
    return glob is None or glob in names or any(fnmatchcase(name, glob) for name in names)
