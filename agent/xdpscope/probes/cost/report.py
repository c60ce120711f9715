# SPDX-License-Identifier: Apache-2.0
"""Plain values about what programs and their tracers cost."""

from dataclasses import dataclass
from enum import IntEnum


class Level(IntEnum):
    """How much the budget reduces the work on flows."""

    USUAL = 0
    HARDER = 1  # flows are sampled four times harder
    OFF = 2  # no packet is taken for flows


_DONE = {
    Level.USUAL: "",
    Level.HARDER: ": flows are sampled 4 times harder",
    Level.OFF: ": no packet is taken for flows",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program, or its tracer, costs. ``cpu`` is a share of one CPU."""

    program_id: int
    program: str
    runs: int  # counted by the kernel since the agent found the program
    run_seconds: float  # of these runs
    cpu: float | None = None  # in the last measurement
    seconds_per_run: float | None = None  # in the last measurement that has runs


@dataclass(frozen=True, slots=True)
class CostReport:
    """The last measurement. Shares are of one CPU."""

    programs: tuple[Cost, ...] = ()
    tracers: tuple[Cost, ...] = ()
    agent_cpu: float | None = None  # of the agent's process
    tracers_cpu: float | None = None  # of all tracers together
    map_memory: int | None = None  # bytes
    budget: float | None = None  # a share of one CPU
    level: Level = Level.USUAL


def as_text(report: CostReport) -> dict[str, str]:
    """Return the facts about the own cost, for the page."""
    if report.agent_cpu is None:
        return {}
    found = {"Own CPU": f"agent {report.agent_cpu:.1%} of one CPU"}
    if report.tracers_cpu is not None:
        found["Own CPU"] += f", tracers {report.tracers_cpu:.1%}"
    if report.budget is not None:
        found["Budget"] = f"{report.budget:.1%}{_DONE[report.level]}"
    return found
