# SPDX-License-Identifier: Apache-2.0
"""Define the plain values that the latency probe reports."""

from dataclasses import dataclass

from xdpscope.discovery.model import XdpProgram
from xdpscope.probes.latency.times import Times


@dataclass(frozen=True, slots=True)
class Latency:
    """Hold the times that packets spent inside one program."""

    program: XdpProgram
    times: Times


def as_json(latency: Latency) -> dict[str, object]:
    """Return JSON values: the packets measured, and quantiles; null as long as there are none."""
    times = latency.times
    return {
        "packets": times.packets,
        "p50_seconds": times.quantile(0.5),
        "p99_seconds": times.quantile(0.99),
    }
