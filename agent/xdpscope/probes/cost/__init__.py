# SPDX-License-Identifier: Apache-2.0
"""What XDP programs cost, what observing them costs, and the budget for the latter.

A thread measures at intervals. A scrape only shows the last measurement. Above the budget, the
probe samples flows harder, then takes no packet for flows: see ``control.py``. Verdicts are counted
for each packet at every level.
"""

import random
import threading
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import replace
from errno import EACCES, EINVAL, EPERM
from math import inf
from typing import Final

import structlog
from prometheus_client.core import Metric

from xdpscope.config import Budget
from xdpscope.errors import KernelError
from xdpscope.probes.cost import memory, totals
from xdpscope.probes.cost.control import ABOVE, BELOW, BudgetControl, Measurement
from xdpscope.probes.cost.metrics import families
from xdpscope.probes.cost.report import Cost, CostReport, Level
from xdpscope.probes.cost.statistics import Statistics, Window, always_on, has_isolated_cpus
from xdpscope.probes.cost.totals import CostTotals
from xdpscope.probes.probe import Probe, Scan, Tracers

__all__ = ["CostProbe", "CostReport", "Level"]

_log = structlog.get_logger(__name__)

INTERVAL: Final = 10.0
"""Seconds between two measurements without a budget, at least."""
OWN_SHARE: Final = 0.001
"""About the most of a CPU that measuring takes without a budget: many programs, long intervals."""
BUDGET_INTERVAL: Final = 2.0
"""Seconds between two measurements with a budget."""
SHARE: Final = 0.01
"""The share of the time in which the kernel's statistics are on."""

BUSY: Final = 0.02
"""The share of the budget from which the tracer of one program is worth being replaced."""

_HARDER: Final = 4
"""Level.HARDER multiplies the sample rate by this."""
_LONGEST_RATE: Final = 2**32 - 1
_MEMORY_INTERVAL: Final = 60.0  # to read it takes as long as a scan

_RAISED: Final = {
    Level.HARDER: "above the budget: flows are sampled harder",
    Level.OFF: "above the budget: no packet is taken for flows",
}
_LOWERED: Final = {
    Level.HARDER: "below half of the budget: flows are sampled again",
    Level.USUAL: "flows are counted as configured again",
}


class CostProbe(Probe):
    """Measures costs, and keeps the agent within its budget."""

    name = "cost"
    section = "budget"

    def __init__(
        self,
        interval: float = INTERVAL,
        budget_interval: float = BUDGET_INTERVAL,
        above: float = ABOVE,
        below: float = BELOW,
    ) -> None:
        """Measure nothing until the first update. The arguments are times in seconds, for tests."""
        self._interval, self._budget_interval = interval, budget_interval
        self._budget: float | None = None  # a share of one CPU
        self._control = BudgetControl(above, below)
        self._statistics: Statistics | None = Statistics()  # None: this host has none
        self._programs, self._tracers = CostTotals(), CostTotals()
        self._scan: Scan | None = None
        self._seen: dict[int, float] = {}  # programs, and when a scan has found them last
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._memory: tuple[float, int] | None = None  # when it was read, bytes
        self._busy: frozenset[int] = frozenset()  # programs without flows, at Level.OFF
        self._exhausted = False  # whether the log has said that flows off are not enough
        self._spent = 0.0  # seconds of CPU for the last measurement
        self._spared = False  # whether the log has said that isolated CPUs are not interrupted
        self._report = CostReport()

    def update(self, scan: Scan) -> None:
        """Measure the programs of this scan from now on. The first call starts the thread.

        Raises:
            Exception: the last measurement failed.
        """
        self._scan = scan
        now = time.monotonic()
        kept = {id: at for id, at in self._seen.items() if now - at < totals.RETENTION}
        self._seen = kept | dict.fromkeys(scan.snapshot.programs, now)
        if self._thread is None and scan.tracers is not None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="cost", daemon=True)
            self._thread.start()
        if self._failure is not None:
            raise self._failure

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of the last measurement.

        The next one may be minutes away. A program that is gone leaves the page before.
        """
        report = self._report
        return families(
            replace(
                report,
                programs=tuple(self._shown(report.programs)),
                tracers=tuple(self._shown(report.tracers)),
            )
        )

    @property
    def report(self) -> CostReport:
        """Return the last measurement."""
        return self._report

    def reconfigure(self, section: object) -> None:
        """Use another budget from now on."""
        percent = section.cpu_percent if isinstance(section, Budget) else None
        self._budget = None if percent is None else percent / 100
        self._wake.set()

    def close(self) -> None:
        """Stop measuring, and take packets for flows as configured."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        tracers = self._scan.tracers if self._scan is not None else None
        if tracers is not None:
            with suppress(KernelError):
                _apply(Level.USUAL, tracers)

    def _shown(self, costs: Iterable[Cost]) -> Iterator[Cost]:
        present = self._scan.snapshot.programs if self._scan is not None else {}
        for cost in costs:
            if cost.program_id in present:
                yield cost
            elif cost.program_id in self._seen:
                yield totals.without_shares(cost)

    def _run(self) -> None:
        while not self._stopping.is_set():
            interval = self._interval_now()
            # At random: traffic has rhythms.
            self._wake.wait(interval * random.uniform(0.7, 1.1))  # noqa: S311 - no secret
            self._wake.clear()
            scan = self._scan
            if self._stopping.is_set() or scan is None or scan.tracers is None:
                continue
            began = time.thread_time()
            try:
                self._measure(scan, scan.tracers, interval * SHARE)
            except Exception as error:  # noqa: BLE001 - update() raises it
                self._failure = error
            else:
                self._failure = None
            self._spent = time.thread_time() - began

    def _interval_now(self) -> float:
        """Return the seconds until the next measurement. A budget needs short ones."""
        if self._budget is not None:
            return self._budget_interval
        return max(self._interval, self._spent / OWN_SHARE)

    def _measure(self, scan: Scan, tracers: Tracers, length: float) -> None:
        window = self._window(scan, tracers, length)
        now = time.monotonic()
        if window is not None:
            self._programs.add(*window.programs, now)
            self._tracers.add(*window.tracers, now)
        traced = self._tracers.costs()
        of_tracers = sum(cost.cpu or 0 for cost in traced) if window is not None else 0.0
        measured = Measurement(now, time.process_time(), of_tracers)
        self._act(measured, tracers, traced)
        mean = self._control.mean()
        # Just after a change of the level, the old value stays for a moment.
        agent = self._report.agent_cpu if mean is None else mean.agent
        self._report = CostReport(
            programs=self._programs.costs(),
            tracers=traced,
            agent_cpu=agent,
            tracers_cpu=None if window is None else measured.tracers,
            map_memory=self._own_maps(now),
            budget=self._budget,
            level=self._control.level,
        )

    def _window(self, scan: Scan, tracers: Tracers, length: float) -> Window | None:
        if self._statistics is None:
            return None
        if self._budget is None and has_isolated_cpus() and not always_on():
            if not self._spared:
                _log.info(
                    "what programs and tracers cost is not measured: it would interrupt isolated"
                    " CPUs",
                    hint="to measure it all the same, set budget.cpu_percent",
                )
            self._spared = True
            return None
        try:
            return self._statistics.measure(
                scan.snapshot, tracers.costs, lambda: self._stopping.wait(length)
            )
        except KernelError as error:
            if error.errno not in (EPERM, EACCES, EINVAL):
                raise
            _log.warning(
                "the kernel's statistics of BPF programs cannot be used",
                error=error.summary,
            )
            self._statistics = None
            return None

    def _act(self, measured: Measurement, tracers: Tracers, traced: Iterable[Cost] = ()) -> None:
        """Change the sample rate if the budget requires it."""
        before = self._control.level
        counts_flows = tracers.usual_sample_rate is not None
        level = self._control.step(measured, self._budget if counts_flows else None)
        # To replace a tracer takes the agent milliseconds: not worth it for one that costs little.
        worth = BUSY * (self._budget or inf)
        busy = {cost.program_id for cost in traced if (cost.cpu or 0) > worth}
        self._busy = self._busy | busy if level is Level.OFF else frozenset()
        rate = _apply(level, tracers, self._busy)
        if rate is None:
            return
        facts: dict[str, object] = {"sample_rate": rate}
        recent = self._control.recent
        if recent is not None:
            facts |= {"cpu_percent": round(100 * recent.total, 2)}
            facts |= {"tracers_percent": round(100 * recent.tracers, 2)}
        if self._budget is not None:
            facts |= {"budget_percent": round(100 * self._budget, 2)}
        over = recent is not None and self._budget is not None and recent.total > self._budget
        if level > before:
            _log.warning(_RAISED[level], **facts)
        elif level < before:
            _log.info(_LOWERED[level], **facts)
        elif level is Level.OFF and over and not self._exhausted:
            _log.warning("above the budget although no packet is taken for flows", **facts)
            self._exhausted = True
        self._exhausted &= level is Level.OFF

    def _own_maps(self, now: float) -> int:
        if self._memory is None or now - self._memory[0] >= _MEMORY_INTERVAL:
            self._memory = now, memory.of_own_maps()
        return self._memory[1]


def _apply(level: Level, tracers: Tracers, busy: Set[int] = frozenset()) -> int | None:
    """Set the sample rate of a level, and return it. None if flows are not counted."""
    usual = tracers.usual_sample_rate
    if usual is None:
        return None
    rates = {
        Level.USUAL: usual,
        Level.HARDER: min(_HARDER * usual, _LONGEST_RATE),
        Level.OFF: 0,
    }
    tracers.sample_flows(rates[level], busy)
    return rates[level]
