# SPDX-License-Identifier: Apache-2.0
"""The packets of each program, by location and verdict."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client.core import Metric

from xdpscope.attach.spec import Spec
from xdpscope.attach.targets import Target
from xdpscope.attach.tracer import read_counts
from xdpscope.counters.clients import SCRAPE_BEGAN
from xdpscope.counters.series_index import Owner
from xdpscope.counters.totals import Location
from xdpscope.probes.probe import TracerProbe
from xdpscope.probes.verdicts.by_cpu import CpuCounts, add_overflow, by_cpu
from xdpscope.probes.verdicts.metrics import families
from xdpscope.report import Count

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps

__all__ = ["VerdictsProbe"]


class VerdictsProbe(TracerProbe):
    """Shows the totals, which every tracer counts."""

    name = "verdicts"

    def specs(self, target: Target) -> Spec:
        """Count verdicts in each target."""
        return Spec.VERDICTS

    def collect(self) -> Iterable[Metric]:
        """Return the totals of this moment."""
        return families(self.counts(SCRAPE_BEGAN.get()))

    def counts(self, since: float | None = None) -> list[Count]:
        """Return the current totals of every program and location to show.

        Args:
            since: A time of the monotonic clock. If a complete reading began later, this call does
                not read the kernel again.

        Raises:
            ObserverBusyError: a scan is busy for long.
        """
        if (reader := self.reader) is None:
            return []
        began = time.monotonic() if since is None else since

        def steps() -> "Steps[list[Count]]":
            yield from reader.update(began)
            found: list[Count] = []
            for part in reader.parts():
                found += (
                    Count(target.program, location, tally.copy())
                    for target in part
                    for location, tally in reader.shown(target)
                )
                yield
            return found

        return reader.read(steps)

    def cpu_counts(self) -> dict[Owner, CpuCounts]:
        """Return the counts of each CPU, by program id and location: see probes/verdicts/by_cpu.py.

        Raises:
            ObserverBusyError: a scan is busy for long.
        """
        if (reader := self.reader) is None:
            return {}

        def steps() -> "Steps[dict[Owner, CpuCounts]]":
            found: dict[int, dict[Location, CpuCounts]] = {}
            programs: dict[int, int] = {}
            location_of = reader.device_names.of
            tracers = [tracer for t in reader.targets if not t.idle and (tracer := t.tracer)]
            with reader.engine.vacancies.reading():
                for part in read_counts(tracers):
                    programs.update(zip(part.numbers, part.programs, strict=True))
                    for number, records in zip(part.numbers, part.records, strict=True):
                        found[number] = by_cpu(records, location_of)
                    yield
                for number, records in reader.engine.overflow_records():
                    if number in found:
                        add_overflow(found[number], records, location_of)
                    yield
            return {
                (programs[number], location): counts
                for number, locations in found.items()
                for location, counts in locations.items()
            }

        return reader.read(steps)
