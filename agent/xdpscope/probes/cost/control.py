# SPDX-License-Identifier: Apache-2.0
"""Decide how much work on flows the budget allows. Pure: it neither measures nor acts."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from xdpscope.probes.cost.report import Level

ABOVE: Final = 10.0
"""Seconds for which the mean must be above the budget."""
BELOW: Final = 60.0
"""Seconds for which the mean must be below half of the budget."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement of the own cost."""

    at: float  # seconds of a monotonic clock
    process_seconds: float  # CPU time of the agent's process since its start
    tracers: float  # share of one CPU that all tracers took


@dataclass(frozen=True, slots=True)
class OwnCost:
    """Means over some time, as shares of one CPU."""

    agent: float
    tracers: float

    @property
    def total(self) -> float:
        return self.agent + self.tracers


class BudgetControl:
    """Raise the level while the agent is above its budget, and lower it step by step later.

    The control compares means, because the work of the agent comes in bursts: scans and scrapes.
    After a change of the level, it uses no measurement from before the change.
    """

    def __init__(self, above: float = ABOVE, below: float = BELOW) -> None:
        self.level = Level.USUAL
        self.recent: OwnCost | None = None  # what the last step compared with the budget
        self._above, self._below = above, below
        self._history: deque[Measurement] = deque()  # the oldest first

    def step(self, measurement: Measurement, budget: float | None) -> Level:
        """Add a measurement, and return the level from now on.

        Args:
            measurement: The newest one.
            budget: A share of one CPU. None: there is no budget.
        """
        self._history.append(measurement)
        # Keep one measurement that is older than all means.
        while len(self._history) > 1 and self._age(1) >= self._below:
            self._history.popleft()
        self.recent = self.mean(self._above)
        level = self._next(budget)
        if level != self.level:
            self.level = level
            self._history = deque([measurement])
        return level

    def mean(self, seconds: float | None = None) -> OwnCost | None:
        """Return the mean of the last ``seconds``. None if there are not enough measurements.

        None for ``seconds`` means the time in which the control compares with the budget, or less
        if the agent has not measured for so long.
        """
        if len(self._history) < 2:
            return None
        wanted = self._above if seconds is None else seconds
        begin = max(
            (at for at in range(len(self._history) - 1) if self._age(at) >= wanted), default=None
        )
        if begin is None:
            if seconds is not None:
                return None
            begin = 0
        first, last = self._history[begin], self._history[-1]
        tracers = [self._history[at].tracers for at in range(begin + 1, len(self._history))]
        agent = (last.process_seconds - first.process_seconds) / (last.at - first.at)
        return OwnCost(agent, sum(tracers) / len(tracers))

    def _age(self, index: int) -> float:
        return self._history[-1].at - self._history[index].at

    def _next(self, budget: float | None) -> Level:
        if budget is None:
            return Level.USUAL
        long = self.mean(self._below)
        if self.recent is not None and self.recent.total > budget:
            return Level(min(self.level + 1, Level.OFF))
        if long is not None and long.total < budget / 2:
            return Level(max(self.level - 1, Level.USUAL))
        return self.level
