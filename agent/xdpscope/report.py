# SPDX-License-Identifier: Apache-2.0
"""Plain values that metrics, the API, the page and commands show. No kernel access, no I/O."""

from dataclasses import dataclass, field
from typing import Self

from xdpscope.attach.reason import Reason
from xdpscope.counters.flows import FlowCount
from xdpscope.counters.totals import Location, Tally
from xdpscope.discovery.model import Attachment, Part, XdpProgram

__all__ = ["Count", "FlowReport", "FlowRow", "FlowsFound", "ProgramStatus"]


@dataclass(frozen=True, slots=True)
class Count:
    """What one program did at one place."""

    program: XdpProgram
    location: Location
    tally: Tally


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """One program, what part it plays, where it is attached and how it stands with us."""

    program: XdpProgram
    part: Part
    attachments: tuple[Attachment, ...]
    reason: Reason | None  # None: traced
    missed: int  # packets the tracer was not run for
    run_seconds: float | None  # spent in the tracer; None while the kernel does not count


@dataclass(frozen=True, slots=True)
class FlowRow:
    """One flow of one program at one place with one verdict."""

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
    rate: float  # packets a second, recently

    @classmethod
    def of(cls, program: XdpProgram, count: FlowCount) -> Self:
        """One that was counted, of this program."""
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
    """Flows that have series of their own, and what there is beside them."""

    entries: int
    evictions: dict[str, int]
    sample_rate: int
    exported: list[FlowRow] = field(default_factory=list)
    others: list[Count] = field(default_factory=list)
    unaccounted: list[Count] = field(default_factory=list)
    max_entries: int = 0  # flows that can be held, flows.max_entries


@dataclass(frozen=True, slots=True)
class FlowsFound:
    """Flows that were asked for, and how many there are."""

    flows: list[FlowRow] = field(default_factory=list)
    matched: int = 0  # flows that the query admits, its limit aside
    held: int = 0  # flows that are held
    sample_rate: int = 1
    enabled: bool = True  # whether flows are counted at all
