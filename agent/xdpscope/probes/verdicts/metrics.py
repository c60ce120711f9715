# SPDX-License-Identifier: Apache-2.0
"""Packets and bytes by program, location and verdict."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, Metric

from xdpscope.program_types.xdp import VERDICTS

if TYPE_CHECKING:
    from xdpscope.report import Count

_LABELS = ["program_id", "program", "netns", "interface", "verdict"]


def families(counts: "Iterable[Count]") -> list[Metric]:
    """Return ``xdp_packets_total`` and ``xdp_bytes_total``."""
    packets = CounterMetricFamily(
        "xdp_packets", "Packets that left an XDP program with a verdict.", labels=_LABELS
    )
    sizes = CounterMetricFamily(
        "xdp_bytes",
        "Bytes of the packets that left an XDP program with a verdict, as they left it.",
        labels=_LABELS,
    )
    for count in counts:
        labels = [str(count.program.id), count.program.function, *count.location]
        for index, verdict in enumerate(VERDICTS):
            packets.add_metric([*labels, verdict], count.tally.packets[index])
            sizes.add_metric([*labels, verdict], count.tally.bytes[index])
    return [packets, sizes]
