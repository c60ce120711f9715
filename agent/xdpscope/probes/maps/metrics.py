# SPDX-License-Identifier: Apache-2.0
"""Maps as Prometheus metrics."""

from prometheus_client.core import GaugeMetricFamily, Metric

from xdpscope.probes.maps.report import MapReport


def families(report: MapReport) -> list[Metric]:
    """Return the metrics of a report."""
    info = GaugeMetricFamily(
        "xdp_map_info", "A map that an XDP program uses.", labels=["map_id", "map", "type"]
    )
    uses = GaugeMetricFamily(
        "xdp_program_map_info",
        "An XDP program uses a map.",
        labels=["program_id", "program", "map_id"],
    )
    labels = ["map_id", "map"]
    entries = GaugeMetricFamily(
        "xdp_map_entries",
        "Entries in a map. Only of maps whose entries the kernel counts.",
        labels=labels,
    )
    most = GaugeMetricFamily("xdp_map_max_entries", "Size of a map, in entries.", labels=labels)
    memory = GaugeMetricFamily(
        "xdp_map_memory_bytes",
        "Memory of a map, as the kernel reports it: in use from Linux 6.4 on, estimated for a full"
        " map before.",
        labels=labels,
    )
    for each in report.maps:
        values = [str(each.id), each.name]
        info.add_metric([*values, each.type], 1)
        most.add_metric(values, each.max_entries)
        if each.id in report.entries:
            entries.add_metric(values, report.entries[each.id])
        if each.memory is not None:
            memory.add_metric(values, each.memory)
    for use in report.uses:
        uses.add_metric([str(use.program_id), use.program, str(use.map_id)], 1)
    return [info, uses, entries, most, memory]
