# SPDX-License-Identifier: Apache-2.0
"""Define the dashboard of the agents: whether they work, what they miss, and what they cost."""

from grafana_foundation_sdk.models import dashboard as model

from dashboards.boards import (
    AGENT,
    NODE_OF_ROW,
    OVERVIEW,
    PROGRAM,
    Line,
    Section,
    agents,
    dashboard,
    datasource,
    firing,
    link,
    panel_of,
    to_overview,
    to_program,
    unanswered,
)
from dashboards.panels import (
    BAD,
    FLOWS_RATE,
    PACKETS,
    PACKETS_RATE,
    PER_MINUTE,
    REASONS,
    Column,
    Panel,
    Words,
    lines,
    number,
    rows,
)
from dashboards.queries import (
    AGENT_UP,
    NODE,
    NODE_LEGEND,
    RANGE,
    TARGET,
    TOP,
    busiest,
    described,
    extreme,
    grown,
    lasting,
    once,
    or_zero,
    rate,
    series,
    share,
    total,
    whole,
)

SHARED = ("datasource", *TARGET)
TEN = f"The {TOP} nodes with most in the time shown."
NO_YES = {"0": "no", "1": "yes"}
SILENT = "No agent answers: see whether it runs, and what Prometheus has in Status, Targets."
NO_FLOWS = "Flows are switched off (flows.enabled), or no agent answers."
NO_STATISTICS = (
    "Nothing was measured: no agent answers, or the kernel refuses its statistics of BPF programs."
    " The agent's log says why."
)


def _of_this(panel: str) -> str:
    return panel_of(AGENT, panel, *SHARED)


def _numbers() -> list[tuple[int, Panel]]:
    hosts = {"title": "Which", "url": _of_this("Agents and hosts")}
    return [
        (
            4,
            number(
                Words(
                    "Agents",
                    "Agents that answered when Prometheus last read them.",
                    "no agent answers",
                ),
                f"count({series(AGENT_UP)})",
                "none",
                links=[hosts],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Not answering",
                    "Agents that Prometheus could not read at some moment of the time shown. Those"
                    " of a job of which none answers are not known here.",
                    "no agent answers",
                ),
                unanswered(),
                "none",
                bad_from=1,
                links=[hosts],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Collectors failing",
                    "Parts of the pages that were missing at some moment of the time shown, because"
                    " what reads them failed. The agent's log says why.",
                    "no agent answers",
                ),
                or_zero(
                    f"count(min_over_time({series('xdpscope_collector_success')}[{RANGE}]) == 0)"
                ),
                "none",
                bad_from=1,
                links=[{"title": "Which", "url": _of_this("Collectors that failed")}],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Scans failed",
                    "Scans of a host that failed in the time shown. The agent's log says why.",
                    "no agent answers",
                ),
                or_zero(whole(total(grown("xdpscope_scan_failures_total")))),
                "none",
                bad_from=1,
                links=[{"title": "Where, and when", "url": _of_this("Failed scans")}],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Programs traced",
                    "Programs whose packets are counted.",
                    "no agent answers",
                ),
                or_zero(total(series("xdp_program_traced"))),
                "none",
                links=[{"title": "And those not traced", "url": _of_this("Programs by status")}],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Missed",
                    "Packets in the time shown that the kernel did not show to the tracer of a"
                    " program, because it was running already. They are not in that program's"
                    " counts. It should be 0.",
                    "nothing is traced",
                ),
                whole(total(grown("xdpscope_tracer_missed_total"))),
                PACKETS,
                bad_from=1,
                links=[{"title": "Of which programs, and when", "url": _of_this("Packets missed")}],
            ),
        ),
    ]


def _by_node(words: Words, metric: str, unit: str, *, counter: bool = False) -> Panel:
    """Return lines of a process metric, for the ten nodes with the highest values."""
    own = f"and on (cluster, job, instance) {series(AGENT_UP)}"
    shown = f"({rate(metric) if counter else series(metric)} {own})"
    ranking = extreme("increase" if counter else "max_over_time", metric)
    most = f"sum by ({', '.join(NODE)}) ({ranking} {own})"
    said = Words(words.title, f"{words.about} {TEN}", words.empty)
    return lines(said, {NODE_LEGEND: busiest(total(shown, *NODE), most, *NODE)}, unit, narrow=True)


def _cost() -> list[Line]:
    processor = _by_node(
        Words(
            "Time of agents", "Time on a CPU that an agent takes, as a share of one CPU.", SILENT
        ),
        "process_cpu_seconds_total",
        "percentunit",
        counter=True,
    )
    memory = _by_node(
        Words("Memory of agents", "Resident memory of an agent's privileged process.", SILENT),
        "process_resident_memory_bytes",
        "bytes",
    )
    files = _by_node(
        Words(
            "Open files", "Descriptors that an agent has open, of programs and maps too.", SILENT
        ),
        "process_open_fds",
        "none",
    )
    own = series("xdpscope_cpu_ratio")
    share_of_cpu = lines(
        Words(
            "Own cost",
            f"An agent's process and its tracers, as a share of one CPU. {TEN}",
            NO_STATISTICS,
        ),
        {
            NODE_LEGEND: busiest(
                total(own, *NODE),
                total(extreme("max_over_time", "xdpscope_cpu_ratio"), *NODE),
                *NODE,
            )
        },
        "percentunit",
    )
    programs = lines(
        Words(
            "Time in programs and in their tracers",
            "Time in XDP programs with their tracers, and in the tracers alone, as a share of one"
            " CPU. Measured for a moment each ten seconds.",
            NO_STATISTICS,
        ),
        {
            "{{program}}": total(series("xdp_program_cpu_ratio"), "program"),
            "tracers of {{program}}": total(series("xdpscope_tracer_cpu_ratio"), "program"),
        },
        "percentunit",
    )
    each = lines(
        Words(
            "Time for a packet",
            "Time in a program's tracers, divided by the packets in that time.",
            NO_STATISTICS,
        ),
        {
            "{{program}}": share(
                rate("xdpscope_tracer_run_seconds_total"),
                rate("xdpscope_tracer_runs_total"),
                "program",
            )
        },
        "s",
    )
    maps = _by_node(
        Words("Memory of maps", "Kernel memory of the maps that an agent holds.", SILENT),
        "xdpscope_map_memory_bytes",
        "bytes",
    )
    level = _by_node(
        Words(
            "Budget",
            "What the budget has done: 0 nothing, 1 flows are sampled four times harder, 2 no"
            " packet is taken for flows. Without budget.cpu_percent it stays 0.",
            SILENT,
        ),
        "xdpscope_budget_level",
        "none",
    )
    return [
        Line(8, [(8, processor), (8, memory), (8, files)]),
        Line(8, [(12, share_of_cpu), (6, maps), (6, level)]),
        Line(8, [(12, programs), (12, each)]),
    ]


def _coverage() -> list[Line]:
    missed = lines(
        Words(
            "Packets missed",
            "Packets that the kernel did not show to a program's tracer, because it was running"
            " already.",
            "Nothing is traced.",
        ),
        {"{{program}}": total(rate("xdpscope_tracer_missed_total"), "program")},
        PACKETS_RATE,
    )
    status = lines(
        Words(
            "Programs by status",
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
            "Attempts to attach a tracer that failed, in a minute, by reason. They are repeated as"
            " long as the program is there.",
            SILENT,
        ),
        {"{{reason}}": f"60 * {total(rate('xdpscope_attach_failures_total'), 'reason')}"},
        PER_MINUTE,
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
            )
        },
        {
            "program": Column("program", link=to_program(**NODE_OF_ROW)),
            "reason": Column("why not", width=220, texts=REASONS),
            "role": Column("role", width=110),
            "program_id": Column("id", width=80),
            "instance": Column("node", width=160),
            "cluster": Column("cluster", width=100),
        },
        sort="why not",
    )
    return [Line(8, [(12, missed), (12, status)]), Line(8, [(12, failures), (12, untraced)])]


def _flows() -> list[Line]:
    held, most = (
        total(series(f"xdp_flow_table_{what}"), *NODE) for what in ("entries", "max_entries")
    )
    ranking = f"max by ({', '.join(NODE)}) ({extreme('max_over_time', 'xdp_flow_table_entries')})"
    filled = lines(
        Words(
            "Flow table in use",
            f"Flows that an agent holds, divided by flows.max_entries. {TEN}",
            NO_FLOWS,
        ),
        {NODE_LEGEND: busiest(f"{held} / ({most} > 0)", ranking, *NODE)},
        "percentunit",
        narrow=True,
    )
    evicted = lines(
        Words(
            "Flows evicted",
            "Flows that the agents hold no longer: because they were idle, or, under pressure,"
            " because there was no room (flows.max_entries). Their packets are in 'other', never"
            " lost.",
            NO_FLOWS,
        ),
        {"{{reason}}": total(rate("xdp_flow_evictions_total"), "reason")},
        FLOWS_RATE,
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
        PACKETS_RATE,
        narrow=True,
    )
    tables = rows(
        Words(
            "Flow tables", "Flows that each agent holds, and for how many it has room.", NO_FLOWS
        ),
        {
            "held": total(series("xdp_flow_table_entries"), *TARGET),
            "most": total(series("xdp_flow_table_max_entries"), *TARGET),
            "used": share(
                series("xdp_flow_table_entries"), series("xdp_flow_table_max_entries"), *TARGET
            ),
        },
        {
            "instance": Column("node", link=to_overview()),
            "cluster": Column("cluster", width=90),
            "Value #held": Column("flows", width=75, unit="locale"),
            "Value #most": Column("room for", width=80, unit="locale"),
            "Value #used": Column("in use", width=70, unit="percentunit"),
        },
        sort="in use",
        descending=True,
    )
    return [Line(8, [(6, filled), (8, tables), (5, evicted), (5, unaccounted)])]


def _scans() -> list[Line]:
    last = "xdpscope_scan_last_success_timestamp_seconds"
    age = lines(
        Words(
            "Time since the last scan",
            "How old an agent's view of its host is. It grows while scans fail or hang. Packets of"
            " programs that are known are counted meanwhile. The ten nodes with the oldest now.",
            SILENT,
        ),
        {
            NODE_LEGEND: f"(time() - {series(last)}) and on (cluster, instance)"
            f" bottomk({TOP}, {series(last)} @ end())"
        },
        "s",
        narrow=True,
    )
    duration = _by_node(
        Words("Time of a scan", "What the last scan took.", SILENT),
        "xdpscope_scan_duration_seconds",
        "s",
    )
    failures = lines(
        Words(
            "Failed scans",
            f"Scans that failed as a whole, in a minute. The agent's log says why. {TEN}",
            SILENT,
        ),
        {
            NODE_LEGEND: busiest(
                f"60 * {total(rate('xdpscope_scan_failures_total'), *NODE)}",
                total(extreme("increase", "xdpscope_scan_failures_total"), *NODE),
                *NODE,
            )
        },
        PER_MINUTE,
        narrow=True,
    )
    return [Line(8, [(8, age), (8, duration), (8, failures)])]


def _scrapes() -> list[Line]:
    duration = _by_node(
        Words("Time of a scrape", "From Prometheus' request to the end of the page.", SILENT),
        "scrape_duration_seconds",
        "s",
    )
    collectors = lines(
        Words("Time of a collector", "The longest that each part of a page took.", SILENT),
        {"{{collector}}": f"max by (collector) ({series('xdpscope_collector_duration_seconds')})"},
        "s",
        narrow=True,
    )
    samples = _by_node(
        Words(
            "Series of a page", "Samples in a page, which is what Prometheus has to store.", SILENT
        ),
        "scrape_samples_scraped",
        "none",
    )
    failing = rows(
        Words(
            "Collectors that failed",
            "Each part of a page that was missing at some moment of the time shown, by node.",
            "No collector failed in the time shown.",
        ),
        {"A": f"min_over_time({series('xdpscope_collector_success')}[{RANGE}]) == 0"},
        {
            "collector": Column("collector"),
            "instance": Column("node", link=to_overview()),
            "cluster": Column("cluster", width=90),
        },
        sort="collector",
    )
    return [Line(8, [(6, duration), (6, collectors), (6, samples), (6, failing)])]


def _hosts() -> Panel:
    """Return a table of all agents. With 200 nodes, only this panel shows each of them."""
    known = f"and on (cluster, job, instance) {lasting(AGENT_UP)}"
    by = ", ".join(TARGET)
    return rows(
        Words(
            "Agents and hosts",
            "Each agent: whether it answers, what it takes, how often it started in the time shown,"
            " and what it runs on. A node leads to its packets.",
            SILENT,
        ),
        {
            "up": f"max by ({by}) ({series('up')} {known})",
            "always": f"min by ({by}) (min_over_time({series('up')}[{RANGE}]) {known})",
            "starts": f"sum by ({by}) (changes({series('process_start_time_seconds')}[{RANGE}])"
            f" {known})",
            "cpu": f"sum by ({by}) ({rate('process_cpu_seconds_total')} {known})",
            "memory": f"sum by ({by}) ({series('process_resident_memory_bytes')} {known})",
            "files": f"sum by ({by}) ({series('process_open_fds')} {known})",
            "most_files": f"sum by ({by}) ({series('process_max_fds')} {known})",
            "build": f"group by ({by}, version, kernel, libbpf_version, python_version)"
            f" ({series(AGENT_UP)})",
        },
        {
            "instance": Column("node", link=to_overview()),
            "cluster": Column("cluster", width=110),
            "Value #up": Column("answers", width=85, texts=NO_YES, colours={"0": BAD}),
            "Value #always": Column("always did", width=95, texts=NO_YES, colours={"0": BAD}),
            "Value #starts": Column("restarts", width=85),
            "Value #cpu": Column("CPU", width=80, unit="percentunit"),
            "Value #memory": Column("memory", width=95, unit="bytes"),
            "Value #files": Column("files", width=70),
            "Value #most_files": Column("max. files", width=95, unit="locale"),
            "version": Column("xdpscope", width=90),
            "kernel": Column("kernel"),
            "libbpf_version": Column("libbpf", width=75),
            "python_version": Column("Python", width=80),
        },
        sort="answers",
    )


def agent() -> model.Dashboard:
    """Return the dashboard."""
    return dashboard(
        AGENT,
        "Whether the xdpscope agents work, what they miss, and what they cost.",
        [datasource(), *agents()],
        [link(OVERVIEW, *SHARED), link(PROGRAM, *SHARED)],
        [
            Section(
                "Now",
                [
                    Line(5, _numbers()),
                    firing(AGENT, "Alerts of the nodes that are chosen."),
                    Line(8, [(24, _hosts())]),
                ],
            ),
            Section("Cost", _cost()),
            Section("Programs", _coverage()),
            Section("Flow table", _flows()),
            Section("Scans", _scans()),
            Section("Scrapes", _scrapes()),
        ],
    )
