# SPDX-License-Identifier: Apache-2.0
"""Counts by verdict as machines read them: docs/api.md describes the format."""

from xdpscope.probes.verdicts.by_cpu import CpuCounts
from xdpscope.program_types.xdp import VERDICTS
from xdpscope.report import Count


def as_json(count: Count) -> dict[str, object]:
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
