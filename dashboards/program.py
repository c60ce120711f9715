# SPDX-License-Identifier: Apache-2.0
"""One program: what it decides and where, the chain that it is in, and its flows."""

from grafana_foundation_sdk.models import dashboard as model

from dashboards.boards import (
    AGENT,
    OVERVIEW,
    PROGRAM,
    Line,
    Section,
    agents,
    choice,
    dashboard,
    datasource,
    firing,
    link,
    places,
)
from dashboards.panels import (
    VERDICT_COLOURS,
    Column,
    Panel,
    Words,
    by_verdict,
    lines,
    number,
    rows,
    verdict_columns,
)
from dashboards.queries import (
    AGENTS,
    FLOW,
    NODE,
    NODE_LEGEND,
    PLACE,
    SAME_PROGRAM,
    TARGET,
    VERDICTS,
    described,
    rate,
    series,
    share,
    total,
    unsampled,
)

THIS = 'program="$program"'
PACKETS = rate("xdp_packets_total", THIS, *PLACE)
BYTES = rate("xdp_bytes_total", THIS, *PLACE)
DROPPED = rate("xdp_packets_total", THIS, *PLACE, 'verdict="drop"')
FAILED = rate("xdp_packets_total", THIS, *PLACE, 'verdict=~"aborted|unknown"')
NOTHING = "This program has no counts here. It may not be traced: see its attachments."
NO_FLOWS = "No flow has packets here, or flows are switched off (flows.enabled)."


def _numbers() -> list[tuple[int, Panel]]:
    return [
        (
            5,
            number(
                Words("Packets", "Packets that leave the program.", "it has no counts"),
                total(PACKETS),
                "pps",
            ),
        ),
        (
            5,
            number(
                Words("Traffic", "Bits of these packets, as they leave it.", "it has no counts"),
                f"8 * {total(BYTES)}",
                "bps",
            ),
        ),
        (
            5,
            number(
                Words("Dropped", "Share of its packets that it drops.", "no packets come"),
                share(DROPPED, PACKETS),
                "percentunit",
                colour=VERDICT_COLOURS["drop"],
            ),
        ),
        (
            5,
            number(
                Words(
                    "Aborted or unknown",
                    "Packets that are lost to an error: the program failed (XDP_ABORTED), or"
                    " returned what is no verdict. Ought to be nought.",
                    "it has no counts",
                ),
                total(FAILED),
                "pps",
                bad_from=1e-9,
            ),
        ),
        (
            4,
            number(
                Words(
                    "Missed",
                    "Packets that the kernel did not show to the program's tracer, because it was"
                    " running already. They are in no other number here. Ought to be nought.",
                    "it is not traced",
                ),
                total(rate("xdpscope_tracer_missed_total", THIS)),
                "pps",
                bad_from=1e-9,
            ),
        ),
    ]


def _decisions() -> list[Line]:
    packets = by_verdict(
        lines(
            Words("Packets by verdict", "What the program decides.", NOTHING),
            {"{{verdict}}": total(PACKETS, "verdict")},
            "pps",
            stacked=True,
        )
    )
    bits = by_verdict(
        lines(
            Words("Traffic by verdict", "Bits of these packets, as they leave it.", NOTHING),
            {"{{verdict}}": f"8 * {total(BYTES, 'verdict')}"},
            "bps",
            stacked=True,
        )
    )
    interfaces = lines(
        Words(
            "Packets by interface",
            "By the interface that they came by, or, of a program of a devmap, leave by.",
            NOTHING,
        ),
        {
            f"{NODE_LEGEND} {{{{netns}}}} {{{{interface}}}}": total(
                PACKETS, *NODE, "netns", "interface"
            )
        },
        "pps",
    )
    dropped = lines(
        Words(
            "Dropped by interface",
            "Share of an interface's packets that the program drops: packets dropped, divided by"
            " packets.",
            "No packets come to this program.",
        ),
        {
            f"{NODE_LEGEND} {{{{netns}}}} {{{{interface}}}}": share(
                DROPPED, PACKETS, *NODE, "netns", "interface"
            )
        },
        "percentunit",
    )
    return [Line(8, [(12, packets), (12, bits)]), Line(8, [(12, interfaces), (12, dropped)])]


def _matrix() -> Panel:
    by = (*TARGET, "netns", "interface", "program_id")
    return rows(
        Words(
            "Interfaces and verdicts",
            "What the program decides on each interface, in packets a second. Programs of the same"
            " name have a row for each id.",
            NOTHING,
        ),
        {
            verdict: total(rate("xdp_packets_total", THIS, *PLACE, f'verdict="{verdict}"'), *by)
            for verdict in VERDICTS
        },
        {
            "interface": Column("interface"),
            "netns": Column("namespace"),
            "instance": Column("node"),
            "cluster": Column("cluster", width=120),
            "program_id": Column("id", width=80),
            **verdict_columns(),
        },
        sort="interface",
    )


def _chain() -> Panel:
    """Of the dispatchers that it is, or that it is a component of."""
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
    queries = {
        "place": f"group by ({', '.join((*by, 'dispatcher_id', 'position'))}) ({chain})",
    }
    for verdict in VERDICTS:
        rates = rate("xdp_packets_total", *PLACE, f'verdict="{verdict}"')
        queries[verdict] = f"{total(rates, *by)} and {SAME_PROGRAM} ({chain})"
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
            "program": Column("program"),
            "program_id": Column("id", width=80),
            "dispatcher_id": Column("dispatcher", width=110),
            "instance": Column("node", width=170),
            "cluster": Column("cluster", width=120),
            **verdict_columns(),
        },
        sort="place",
    )


def _attachments() -> Panel:
    attached = described(
        described(
            series("xdp_program_attachment_info", THIS, *PLACE),
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
        {"A": attached},
        {
            "instance": Column("node", width=200),
            "cluster": Column("cluster", width=120),
            "netns": Column("namespace"),
            "interface": Column("interface"),
            "mode": Column("mode", width=90),
            "via": Column("via", width=110),
            "role": Column("role", width=110),
            "program_id": Column("id", width=80),
            "tag": Column("tag", width=170),
            "Value": Column("counted", width=90, texts={"0": "no", "1": "yes"}),
            "reason": Column("why not", width=140),
        },
        sort="interface",
    )


def _flows() -> list[Line]:
    named = unsampled(rate("xdp_flow_packets_total", THIS, *PLACE, 'source!="other"'))
    flows = rows(
        Words(
            "Top flows",
            "The twenty flows with most packets and what the program decides about them, of those"
            " that have series of their own (flows.top). Where flows are sampled, this is scaled"
            " up.",
            NO_FLOWS,
        ),
        {"A": f"topk(20, {total(named, 'interface', 'verdict', *FLOW)})"},
        {
            "interface": Column("interface", width=110),
            "protocol": Column("protocol", width=85),
            "source": Column("source"),
            "source_port": Column("port", width=75),
            "destination": Column("destination"),
            "destination_port": Column("to port", width=85),
            "verdict": Column("verdict", width=95),
            "Value": Column("packets", width=100, unit="pps"),
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
                rate("xdp_flow_packets_total", THIS, *PLACE, 'source!="other"')
            ),
            "other flows": total(rate("xdp_flow_packets_total", THIS, *PLACE, 'source="other"')),
            "none: {{reason}}": total(
                rate("xdp_flow_unaccounted_packets_total", THIS, *PLACE), "reason"
            ),
        },
        "pps",
        stacked=True,
        narrow=True,
    )
    return [Line(10, [(14, flows), (10, parts)])]


def program() -> model.Dashboard:
    """The dashboard."""
    shared = ("datasource", *TARGET, "netns", "interface")
    return dashboard(
        PROGRAM,
        "What one XDP program does with its packets, on all nodes that have it.",
        [
            datasource(),
            *agents(),
            choice("program", "Program", "xdp_program_info", *AGENTS),
            *places(THIS),
        ],
        [link(OVERVIEW, *shared), link(AGENT, "datasource", *TARGET)],
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
        ],
    )
