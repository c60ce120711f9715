# SPDX-License-Identifier: Apache-2.0
"""The time that packets spend inside each program, if ``latency.enabled``."""

import time
from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING

import structlog
from prometheus_client.core import Metric

from xdpscope.attach.spec import NOTHING, Spec
from xdpscope.attach.targets import Target
from xdpscope.config import Latency as LatencySection
from xdpscope.counters.clients import SCRAPE_BEGAN
from xdpscope.counters.counter_reader import Counted
from xdpscope.errors import KernelError
from xdpscope.probes.latency.metrics import families
from xdpscope.probes.latency.report import Latency
from xdpscope.probes.latency.times import Times
from xdpscope.probes.probe import AGAIN, TracerProbe
from xdpscope.target_reader import TargetReader

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps

__all__ = ["LatencyProbe"]

_log = structlog.get_logger(__name__)


class LatencyProbe(TracerProbe):
    """Measures times in each target in service, or in none."""

    name = "latency"

    def __init__(self) -> None:
        self._in_use = self._wanted = LatencySection()
        self._measures = False
        self._again_at = inf  # when measuring is tried again
        self._times: dict[int, Times] = {}  # by program id

    def open(self, reader: TargetReader) -> None:
        """Read times together with the counts."""
        super().open(reader)
        reader.listeners.append(self._add)

    def specs(self, target: Target) -> Spec:
        """Measure times in a target in service."""
        return Spec.TIMES if self._measures and target.reason is None else NOTHING

    def reconfigure(self, section: object) -> None:
        """Measure times, or not, from the next scan on."""
        if isinstance(section, LatencySection):
            self._wanted = section

    def prepare(self) -> None:
        """Load the programs that measure times, if the configuration now requires it."""
        wanted, now = self._wanted, time.monotonic()
        changed = wanted != self._in_use
        refused = self._in_use.enabled and not self._measures
        if self.reader is None or not (changed or (refused and now >= self._again_at)):
            return
        self._in_use = wanted
        self._measures = False
        if not wanted.enabled:
            return
        try:
            self.reader.engine.prepare_times(wanted.sample_rate)
        except (KernelError, OSError) as error:
            if changed:
                _log.warning("times cannot be measured", error=str(error))
            self._again_at = now + AGAIN
        else:
            self._measures = True

    def forget(self, program: int) -> None:
        """Remove the times of a program that is gone."""
        self._times.pop(program, None)

    def collect(self) -> Iterable[Metric]:
        """Return the histograms of this moment."""
        return families(self.latencies(SCRAPE_BEGAN.get()))

    def latencies(self, since: float | None = None) -> list[Latency]:
        """Return the times of each program that is measured, or was.

        Args:
            since: A time of the monotonic clock. If a complete reading began later, this call does
                not read the kernel again.

        Raises:
            ObserverBusyError: a scan is busy for long.
        """
        if (reader := self.reader) is None:
            return []
        began = time.monotonic() if since is None else since

        def steps() -> "Steps[list[Latency]]":
            yield from reader.update(began)
            found: list[Latency] = []
            for part in reader.parts():
                for target in part:
                    times = self._times.get(target.program.id)
                    measured = self._measures and target.reason is None
                    if measured or (times is not None and times.packets):
                        found.append(Latency(target.program, times or Times()))
                yield
            return found

        return reader.read(steps)

    def _add(self, counted: Counted) -> None:
        if self._measures or self._times:
            for program, records in zip(counted.programs, counted.records, strict=True):
                self._times[program] = Times.of(records["timing"])
