# SPDX-License-Identifier: Apache-2.0
"""Programs and flows as machines read them.

``list --json`` and ``/api/v1/programs`` are one format; the latter adds ``counts``.
docs/api.md describes it.
"""

from xdpscope.counters.by_cpu import CpuCounts
from xdpscope.discovery.model import Attachment
from xdpscope.formats import document
from xdpscope.kernel.boot import BOOT_CLOCK
from xdpscope.program_types.xdp import VERDICTS
from xdpscope.report import Count, FlowRow, FlowsFound, Latency, ProgramStatus


def as_json(status: ProgramStatus) -> dict[str, object]:
    """Return JSON values. ``reason`` is empty, and ``traceable`` true, if the program can be
    traced.

    ``loaded_at`` is Unix time, and ``uid`` the user who loaded it; null where not known.
    ``chain`` has a component's positions in dispatchers; ``called_by``,
    for a program that only tail calls reach, has those that these begin with.
    """
    program = status.program
    return {
        "id": program.id,
        "program": program.function,
        "name": program.name,
        "tag": program.tag,
        "role": str(status.part.role),
        "attach_type": program.attach_type,
        "loaded_at": BOOT_CLOCK.unix_time(program.load_time) if program.load_time else None,
        "uid": program.uid,
        "attachments": [_location(at) for at in status.attachments],
        "chain": [
            {"dispatcher_id": location.dispatcher, "position": location.position}
            for location in status.part.chain
        ],
        "called_by": list(status.part.callers),
        "traceable": status.reason is None,
        "reason": str(status.reason or ""),
    }


def _location(at: Attachment) -> dict[str, object]:
    """Return one attachment.

    ``via`` is there on a lower device of a bond only: the bond that the program is attached to.
    ``receives`` is there on the bond itself only, and false.
    """
    shown: dict[str, object] = {
        "netns": at.netns,
        "interface": at.interface,
        "mode": str(at.mode),
    }
    if at.via:
        shown["via"] = at.via
    if not at.receives:
        shown["receives"] = False
    return shown


def count_as_json(count: Count) -> dict[str, object]:
    """Return JSON values: packets and bytes by verdict at one location."""
    netns, interface = count.location
    return {
        "netns": netns,
        "interface": interface,
        "packets": dict(zip(VERDICTS, count.tally.packets, strict=True)),
        "bytes": dict(zip(VERDICTS, count.tally.bytes, strict=True)),
    }


def cpus_as_json(counts: CpuCounts) -> list[dict[str, object]]:
    """Return JSON values: packets and bytes by verdict, for each CPU that has counted any."""
    return [
        {
            "cpu": cpu,
            "packets": dict(zip(VERDICTS, packets, strict=True)),
            "bytes": dict(zip(VERDICTS, sizes, strict=True)),
        }
        for cpu, (packets, sizes) in enumerate(counts.transpose(0, 2, 1).tolist())
        if any(packets)
    ]


def latency_as_json(latency: Latency) -> dict[str, object]:
    """Return JSON values: the packets measured, and quantiles; null as long as there are none."""
    times = latency.times
    return {
        "packets": times.packets,
        "p50_seconds": times.quantile(0.5),
        "p99_seconds": times.quantile(0.99),
    }


def flows_as_json(found: FlowsFound) -> dict[str, object]:
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
