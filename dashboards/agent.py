# SPDX-License-Identifier: Apache-2.0
"""The agents themselves: whether they work, what they miss, and what they cost."""

from grafana_foundation_sdk.models import dashboard as model

from dashboards.boards import (
    AGENT,
    OVERVIEW,
    PROGRAM,
    Line,
    Section,
    agents,
    agents_that_answer,
    dashboard,
    datasource,
    firing,
    link,
)
from dashboards.panels import Column, Panel, Words, lines, number, rows
from dashboards.queries import (
    AGENT_UP,
    NODE,
    NODE_LEGEND,
    TARGET,
    described,
    once,
    or_nought,
    rate,
    series,
    share,
    total,
)

SILENT = "No agent answers: see whether it runs, and what Prometheus has in Status, Targets."
NO_FLOWS = "Flows are switched off (flows.enabled), or no agent answers."
NO_STATISTICS = (
    "The kernel keeps no statistics of BPF programs: they are off, because every program pays for"
    " them. sysctl kernel.bpf_stats_enabled=1 switches them on."
)


def _numbers() -> list[tuple[int, Panel]]:
    return [
        (
            5,
            number(
                Words(
                    "Agents",
                    "Agents that answered when Prometheus last read them.",
                    "no agent answers",
                ),
                f"count({series(AGENT_UP)})",
                "none",
            ),
        ),
        (
            5,
            number(
                Words(
                    "Not answering",
                    "Agents that Prometheus could not read the last time it tried. Those of a job"
                    " of which none answers are not known here.",
                    "no agent answers",
                ),
                f"count(({agents_that_answer()}) == 0) or 0 * count({agents_that_answer()})",
                "none",
                bad_from=1,
            ),
        ),
        (
            5,
            number(
                Words(
                    "Collectors failing",
                    "Parts of the pages that are missing, because what reads them failed. The"
                    " agent's log says why.",
                    "no agent answers",
                ),
                or_nought(f"count({series('xdpscope_collector_success')} == 0)"),
                "none",
                bad_from=1,
            ),
        ),
        (
            5,
            number(
                Words(
                    "Programs traced",
                    "Programs whose packets are counted.",
                    "no agent answers",
                ),
                or_nought(total(series("xdp_program_traced"))),
                "none",
            ),
        ),
        (
            4,
            number(
                Words(
                    "Missed",
                    "Packets that the kernel did not show to the tracer of a program, because it"
                    " was running already. They are not in that program's counts. Ought to be"
                    " nought.",
                    "nothing is traced",
                ),
                total(rate("xdpscope_tracer_missed_total")),
                "pps",
                bad_from=1e-9,
            ),
        ),
    ]


def _cost() -> list[Line]:
    spent = rate("xdpscope_tracer_run_seconds_total")
    share_of_cpu = lines(
        Words(
            "Time in tracers",
            "What observing costs: time spent in tracers, as a share of one CPU.",
            NO_STATISTICS,
        ),
        {NODE_LEGEND: total(spent, *NODE)},
        "percentunit",
    )
    each = lines(
        Words(
            "Time for a packet",
            "Time spent in a program's tracers, divided by the packets they counted.",
            NO_STATISTICS,
        ),
        {"{{program}}": share(spent, rate("xdp_packets_total"), "program")},
        "s",
    )
    return [Line(8, [(12, share_of_cpu), (12, each)])]


def _coverage() -> list[Line]:
    missed = lines(
        Words(
            "Packets missed",
            "Packets that the kernel did not show to a program's tracer, because it was running"
            " already.",
            "Nothing is traced.",
        ),
        {"{{program}}": total(rate("xdpscope_tracer_missed_total"), "program")},
        "pps",
    )
    standing = lines(
        Words(
            "Programs by standing",
            "How many programs are traced, and how many are not, for which reason. No fault are"
            " not_attached, excluded and tailcall_only, nor busy of a dispatcher whose only"
            " component stands in its place.",
            "No XDP program is loaded, or no agent answers.",
        ),
        {
            "traced": total(series("xdp_program_traced")),
            "{{reason}}": f"count by (reason) ({series('xdp_program_traced')} == 0)",
        },
        "none",
        stacked=True,
    )
    failures = lines(
        Words(
            "Failed attempts to trace",
            "Attempts to attach a tracer that failed, by reason. They are repeated as long as the"
            " program is there.",
            SILENT,
        ),
        {"{{reason}}": total(rate("xdpscope_attach_failures_total"), "reason")},
        "cps",
    )
    untraced = rows(
        Words(
            "Programs not traced, and why",
            "Each program that is loaded and whose packets are not counted.",
            "Every XDP program that is loaded is traced.",
        ),
        {
            "A": described(
                f"({series('xdp_program_traced')} == 0)",
                series("xdp_program_info"),
                "role",
                "tag",
            )
        },
        {
            "program": Column("program"),
            "reason": Column("why not", width=140),
            "role": Column("role", width=110),
            "program_id": Column("id", width=80),
            "tag": Column("tag", width=170),
            "instance": Column("node", width=200),
            "cluster": Column("cluster", width=120),
        },
        sort="program",
    )
    return [Line(8, [(12, missed), (12, standing)]), Line(8, [(12, failures), (12, untraced)])]


def _flows() -> list[Line]:
    held = lines(
        Words("Flows held", "Flows that an agent holds now (flows.max_entries at most).", NO_FLOWS),
        {NODE_LEGEND: total(series("xdp_flow_table_entries"), *NODE)},
        "none",
        narrow=True,
    )
    evicted = lines(
        Words(
            "Flows let go",
            "Flows that the agents hold no longer: because they were idle, or, under pressure,"
            " because there was no room (flows.max_entries). Their packets are in 'other', never"
            " lost.",
            NO_FLOWS,
        ),
        {"{{reason}}": total(rate("xdp_flow_evictions_total"), "reason")},
        "cps",
        narrow=True,
    )
    unaccounted = lines(
        Words(
            "Packets in no flow",
            "Packets that are counted, but in no flow, by reason: not IP, headers not all there"
            " (truncated), or left out by sampling.",
            "Every packet is in a flow, or flows are switched off.",
        ),
        {"{{reason}}": total(once("xdp_flow_unaccounted_packets_total"), "reason")},
        "pps",
        narrow=True,
    )
    return [Line(8, [(8, held), (8, evicted), (8, unaccounted)])]


def _scans() -> list[Line]:
    age = lines(
        Words(
            "Time since the last scan",
            "How old an agent's view of its host is. It grows while scans fail or hang. Packets of"
            " programs that are known are counted meanwhile.",
            SILENT,
        ),
        {NODE_LEGEND: f"time() - {series('xdpscope_scan_last_success_timestamp_seconds')}"},
        "s",
        narrow=True,
    )
    duration = lines(
        Words("Time of a scan", "What the last scan took.", SILENT),
        {NODE_LEGEND: series("xdpscope_scan_duration_seconds")},
        "s",
        narrow=True,
    )
    failures = lines(
        Words(
            "Scans failed",
            "Scans that failed as a whole. The agent's log says why.",
            SILENT,
        ),
        {NODE_LEGEND: total(rate("xdpscope_scan_failures_total"), *NODE)},
        "cps",
        narrow=True,
    )
    return [Line(8, [(8, age), (8, duration), (8, failures)])]


def _scrapes() -> list[Line]:
    duration = lines(
        Words("Time of a scrape", "From Prometheus' request to the end of the page.", SILENT),
        {
            NODE_LEGEND: f"{series('scrape_duration_seconds')}"
            f" and on (cluster, job, instance) {series(AGENT_UP)}"
        },
        "s",
        narrow=True,
    )
    collectors = lines(
        Words("Time of a collector", "The longest that each part of a page took.", SILENT),
        {"{{collector}}": f"max by (collector) ({series('xdpscope_collector_duration_seconds')})"},
        "s",
        narrow=True,
    )
    samples = lines(
        Words(
            "Series of a page", "Samples in a page, which is what Prometheus has to store.", SILENT
        ),
        {
            NODE_LEGEND: f"{series('scrape_samples_scraped')}"
            f" and on (cluster, job, instance) {series(AGENT_UP)}"
        },
        "none",
        narrow=True,
    )
    builds = rows(
        Words("Versions", "What the agents are and what they run on.", SILENT),
        {"A": series(AGENT_UP)},
        {
            "instance": Column("node", width=200),
            "cluster": Column("cluster", width=120),
            "version": Column("xdpscope"),
            "kernel": Column("kernel"),
            "libbpf_version": Column("libbpf"),
            "python_version": Column("Python"),
        },
        sort="node",
    )
    return [Line(8, [(8, duration), (8, collectors), (8, samples)]), Line(6, [(24, builds)])]


def agent() -> model.Dashboard:
    """The dashboard."""
    shared = ("datasource", *TARGET)
    return dashboard(
        AGENT,
        "Whether the xdpscope agents work, what they miss, and what they cost.",
        [datasource(), *agents()],
        [link(OVERVIEW, *shared), link(PROGRAM, *shared)],
        [
            Section(
                "Now",
                [
                    Line(5, _numbers()),
                    firing(AGENT, "Alerts of the nodes that are chosen."),
                ],
            ),
            Section("Cost", _cost()),
            Section("Programs", _coverage()),
            Section("Flow table", _flows()),
            Section("Scans", _scans()),
            Section("Scrapes", _scrapes()),
        ],
    )
