# SPDX-License-Identifier: Apache-2.0
"""Metrics of flows: exported flows, ``other``, and packets in no flow."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xdpscope.counters.records import REASONS
from xdpscope.program_types.xdp import VERDICTS

if TYPE_CHECKING:
    from xdpscope.report import FlowReport

_VERDICT = ["program_id", "program", "netns", "interface", "verdict"]
_FLOW = ["protocol", "source", "destination", "source_port", "destination_port"]
_OTHER = ["other"] * len(_FLOW)


class FlowCollector(Collector):
    """``xdp_flow_*``; nothing while no flows are kept."""

    def __init__(self, report: "Callable[[], FlowReport | None]") -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        report = self._report()
        if report is None:
            return []
        return [*_flows(report), *_unaccounted(report), *_table(report)]


def _flows(report: "FlowReport") -> Iterable[Metric]:
    packets = CounterMetricFamily(
        "xdp_flow_packets",
        "Packets of a flow that left an XDP program with a verdict; flows without a series"
        " of their own are 'other'. Where flows are sampled, those sampled.",
        labels=_VERDICT + _FLOW,
    )
    sizes = CounterMetricFamily(
        "xdp_flow_bytes", "Bytes of these packets, as they left.", labels=_VERDICT + _FLOW
    )
    for flow in report.exported:
        ends = [flow.source, flow.destination, str(flow.source_port), str(flow.destination_port)]
        labels = [
            str(flow.program.id), flow.program.function, *flow.location, flow.verdict,
            flow.protocol, *ends,
        ]  # fmt: skip
        packets.add_metric(labels, flow.packets)
        sizes.add_metric(labels, flow.bytes)
    for count in report.others:
        location = [str(count.program.id), count.program.function, *count.location]
        for verdict, number, size in zip(
            VERDICTS, count.tally.packets, count.tally.bytes, strict=True
        ):
            packets.add_metric([*location, verdict, *_OTHER], number)
            sizes.add_metric([*location, verdict, *_OTHER], size)
    return [packets, sizes]


def _unaccounted(report: "FlowReport") -> Iterable[Metric]:
    packets = CounterMetricFamily(
        "xdp_flow_unaccounted_packets",
        "Packets that are in no flow, and why.",
        labels=[*_VERDICT, "reason"],
    )
    sizes = CounterMetricFamily(
        "xdp_flow_unaccounted_bytes", "Bytes of these packets.", labels=[*_VERDICT, "reason"]
    )
    for count in report.unaccounted:
        location = [str(count.program.id), count.program.function, *count.location]
        for reason in REASONS:
            tallies = zip(VERDICTS, *count.tally.unaccounted(reason), strict=True)
            for verdict, number, size in tallies:
                # From 0 on: a series that began above 0 would hide its first packets from rates.
                packets.add_metric([*location, verdict, reason], number)
                sizes.add_metric([*location, verdict, reason], size)
    return [packets, sizes]


def _table(report: "FlowReport") -> Iterable[Metric]:
    entries = GaugeMetricFamily("xdp_flow_table_entries", "Flows now held.", report.entries)
    most = GaugeMetricFamily(
        "xdp_flow_table_max_entries",
        "Flows that can be held, flows.max_entries.",
        report.max_entries,
    )
    evictions = CounterMetricFamily(
        "xdp_flow_evictions",
        "Flows no longer held: idle for long, or pushed out. Their counts are in 'other'.",
        labels=["reason"],
    )
    for reason, number in report.evictions.items():
        evictions.add_metric([reason], number)
    rate = GaugeMetricFamily(
        "xdpscope_flow_sample_rate",
        "Of so many packets one is taken for flows; 1: all, 0: none.",
        report.sample_rate,
    )
    return [entries, most, evictions, rate]
