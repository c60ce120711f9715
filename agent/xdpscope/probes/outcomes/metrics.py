# SPDX-License-Identifier: Apache-2.0
"""Outcomes as Prometheus metrics."""

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from xdpscope.probes.outcomes.report import OutcomeReport
from xdpscope.probes.outcomes.tracepoints import Outcome

_OF_PROGRAM = ("program_id", "program", "netns", "interface")


def families(report: OutcomeReport) -> list[Metric]:
    """Return the metrics of a report."""
    counters = {
        Outcome.EXCEPTION: CounterMetricFamily(
            "xdp_exceptions",
            "Packets lost after a verdict that the kernel could not carry out, or that aborted.",
            labels=[*_OF_PROGRAM, "verdict"],
        ),
        Outcome.REDIRECT_ERROR: CounterMetricFamily(
            "xdp_redirect_errors",
            "Packets lost because they could not be redirected, by errno.",
            labels=[*_OF_PROGRAM, "error"],
        ),
        Outcome.DEVMAP_TRANSMIT: CounterMetricFamily(
            "xdp_devmap_transmit_packets",
            "Packets redirected to an interface: sent by its driver, or dropped there.",
            labels=["netns", "from_interface", "to_interface", "result"],
        ),
        Outcome.TX: CounterMetricFamily(
            "xdp_tx_packets",
            "Packets with the verdict tx: sent, or dropped. Only of drivers that report them in"
            " bulk.",
            labels=["netns", "interface", "result"],
        ),
        Outcome.CPUMAP: CounterMetricFamily(
            "xdp_cpumap_packets",
            "Packets redirected to a CPU: enqueued for it, then processed by it, or dropped.",
            labels=["map_id", "result"],
        ),
    }
    for series, packets in report.packets:
        counters[series.outcome].add_metric(series.labels, packets)
    supported = GaugeMetricFamily(
        "xdp_outcome_supported",
        "Whether an outcome is reported for the XDP programs of an interface. If not, its counter"
        " says nothing about success.",
        labels=["netns", "interface", "outcome"],
    )
    for location, outcomes in report.supported.items():
        for outcome in Outcome:
            supported.add_metric([*location, str(outcome)], int(outcome in outcomes))
    lost = CounterMetricFamily(
        "xdpscope_lost_events",
        "Events that the agent could not count.",
        labels=["stream"],
    )
    if report.lost is not None:
        lost.add_metric(["outcomes"], report.lost)
    return [*counters.values(), supported, lost]
