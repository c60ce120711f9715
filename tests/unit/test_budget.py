# SPDX-License-Identifier: Apache-2.0
"""The budget: when it reduces the work on flows, and when it restores it."""

import pytest

from xdpscope.probes.cost.control import BudgetControl, Measurement
from xdpscope.probes.cost.report import Level

BUDGET = 0.10
STEP = 2.0
USUAL, HARDER, OFF = Level.USUAL, Level.HARDER, Level.OFF


class Clock:
    """Feed a control with measurements, one each ``STEP`` seconds."""

    def __init__(self, control: BudgetControl | None = None) -> None:
        self.control = control or BudgetControl()
        self.now = self.process = 0.0

    def run(
        self,
        seconds: float,
        agent: float = 0.0,
        tracers: float = 0.0,
        budget: float | None = BUDGET,
    ) -> Level:
        """Spend these shares of one CPU for some time. Return the level at the end."""
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            self.process += STEP * agent
            self.control.step(Measurement(self.now, self.process, tracers), budget)
        return self.control.level

    def until(self, level: Level, **spent: float) -> float:
        """Return the seconds until this level, at most 200."""
        began = self.now
        while self.control.level != level and self.now < began + 200:
            self.run(STEP, **spent)
        return self.now - began


def test_above_the_budget_for_ten_seconds_flows_are_sampled_harder_then_off() -> None:
    clock = Clock()
    assert clock.run(10, tracers=0.2) is USUAL, "ten seconds have not passed between measurements"
    assert clock.run(2, tracers=0.2) is HARDER
    assert clock.run(8, tracers=0.2) is HARDER
    assert clock.run(2, tracers=0.2) is OFF
    assert clock.run(100, tracers=0.2) is OFF


def test_below_half_of_the_budget_for_a_minute_one_step_is_restored() -> None:
    clock = Clock()
    clock.until(OFF, tracers=0.2)
    assert clock.run(58, tracers=0.02) is OFF
    assert clock.run(2, tracers=0.02) is HARDER
    assert clock.run(58, tracers=0.02) is HARDER
    assert clock.run(2, tracers=0.02) is USUAL


def test_a_flood_is_within_the_budget_after_thirty_seconds() -> None:
    clock = Clock()
    clock.run(120, agent=0.01)
    assert clock.until(OFF, agent=0.01, tracers=0.15) <= 24


def test_between_half_and_all_of_the_budget_nothing_changes() -> None:
    clock = Clock()
    assert clock.run(300, agent=0.09) is USUAL
    clock.until(HARDER, agent=0.2)
    assert clock.run(300, agent=0.06) is HARDER
    assert clock.run(300, agent=0.099) is HARDER


def test_the_sum_of_agent_and_tracers_counts() -> None:
    assert Clock().run(20, agent=0.06, tracers=0.06) is HARDER


def test_bursts_count_by_their_mean() -> None:
    """A scan of half a second each ten seconds is 5 %."""
    clock = Clock()
    for _ in range(30):
        clock.run(2, agent=0.25)
        assert clock.run(8, agent=0) is USUAL


def test_what_was_before_a_change_does_not_count_after_it() -> None:
    clock = Clock()
    clock.until(HARDER, tracers=5.0)
    assert clock.run(30, tracers=0.09) is HARDER


def test_without_a_budget_everything_is_restored_at_once() -> None:
    clock = Clock()
    assert clock.run(60, tracers=3.0, budget=None) is USUAL
    clock.until(OFF, tracers=0.2)
    assert clock.run(2, tracers=0.2, budget=None) is USUAL


def test_the_mean_is_known_early_and_forgets() -> None:
    clock = Clock()
    clock.run(2, agent=0.5)
    assert clock.control.mean() is None
    clock.run(2, agent=0.5, tracers=0.1)
    mean = clock.control.mean()
    assert mean is not None
    assert (mean.agent, mean.tracers) == pytest.approx((0.5, 0.1))
    clock.run(20, agent=0.1, tracers=0.3)
    mean = clock.control.mean()
    assert mean is not None
    assert (mean.agent, mean.tracers, mean.total) == pytest.approx((0.1, 0.3, 0.4))
