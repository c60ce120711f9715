# SPDX-License-Identifier: Apache-2.0
"""Metrics of flows: exported flows, ``other``, and packets in no flow."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from xdpscope.counters.records import REASONS
from xdpscope.probes.flows.report import FlowReport
from xdpscope.program_types.xdp import VERDICTS

_VERDICT = ["program_id", "program", "netns", "interface", "verdict"]
_FLOW = ["protocol", "source", "destination", "source_port", "destination_port"]
_OTHER = ["other"] * len(_FLOW)


def families(report: FlowReport | None) -> list[Metric]:
    """Return ``xdp_flow_*``; without samples if there is no report yet."""
    lists = report or FlowReport(0, {}, 1)
    return [*_flows(lists), *_unaccounted(lists), *_table(report)]


def _flows(report: FlowReport) -> Iterable[Metric]:
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


def _unaccounted(report: FlowReport) -> Iterable[Metric]:
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


def _table(report: FlowReport | None) -> Iterable[Metric]:
    held = most = rate = None
    if report is not None:
        held, most, rate = report.entries, report.max_entries, report.sample_rate
    evictions = CounterMetricFamily(
        "xdp_flow_evictions",
        "Flows no longer held: idle for long, or pushed out. Their counts are in 'other'.",
        labels=["reason"],
    )
    for reason, number in (report.evictions if report else {}).items():
        evictions.add_metric([reason], number)
    return [
        GaugeMetricFamily("xdp_flow_table_entries", "Flows now held.", held),
        GaugeMetricFamily(
            "xdp_flow_table_max_entries", "Flows that can be held, flows.max_entries.", most
        ),
        evictions,
        GaugeMetricFamily(
            "xdpscope_flow_sample_rate",
            "Of so many packets one is taken for flows; 1: all, 0: none.",
            rate,
        ),
    ]
