# SPDX-License-Identifier: Apache-2.0
"""Packets and bytes by program, place and verdict."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from xdpscope.program_types.xdp import VERDICTS

if TYPE_CHECKING:
    from xdpscope.report import Count

_LABELS = ["program_id", "program", "netns", "interface", "verdict"]


class VerdictCollector(Collector):
    """``xdp_packets_total`` and ``xdp_bytes_total``."""

    def __init__(self, counts: "Callable[[], Sequence[Count]]") -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        packets = CounterMetricFamily(
            "xdp_packets", "Packets that left an XDP program with a verdict.", labels=_LABELS
        )
        sizes = CounterMetricFamily(
            "xdp_bytes",
            "Bytes of the packets that left an XDP program with a verdict, as they left it.",
            labels=_LABELS,
        )
        for count in self._counts():
            labels = [str(count.program.id), count.program.function, *count.location]
            for index, verdict in enumerate(VERDICTS):
                packets.add_metric([*labels, verdict], count.tally.packets[index])
                sizes.add_metric([*labels, verdict], count.tally.bytes[index])
        return [packets, sizes]
