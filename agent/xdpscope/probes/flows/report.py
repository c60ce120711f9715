# SPDX-License-Identifier: Apache-2.0
"""Define the plain values that the flows probe reports."""

from dataclasses import dataclass, field
from typing import Self

from xdpscope.counters.totals import Location
from xdpscope.discovery.model import XdpProgram
from xdpscope.formats import document
from xdpscope.probes.flows.totals import FlowCount
from xdpscope.report import Count


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


def as_json(found: FlowsFound) -> dict[str, object]:
    """Return a document. ``matched`` of the ``held`` flows are asked for, and may be cut short."""
    return document(
        "flows",
        [_flow_as_json(flow, found) for flow in found.flows],
        enabled=found.enabled,
        sample_rate=found.sample_rate,
        held=found.held,
        matched=found.matched,
    )


def _flow_as_json(flow: FlowRow, found: FlowsFound) -> dict[str, object]:
    """Return JSON values. ``rate`` is in packets a second; estimates include packets that were not
    sampled. A packet counts as ``flows.sample_rate`` packets. While the budget samples harder,
    estimates are too low, because nobody knows at which rate each earlier packet was sampled.
    """
    netns, interface = flow.location
    return {
        "program_id": flow.program.id,
        "program": flow.program.function,
        "netns": netns,
        "interface": interface,
        "verdict": flow.verdict,
        "protocol": flow.protocol,
        "source": flow.source,
        "destination": flow.destination,
        "source_port": flow.source_port,
        "destination_port": flow.destination_port,
        "packets": flow.packets,
        "bytes": flow.bytes,
        "estimated_packets": flow.packets * found.usual_sample_rate,
        "estimated_bytes": flow.bytes * found.usual_sample_rate,
        "rate": round(flow.rate * found.sample_rate, 3),
    }
