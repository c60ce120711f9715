# SPDX-License-Identifier: Apache-2.0
"""Define the dashboard of one program: its verdicts, locations, chain and flows."""

from grafana_foundation_sdk.models import dashboard as model

from dashboards.boards import (
    AGENT,
    LOCATION_OF_ROW,
    NODE_OF_ROW,
    OVERVIEW,
    PROGRAM,
    Line,
    Section,
    address,
    agents,
    choice,
    dashboard,
    datasource,
    firing,
    link,
    locations,
    of_row,
    panel_of,
    to_agent,
    to_program,
)
from dashboards.maps import maps
from dashboards.panels import (
    BITS,
    PACKETS_RATE,
    REASONS,
    VERDICT_COLOURS,
    Column,
    Panel,
    Words,
    by_verdict,
    heatmap,
    lines,
    number,
    rows,
    total_columns,
    verdict_column,
    verdict_columns,
)
from dashboards.panels import PACKETS as SHOWN
from dashboards.queries import (
    AGENTS,
    FLOW,
    LOCATION,
    NODE,
    NODE_LEGEND,
    SAME_PROGRAM,
    TARGET,
    TOP,
    VERDICTS,
    busiest,
    described,
    extreme,
    grown,
    here,
    rate,
    series,
    share,
    total,
    unsampled,
    whole,
)

THIS = 'program="$program"'
PACKETS = rate("xdp_packets_total", THIS, *LOCATION)
BYTES = rate("xdp_bytes_total", THIS, *LOCATION)
DROPPED = rate("xdp_packets_total", THIS, *LOCATION, 'verdict="drop"')
FAILED = rate("xdp_packets_total", THIS, *LOCATION, 'verdict=~"aborted|unknown"')
NOTHING = "This program has no counts here. It may not be traced: see its attachments."
NO_FLOWS = "No flow has packets here, or flows are switched off (flows.enabled)."
SHARED = ("datasource", *TARGET, "netns", "interface")
TEN = (
    f"The {TOP} interfaces with most in the time shown; the table Interfaces and verdicts has all."
)


def _numbers() -> list[tuple[int, Panel]]:
    at_places = {
        "title": "By interface, with what it decides there",
        "url": panel_of(PROGRAM, "Interfaces and verdicts", *SHARED, "program"),
    }
    flows = {"title": "In which flows", "url": panel_of(PROGRAM, "Top flows", *SHARED, "program")}
    failed = grown("xdp_packets_total", THIS, *LOCATION, 'verdict=~"aborted|unknown"')
    return [
        (
            5,
            number(
                Words("Packets", "Packets that leave the program.", "it has no counts"),
                total(PACKETS),
                PACKETS_RATE,
                links=[at_places, flows],
            ),
        ),
        (
            5,
            number(
                Words("Traffic", "Bits of these packets, as they leave it.", "it has no counts"),
                f"8 * {total(BYTES)}",
                BITS,
                links=[at_places, flows],
            ),
        ),
        (
            5,
            number(
                Words("Dropped", "Share of its packets that it drops.", "no packets come"),
                share(DROPPED, PACKETS),
                "percentunit",
                colour=VERDICT_COLOURS["drop"],
                links=[at_places, flows],
            ),
        ),
        (
            5,
            number(
                Words(
                    "Aborted or unknown",
                    "Packets in the time shown that are lost to an error: the program failed"
                    " (XDP_ABORTED), or returned what is no verdict. It should be 0.",
                    "it has no counts",
                ),
                whole(total(failed)),
                SHOWN,
                bad_from=1,
                links=[at_places, flows],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Missed",
                    "Packets in the time shown that the kernel did not show to the program's"
                    " tracer, because it was running already. They are in no other number here. It"
                    " should be 0.",
                    "it is not traced",
                ),
                whole(total(here(grown("xdpscope_tracer_missed_total", THIS)))),
                SHOWN,
                bad_from=1,
                links=[
                    {
                        "title": "Of which programs, and when",
                        "url": panel_of(AGENT, "Packets missed", "datasource", *TARGET),
                    }
                ],
            ),
        ),
    ]


def _decisions() -> list[Line]:
    packets = by_verdict(
        lines(
            Words("Packets by verdict", "What the program decides.", NOTHING),
            {"{{verdict}}": total(PACKETS, "verdict")},
            PACKETS_RATE,
            stacked=True,
        )
    )
    bits = by_verdict(
        lines(
            Words("Traffic by verdict", "Bits of these packets, as they leave it.", NOTHING),
            {"{{verdict}}": f"8 * {total(BYTES, 'verdict')}"},
            BITS,
            stacked=True,
        )
    )
    by = (*NODE, "netns", "interface")
    legend = f"{NODE_LEGEND} {{{{netns}}}} {{{{interface}}}}"
    received = total(extreme("increase", "xdp_packets_total", THIS, *LOCATION), *by)
    interfaces = lines(
        Words(
            "Packets by interface",
            f"By the interface that they came by, or, of a program of a devmap, leave by. {TEN}",
            NOTHING,
        ),
        {legend: busiest(total(PACKETS, *by), received, *by)},
        PACKETS_RATE,
    )
    lost = total(extreme("increase", "xdp_packets_total", THIS, *LOCATION, 'verdict="drop"'), *by)
    dropped = lines(
        Words(
            "Dropped by interface",
            "Share of an interface's packets that the program drops: packets dropped, divided by"
            f" packets. {TEN}",
            "No packets come to this program.",
        ),
        {legend: busiest(share(DROPPED, PACKETS, *by), lost, *by)},
        "percentunit",
    )
    return [Line(8, [(12, packets), (12, bits)]), Line(8, [(12, interfaces), (12, dropped)])]


def _matrix() -> Panel:
    by = (*TARGET, "netns", "interface", "program_id")
    verdicts = {
        verdict: total(rate("xdp_packets_total", THIS, *LOCATION, f'verdict="{verdict}"'), *by)
        for verdict in VERDICTS
    }
    only_here = {
        "title": "Only ${__data.fields.interface} of ${__data.fields.node}",
        "url": address(PROGRAM, "datasource", "cluster", "job", "program")
        + of_row(**LOCATION_OF_ROW)
        + "&${__url_time_range}",
    }
    return rows(
        Words(
            "Interfaces and verdicts",
            "What the program decides on each interface, in packets a second. Programs of the same"
            " name have a row for each id. An interface leads to all of this for it alone.",
            NOTHING,
        ),
        {
            "total": total(PACKETS, *by),
            "share": share(DROPPED, PACKETS, *by),
            "bits": f"8 * {total(BYTES, *by)}",
            **verdicts,
        },
        {
            "interface": Column("interface", link=only_here),
            "netns": Column("namespace", width=120),
            "instance": Column("node", width=170, link=to_agent()),
            "cluster": Column("cluster", width=110),
            "program_id": Column("id", width=70),
            **total_columns(),
            **verdict_columns(),
        },
        sort="drop %",
        descending=True,
    )


def _chain() -> Panel:
    """Return a panel on the dispatchers that the program is, or is a component of."""
    components = series("xdp_program_component_info")
    itself = (
        f"label_replace({series('xdp_program_info', THIS)},"
        ' "dispatcher_id", "$1", "program_id", "(.*)")'
    )
    chain = (
        f"{components} and on (cluster, job, instance, dispatcher_id)"
        f" ({series('xdp_program_component_info', THIS)} or {itself})"
    )
    by = (*TARGET, "program_id", "program")

    def in_chain(rates: str) -> str:
        return f"({rates} and {SAME_PROGRAM} ({chain}))"

    packets = in_chain(rate("xdp_packets_total", *LOCATION))
    queries = {
        "place": f"group by ({', '.join((*by, 'dispatcher_id', 'position'))}) {here(f'({chain})')}",
        "total": total(packets, *by),
        "share": share(
            in_chain(rate("xdp_packets_total", *LOCATION, 'verdict="drop"')), packets, *by
        ),
    }
    for verdict in VERDICTS:
        rates = rate("xdp_packets_total", *LOCATION, f'verdict="{verdict}"')
        queries[verdict] = total(in_chain(rates), *by)
    columns = total_columns()
    to_it = to_program("netns", "interface", **NODE_OF_ROW)
    return rows(
        Words(
            "Chain of components",
            "The programs that run one after the other under the same dispatcher, and what each of"
            " them decides, in packets a second. Each sees what those before it let through; a"
            " component that is alone stands in the place of its dispatcher.",
            "This program is in no chain, or the kernel does not tell (before Linux 5.13).",
        ),
        queries,
        {
            "position": Column("place", width=75),
            "program": Column("program", link=to_it),
            "program_id": Column("id", width=80),
            "dispatcher_id": Column("dispatcher", width=110),
            "instance": Column("node", width=170, link=to_agent()),
            "cluster": Column("cluster", width=120),
            **{name: columns[name] for name in ("Value #total", "Value #share")},
            **verdict_columns(),
        },
        sort="place",
    )


def _attachments() -> Panel:
    attached = described(
        described(
            series("xdp_program_attachment_info", THIS, *LOCATION),
            series("xdp_program_info"),
            "role",
            "tag",
        ),
        series("xdp_program_traced"),
        "reason",
    )
    return rows(
        Words(
            "Attachments",
            "Where the program receives packets, and whether what it decides there is counted. A"
            " component is attached where its dispatcher is. A program on a bond (via) receives"
            " packets from the bond's lower devices.",
            "The program is attached nowhere: it runs behind a map, or not at all.",
        ),
        {
            "counted": attached,
            "total": total(PACKETS, *TARGET, "netns", "interface", "program_id", "program"),
        },
        {
            "instance": Column("node", width=200, link=to_agent()),
            "cluster": Column("cluster", width=120),
            "netns": Column("namespace"),
            "interface": Column("interface"),
            "mode": Column("mode", width=90),
            "via": Column("via", width=110),
            "role": Column("role", width=110),
            "program_id": Column("id", width=80),
            "tag": Column("tag", width=170),
            "Value #total": total_columns()["Value #total"],
            "Value #counted": Column("counted", width=90, texts={"0": "no", "1": "yes"}),
            "reason": Column("why not", width=220, texts=REASONS),
        },
        sort="packets",
        descending=True,
    )


def _flows() -> list[Line]:
    named = unsampled(rate("xdp_flow_packets_total", THIS, *LOCATION, 'source!="other"'))
    flows = rows(
        Words(
            "Top flows",
            "The twenty flows with most packets and what the program decides about them, of those"
            " that have series of their own (flows.top). Where flows are sampled, this is scaled"
            " up.",
            NO_FLOWS,
        ),
        {"A": f"topk(20, {total(named, *NODE, 'netns', 'interface', 'verdict', *FLOW)})"},
        {
            "instance": Column("node", width=110, link=to_agent()),
            "cluster": Column("cluster", width=65),
            "netns": Column("namespace", width=88),
            "interface": Column("interface", width=76),
            "protocol": Column("protocol", width=68),
            "source": Column("source"),
            "source_port": Column("port", width=62),
            "destination": Column("destination"),
            "destination_port": Column("to port", width=65),
            "verdict": verdict_column(),
            "Value": Column("packets", width=95, unit=PACKETS_RATE),
        },
        sort="packets",
        descending=True,
    )
    parts = lines(
        Words(
            "In flows and in none",
            "Where the program's packets are accounted, which together is all of them: in flows"
            " that have series of their own, in the flow 'other', or in none, for a reason.",
            NO_FLOWS,
        ),
        {
            "flows of their own": total(
                rate("xdp_flow_packets_total", THIS, *LOCATION, 'source!="other"')
            ),
            "other flows": total(rate("xdp_flow_packets_total", THIS, *LOCATION, 'source="other"')),
            "none: {{reason}}": total(
                rate("xdp_flow_unaccounted_packets_total", THIS, *LOCATION), "reason"
            ),
        },
        PACKETS_RATE,
        stacked=True,
        narrow=True,
    )
    return [Line(10, [(18, flows), (6, parts)])]


def _latency() -> list[Line]:
    times = total(here(rate("xdp_program_run_seconds_bucket", THIS)), "le")
    empty = "No time is measured: switch latency.enabled on."
    cells = heatmap(
        Words(
            "Time in the program",
            "Packets by the time that they spend in the program, with the programs that it calls,"
            " on all interfaces of the nodes chosen. The more a cell stands out from the"
            " background, the more packets it has.",
            empty,
        ),
        times,
        PACKETS_RATE,
    )
    quantiles = lines(
        Words(
            "Median and slowest",
            "The time that half of the packets do not exceed, and that 99 of 100 do not exceed."
            " Estimates from buckets that double in width.",
            empty,
        ),
        {f"p{share}": f"histogram_quantile(0.{share}, {times})" for share in (50, 99)},
        "s",
    )
    return [Line(8, [(12, cells), (12, quantiles)])]


def program() -> model.Dashboard:
    """Return the dashboard."""
    return dashboard(
        PROGRAM,
        "What one XDP program does with its packets, on all nodes that have it.",
        [
            datasource(),
            *agents(),
            choice("program", "Program", "xdp_program_info", *AGENTS),
            *locations(THIS),
        ],
        [link(OVERVIEW, *SHARED), link(AGENT, "datasource", *TARGET)],
        [
            Section(
                "Now", [Line(5, _numbers()), firing(PROGRAM, "Alerts about this program.", THIS)]
            ),
            Section("Decisions", _decisions()),
            Section(
                "Places",
                [
                    Line(6, [(24, _matrix())]),
                    Line(8, [(24, _chain())]),
                    Line(6, [(24, _attachments())]),
                ],
            ),
            Section("Flows", _flows()),
            Section("Latency", _latency()),
            Section("Maps", maps(THIS)),
        ],
        THIS,
    )
