# SPDX-License-Identifier: Apache-2.0
"""Measure runs and run time of programs, which the kernel counts only on request.

The kernel's statistics cost every run of every BPF program on the host two readings of the clock.
The agent therefore switches them on for short windows. It uses a descriptor: they go off with it,
also if the agent is killed. The sysctl would stay on.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from xdpscope.discovery.model import Role, Snapshot
from xdpscope.errors import KernelError, VanishedError
from xdpscope.libbpf import Program, run_time_stats
from xdpscope.report import TracerCost

_SYSCTL = Path("/proc/sys/kernel/bpf_stats_enabled")
_ISOLATED = (
    Path("/sys/devices/system/cpu/isolated"),
    Path("/sys/devices/system/cpu/nohz_full"),
)

# The kernel counts no runs of these: they run inside of other programs, which include their time.
_UNCOUNTED = (Role.COMPONENT, Role.EXTENSION, Role.TAILCALL)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the kernel had counted about a program or a tracer at one moment."""

    program_id: int
    program: str
    at: float  # seconds of a monotonic clock
    runs: int
    run_seconds: float


@dataclass(frozen=True, slots=True)
class Window:
    """Readings at the begin and at the end of a window, by program id."""

    programs: tuple[Mapping[int, Reading], Mapping[int, Reading]]
    tracers: tuple[Mapping[int, Reading], Mapping[int, Reading]]


def always_on() -> bool:
    """Return whether the sysctl ``kernel.bpf_stats_enabled`` has the kernel count all runs."""
    try:
        return _SYSCTL.read_text().strip() == "1"
    except OSError:
        return False


def has_isolated_cpus() -> bool:
    """Return whether some CPUs must not be interrupted (``isolcpus``, ``nohz_full``).

    To switch the statistics on or off, the kernel patches its code, and interrupts every CPU.
    """
    for file in _ISOLATED:
        try:
            cpus = file.read_text().strip()
        except OSError:  # this kernel is built without it
            continue
        if cpus not in ("", "(null)"):
            return True
    return False


class Statistics:
    """Measure in windows, or without them while the sysctl is on."""

    def __init__(self) -> None:
        self._last: Window | None = None  # while the sysctl is on

    def measure(
        self,
        snapshot: Snapshot,
        tracers: Callable[[], Sequence[TracerCost]],
        wait: Callable[[], object],
    ) -> Window:
        """Return the readings of one window.

        Args:
            snapshot: The programs of the host.
            tracers: Returns the costs of the agent's tracers.
            wait: Returns at the end of the window. While the sysctl is on, the window begins with
                the last measurement, and ``wait`` is not called.

        Raises:
            KernelError: this host does not allow the agent to switch the statistics on.
        """

        def read() -> tuple[Mapping[int, Reading], Mapping[int, Reading]]:
            return _of_programs(snapshot), _of_tracers(tracers())

        with ExitStack() as stack:
            always = always_on()
            if not always:
                stack.enter_context(run_time_stats())
            if always and self._last is not None:
                begin = self._last.programs[1], self._last.tracers[1]
            else:
                begin = read()
                wait()
            end = read()
        window = Window((begin[0], end[0]), (begin[1], end[1]))
        self._last = window if always else None
        return window


def _of_programs(snapshot: Snapshot) -> Mapping[int, Reading]:
    found = {}
    for program_id, program in snapshot.programs.items():
        if program.offloaded or program.unreadable:
            continue
        if snapshot.part_of(program).role in _UNCOUNTED:
            continue
        try:
            with Program.open(program_id) as opened:
                stats = opened.run_stats()
        except VanishedError:
            continue
        except KernelError:  # a security module forbids it: discovery reports that
            continue
        found[program_id] = Reading(
            program_id, program.function, time.monotonic(), stats.run_count, stats.run_time_ns / 1e9
        )
    return found


def _of_tracers(costs: Iterable[TracerCost]) -> Mapping[int, Reading]:
    return {
        cost.program.id: Reading(
            cost.program.id, cost.program.function, time.monotonic(), cost.runs, cost.run_seconds
        )
        for cost in costs
    }
