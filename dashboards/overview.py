# SPDX-License-Identifier: Apache-2.0
"""The fleet: what becomes of packets, on which nodes, by which programs and from whom."""

from grafana_foundation_sdk.models import dashboard as model

from dashboards.boards import (
    AGENT,
    OVERVIEW,
    PROGRAM,
    Line,
    Section,
    address,
    agents,
    agents_that_answer,
    choices,
    dashboard,
    datasource,
    firing,
    link,
    places,
)
from dashboards.maps import maps
from dashboards.panels import (
    VERDICT_COLOURS,
    Column,
    Panel,
    Words,
    bars,
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
    once,
    or_nought,
    rate,
    series,
    share,
    total,
    unsampled,
)
from dashboards.sockets import sockets

PROGRAMS = 'program=~"$program"'
SHARED = ("datasource", *TARGET, "instance", "netns", "interface")
ONCE = "Each packet counts once, with the verdict that the driver is told, however many programs"
NOTHING = "No agent counts packets of an XDP program here."
NO_FLOWS = "No flow has packets here, or flows are switched off (flows.enabled)."


def _packets(*matchers: str) -> str:
    return once("xdp_packets_total", *PLACE, *matchers)


DROPPED = _packets('verdict="drop"')
FAILED = _packets('verdict=~"aborted|unknown"')
NAMED_FLOWS = unsampled(once("xdp_flow_packets_total", *PLACE, 'source!="other"'))


def uncounted() -> str:
    """Programs that decide about packets and are not counted, nor is one in their place."""
    reasons = "no_btf|not_jited|unsupported_entry|kernel_refused|busy"
    refused = series("xdp_program_traced", f'reason=~"{reasons}"')
    components = series("xdp_program_component_info", 'position="0"')
    replaced = f'label_replace({components}, "program_id", "$1", "dispatcher_id", "(.*)")'
    return f"({refused} == 0) unless {SAME_PROGRAM} {replaced}"


def _numbers() -> list[tuple[int, Panel]]:
    return [
        (
            4,
            number(
                Words("Packets", f"{ONCE} it passes through.", "no packets are counted"),
                total(_packets()),
                "pps",
            ),
        ),
        (
            4,
            number(
                Words(
                    "Traffic",
                    "Bits of these packets, as they leave the programs.",
                    "no packets are counted",
                ),
                f"8 * {total(once('xdp_bytes_total', *PLACE))}",
                "bps",
            ),
        ),
        (
            4,
            number(
                Words(
                    "Dropped",
                    "Share of all packets that XDP drops. What is right is for you to know: to drop"
                    " is some programs' job.",
                    "no packets come",
                ),
                share(DROPPED, _packets()),
                "percentunit",
                colour=VERDICT_COLOURS["drop"],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Aborted or unknown",
                    "Packets that are lost to an error: a program failed (XDP_ABORTED), or returned"
                    " what is no verdict. Ought to be nought.",
                    "no agent answers",
                ),
                or_nought(total(FAILED)),
                "pps",
                bad_from=1e-9,
            ),
        ),
        (
            4,
            number(
                Words(
                    "Agents not answering",
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
            4,
            number(
                Words(
                    "Programs not counted",
                    "Programs that may decide about packets and that cannot be traced. The"
                    " dashboard Agent lists them, with the reasons. A dispatcher whose only"
                    " component stands in its place is not among them: the component is counted.",
                    "no agent answers",
                ),
                or_nought(f"count({uncounted()})"),
                "none",
                bad_from=1,
            ),
        ),
    ]


def _traffic() -> list[Line]:
    verdicts = by_verdict(
        lines(
            Words("Packets by verdict", f"{ONCE} it passes through.", NOTHING),
            {"{{verdict}}": total(_packets(), "verdict")},
            "pps",
            stacked=True,
        )
    )
    bits = by_verdict(
        lines(
            Words(
                "Traffic by verdict", "Bits of these packets, as they leave the programs.", NOTHING
            ),
            {"{{verdict}}": f"8 * {total(once('xdp_bytes_total', *PLACE), 'verdict')}"},
            "bps",
            stacked=True,
        )
    )
    nodes = lines(
        Words("Packets by node", f"{ONCE} of the node it passes through.", NOTHING),
        {NODE_LEGEND: total(_packets(), *NODE)},
        "pps",
    )
    ratio = lines(
        Words(
            "Dropped by node",
            "Share of its packets that a node drops in XDP: packets dropped, divided by packets.",
            "No packets come here.",
        ),
        {NODE_LEGEND: share(DROPPED, _packets(), *NODE)},
        "percentunit",
    )
    return [Line(8, [(12, verdicts), (12, bits)]), Line(8, [(12, nodes), (12, ratio)])]


def _programs() -> list[Line]:
    of_program = (*TARGET, "program_id", "program")
    counted = series("xdp_packets_total", *PLACE, PROGRAMS)
    info = series("xdp_program_info", PROGRAMS)
    queries = {
        "role": f"group by ({', '.join((*of_program, 'role'))})"
        f" ({info} and {SAME_PROGRAM} {counted})"
    }
    for verdict in VERDICTS:
        rates = rate("xdp_packets_total", *PLACE, PROGRAMS, f'verdict="{verdict}"')
        queries[verdict] = total(rates, *of_program)
    to_program = {
        "title": "What ${__value.text} does",
        "url": address(PROGRAM, *SHARED) + "&var-program=${__value.raw}&${__url_time_range}",
    }
    programs = rows(
        Words(
            "Programs",
            "What each program decides, in packets a second. A packet that passes through several"
            " is in the row of each, so rows do not add up: a dispatcher and its components see"
            " the same packets. A click on a name leads to the program.",
            NOTHING,
        ),
        queries,
        {
            "program": Column("program", link=to_program),
            "role": Column("role", width=110),
            "program_id": Column("id", width=80),
            "instance": Column("node", width=200),
            "cluster": Column("cluster", width=120),
            **verdict_columns(),
        },
        sort="program",
    )
    attached = rows(
        Words(
            "Attachments",
            "Where each program receives packets, and whether what it decides there is counted. A"
            " component is attached where its dispatcher is. A program on a bond (via) receives"
            " packets from the bond's lower devices.",
            "No XDP program is attached here.",
        ),
        {
            "A": described(
                described(
                    series("xdp_program_attachment_info", *PLACE, PROGRAMS),
                    series("xdp_program_info"),
                    "role",
                    "tag",
                ),
                series("xdp_program_traced"),
                "reason",
            )
        },
        {
            "instance": Column("node", width=200),
            "cluster": Column("cluster", width=120),
            "netns": Column("namespace", width=150),
            "interface": Column("interface", width=150),
            "mode": Column("mode", width=90),
            "via": Column("via", width=110),
            "program": Column("program", link=to_program),
            "role": Column("role", width=110),
            "program_id": Column("id", width=80),
            "tag": Column("tag", width=170),
            "Value": Column("counted", width=90, texts={"0": "no", "1": "yes"}),
            "reason": Column("why not", width=140),
        },
        sort="interface",
    )
    return [Line(12, [(24, programs)]), Line(12, [(24, attached)])]


def _talkers() -> list[Line]:
    sources = bars(
        Words(
            "Top talkers",
            "The ten sources with most packets, of those flows that have series of their own"
            " (flows.top). Where flows are sampled, this is scaled up.",
            NO_FLOWS,
        ),
        f"topk(10, {total(NAMED_FLOWS, 'source')})",
        "{{source}}",
        "pps",
        VERDICT_COLOURS["redirect"],
    )
    flows = rows(
        Words(
            "Top flows",
            "The twenty flows with most packets and what becomes of them, of those that have"
            " series of their own (flows.top). The verdict is the one that the driver is told.",
            NO_FLOWS,
        ),
        {"A": f"topk(20, {total(NAMED_FLOWS, 'verdict', *FLOW)})"},
        {
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
    return [Line(10, [(9, sources), (15, flows)])]


def overview() -> model.Dashboard:
    """The dashboard."""
    return dashboard(
        OVERVIEW,
        "What XDP programs do with packets, on all nodes that xdpscope watches.",
        [
            datasource(),
            *agents(),
            *places(),
            choices(
                "program",
                "Program",
                "xdp_program_info",
                *AGENTS,
            ),
        ],
        [link(PROGRAM, *SHARED), link(AGENT, "datasource", *TARGET)],
        [
            Section(
                "Now",
                [Line(5, _numbers()), firing(OVERVIEW, "Alerts of the nodes that are chosen.")],
            ),
            Section("Traffic", _traffic()),
            Section("Flows", _talkers()),
            Section("Programs", _programs()),
            Section("Maps", maps()),
            Section("AF_XDP sockets", sockets()),
        ],
    )
