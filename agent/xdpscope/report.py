# SPDX-License-Identifier: Apache-2.0
"""Define the plain values that metrics, the API, the page and commands show.

This module does not access the kernel, and does no I/O.
"""

from dataclasses import dataclass, field
from typing import Self

from xdpscope.attach.reason import Reason
from xdpscope.counters.flows import FlowCount
from xdpscope.counters.times import Times
from xdpscope.counters.totals import Location, Tally
from xdpscope.discovery.model import Attachment, Part, XdpProgram

__all__ = [
    "Count",
    "FlowReport",
    "FlowRow",
    "FlowsFound",
    "Latency",
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
class Latency:
    """Hold the times that packets spent inside one program."""

    program: XdpProgram
    times: Times


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


@dataclass(frozen=True, slots=True)
class FlowRow:
    """Hold one flow of one program, location and verdict."""

    program: XdpProgram
    location: Location
    verdict: str
    protocol: str
    source: str
    destination: str
    source_port: int
    destination_port: int
    packets: int
    bytes: int
    rate: float  # recent packets per second

    @classmethod
    def of(cls, program: XdpProgram, count: FlowCount) -> Self:
        """Return the row for a counted flow of this program."""
        flow = count.flow
        return cls(
            program=program,
            location=count.owner[1],
            verdict=count.verdict,
            protocol=flow.protocol,
            source=flow.source,
            destination=flow.destination,
            source_port=flow.source_port,
            destination_port=flow.destination_port,
            packets=count.packets,
            bytes=count.bytes,
            rate=count.rate,
        )


@dataclass(frozen=True, slots=True)
class FlowReport:
    """Hold the exported flows, and the counts of all other packets."""

    entries: int
    evictions: dict[str, int]
    sample_rate: int
    exported: list[FlowRow] = field(default_factory=list)
    others: list[Count] = field(default_factory=list)
    unaccounted: list[Count] = field(default_factory=list)
    max_entries: int = 0  # the largest number of flows in the table, flows.max_entries


@dataclass(frozen=True, slots=True)
class FlowsFound:
    """Hold the flows that a query requested, and the number of flows."""

    flows: list[FlowRow] = field(default_factory=list)
    matched: int = 0  # flows that the query admits, without its limit
    held: int = 0  # flows in the table
    sample_rate: int = 1  # now; 0: no packet is taken
    usual_sample_rate: int = 1  # flows.sample_rate
    enabled: bool = True  # whether the agent counts flows
