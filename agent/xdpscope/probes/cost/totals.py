# SPDX-License-Identifier: Apache-2.0
"""Add up the windows of each program."""

from collections.abc import Mapping

from xdpscope.counters.retention import Retention
from xdpscope.probes.cost.report import Cost
from xdpscope.probes.cost.statistics import Reading

RETENTION = 65.0
"""Seconds for which the series of a vanished program stay, so that every scraper reads them."""


def without_shares(cost: Cost) -> Cost:
    """Return the totals of a program that is gone, which takes no share of a CPU any more."""
    return Cost(cost.program_id, cost.program, cost.runs, cost.run_seconds)


class CostTotals:
    """Hold the costs of programs, or of their tracers. No total decreases."""

    def __init__(self) -> None:
        self._begin: dict[int, Reading] = {}  # when the agent found the program
        self._costs: dict[int, Cost] = {}
        self._gone: Retention[int] = Retention()

    def add(self, begin: Mapping[int, Reading], end: Mapping[int, Reading], now: float) -> None:
        """Add a window. A program without a reading at the end has vanished."""
        for id, last in end.items():
            self._gone.back(id)
            first = begin.get(id, last)
            base = self._begin.setdefault(id, first)
            before = self._costs.get(id)
            runs, seconds = last.runs - first.runs, last.run_seconds - first.run_seconds
            each = before.seconds_per_run if before else None
            self._costs[id] = Cost(
                id,
                last.program,
                last.runs - base.runs,
                last.run_seconds - base.run_seconds,
                seconds / (last.at - first.at) if last.at > first.at else None,
                seconds / runs if runs > 0 else each,
            )
        for id in self._costs.keys() - end.keys():
            self._gone.gone(id, now)
        for id in self._gone.over(now, RETENTION):
            del self._costs[id], self._begin[id]

    def costs(self) -> tuple[Cost, ...]:
        """Return all costs, by ascending program id."""
        return tuple(self._shown(cost) for _, cost in sorted(self._costs.items()))

    def _shown(self, cost: Cost) -> Cost:
        if cost.program_id not in self._gone:
            return cost
        return without_shares(cost)
