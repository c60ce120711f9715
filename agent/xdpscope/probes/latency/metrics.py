# SPDX-License-Identifier: Apache-2.0
"""The time that packets spend inside a program."""

from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily, Metric

if TYPE_CHECKING:
    from xdpscope.probes.latency.report import Latency


def families(latencies: "Iterable[Latency]") -> list[Metric]:
    """Return ``xdp_program_run_seconds``."""
    family = HistogramMetricFamily(
        "xdp_program_run_seconds",
        "Time that packets spent inside an XDP program, with the programs that it calls.",
        labels=["program_id", "program"],
    )
    for each in latencies:
        family.add_metric(
            [str(each.program.id), each.program.function],
            [
                ("+Inf" if bound == inf else repr(bound), packets)
                for bound, packets in each.times.cumulative
            ],
            each.times.seconds,
        )
    return [family]
