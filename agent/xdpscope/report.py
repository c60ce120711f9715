# SPDX-License-Identifier: Apache-2.0
"""Define plain values that metrics, the API, the page and commands show.

A probe defines its own values in a module ``report`` of its package.

This module does not access the kernel, and does no I/O.
"""

from dataclasses import dataclass

from xdpscope.attach.reason import Reason
from xdpscope.counters.totals import Location, Tally
from xdpscope.discovery.model import Attachment, Part, XdpProgram

__all__ = [
    "Count",
    "ProgramStatus",
    "TracerCost",
]


@dataclass(frozen=True, slots=True)
class Count:
    """Hold the totals of one program at one location."""

    program: XdpProgram
    location: Location
    tally: Tally


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """Hold what the agent reports about one program: role, attachments, and if it is traced."""

    program: XdpProgram
    part: Part
    attachments: tuple[Attachment, ...]
    reason: Reason | None  # why the program is not traced; None: traced
    missed: int  # packets for which the kernel did not run the tracer
    run_seconds: float | None  # run time of the tracer; None if the kernel never counted it
    runs: int = 0  # runs of the tracer at the exit, counted while the run time is


@dataclass(frozen=True, slots=True)
class TracerCost:
    """Hold what the kernel has counted about the tracer of one program."""

    program: XdpProgram
    runs: int  # at the exit: one for each packet
    run_seconds: float
