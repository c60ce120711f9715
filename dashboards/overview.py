# SPDX-License-Identifier: Apache-2.0
"""Define the dashboard of the fleet: packets by verdict, node, program and source."""

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
    dashboard,
    datasource,
    firing,
    link,
    locations,
    of_row,
    panel_of,
    to_agent,
    to_program,
    unanswered,
)
from dashboards.maps import maps
from dashboards.outcomes import outcomes
from dashboards.panels import (
    BITS,
    PACKETS,
    PACKETS_RATE,
    REASONS,
    VERDICT_COLOURS,
    Column,
    Panel,
    Words,
    bars,
    by_verdict,
    lines,
    number,
    rows,
    total_columns,
    verdict_column,
    verdict_columns,
)
from dashboards.queries import (
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
    here,
    lasting,
    once,
    once_in_range,
    or_zero,
    rate,
    series,
    share,
    total,
    unsampled,
    whole,
)
from dashboards.sockets import sockets

SHARED = ("datasource", *TARGET, "netns", "interface")
ONCE = "Each packet counts once, with the verdict that the driver receives, however many programs"
NOTHING = "No agent counts packets of an XDP program here."
NO_FLOWS = "No flow has packets here, or flows are switched off (flows.enabled)."
TEN = f"The {TOP} nodes with most in the time shown; the table Nodes has all."


def _packets(*matchers: str) -> str:
    return once("xdp_packets_total", *LOCATION, *matchers)


DROPPED = _packets('verdict="drop"')
BITS_ONCE = f"8 * {total(once('xdp_bytes_total', *LOCATION))}"
NAMED_FLOWS = unsampled(once("xdp_flow_packets_total", *LOCATION, 'source!="other"'))


def uncounted() -> str:
    """Return programs that decide about packets, if neither they nor a component were counted."""
    reasons = "no_btf|not_jited|unsupported_entry|kernel_refused|busy"
    refused = lasting("xdp_program_traced", f'reason=~"{reasons}"')
    components = lasting("xdp_program_component_info", 'position="0"')
    # Use one component for each dispatcher, which may have had several in that time.
    of_each = f"group by ({', '.join(TARGET)}, dispatcher_id) ({components})"
    replaced = f'label_replace({of_each}, "program_id", "$1", "dispatcher_id", "(.*)")'
    return here(f"(({refused} == 0) unless {SAME_PROGRAM} {replaced})")


def _numbers() -> list[tuple[int, Panel]]:
    by_program = {
        "title": "By program, with what each drops",
        "url": panel_of(OVERVIEW, "Programs", *SHARED),
    }
    by_node = {"title": "By node", "url": panel_of(OVERVIEW, "Nodes", *SHARED)}
    of_agents = ("datasource", *TARGET)
    failed = once_in_range("xdp_packets_total", *LOCATION, 'verdict=~"aborted|unknown"')
    return [
        (
            4,
            number(
                Words("Packets", f"{ONCE} it passes through.", "no packets are counted"),
                total(_packets()),
                PACKETS_RATE,
                links=[by_node, by_program],
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
                BITS_ONCE,
                BITS,
                links=[by_node, by_program],
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
                links=[by_program, by_node],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Aborted or unknown",
                    "Packets in the time shown that are lost to an error: a program failed"
                    " (XDP_ABORTED), or returned what is no verdict. It should be 0.",
                    "no agent answers",
                ),
                or_zero(whole(total(failed))),
                PACKETS,
                bad_from=1,
                links=[by_program],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Agents not answering",
                    "Agents that Prometheus could not read at some moment of the time shown. Those"
                    " of a job of which none answers are not known here.",
                    "no agent answers",
                ),
                unanswered(),
                "none",
                bad_from=1,
                links=[{"title": "Which", "url": panel_of(AGENT, "Agents and hosts", *of_agents)}],
            ),
        ),
        (
            4,
            number(
                Words(
                    "Programs not counted",
                    "Programs that may decide about packets and that could not be traced at some"
                    " moment of the time shown. A dispatcher whose only component stands in its"
                    " place is not among them: the component is counted.",
                    "no agent answers",
                ),
                or_zero(f"count({uncounted()})"),
                "none",
                bad_from=1,
                links=[
                    {
                        "title": "Which, and why",
                        "url": panel_of(AGENT, "Programs not traced, and why", *of_agents),
                    }
                ],
            ),
        ),
    ]


def _traffic() -> list[Line]:
    verdicts = by_verdict(
        lines(
            Words("Packets by verdict", f"{ONCE} it passes through.", NOTHING),
            {"{{verdict}}": total(_packets(), "verdict")},
            PACKETS_RATE,
            stacked=True,
        )
    )
    bits = by_verdict(
        lines(
            Words(
                "Traffic by verdict", "Bits of these packets, as they leave the programs.", NOTHING
            ),
            {"{{verdict}}": f"8 * {total(once('xdp_bytes_total', *LOCATION), 'verdict')}"},
            BITS,
            stacked=True,
        )
    )
    ranking = total(extreme("increase", "xdp_packets_total", *LOCATION), *NODE)
    nodes = lines(
        Words("Packets by node", f"{ONCE} of the node it passes through. {TEN}", NOTHING),
        {NODE_LEGEND: busiest(total(_packets(), *NODE), ranking, *NODE)},
        PACKETS_RATE,
    )
    dropped = total(extreme("increase", "xdp_packets_total", *LOCATION, 'verdict="drop"'), *NODE)
    ratio = lines(
        Words(
            "Dropped by node",
            "Share of its packets that a node drops in XDP: packets dropped, divided by packets."
            f" {TEN}",
            "No packets come here.",
        ),
        {NODE_LEGEND: busiest(share(DROPPED, _packets(), *NODE), dropped, *NODE)},
        "percentunit",
    )
    return [
        Line(8, [(12, verdicts), (12, bits)]),
        Line(8, [(12, nodes), (12, ratio)]),
        Line(8, [(24, _nodes())]),
    ]


def _nodes() -> Panel:
    verdicts = {
        verdict: total(_packets(f'verdict="{verdict}"'), *TARGET)
        for verdict in ("drop", "aborted", "unknown")
    }
    columns = verdict_columns()
    return rows(
        Words(
            "Nodes",
            f"{ONCE} of the node it passes through. A node leads to its agent, its number of"
            " programs to all of this for that node alone.",
            NOTHING,
        ),
        {
            "total": total(_packets(), *TARGET),
            "share": share(DROPPED, _packets(), *TARGET),
            "bits": f"8 * {total(once('xdp_bytes_total', *LOCATION), *TARGET)}",
            "programs": f"count by ({', '.join(TARGET)}) {here(series('xdp_program_info'))}",
            **verdicts,
        },
        {
            "instance": Column("node", link=to_agent()),
            "cluster": Column("cluster", width=160),
            "Value #programs": Column(
                "programs",
                width=100,
                link={
                    "title": "Only ${__data.fields.node}",
                    "url": address(OVERVIEW, "datasource", "cluster", "job", "netns", "interface")
                    + of_row(**NODE_OF_ROW)
                    + "&${__url_time_range}",
                },
            ),
            **total_columns(),
            **{name: columns[name] for name in columns if name.partition("#")[2] in verdicts},
        },
        sort="drop %",
        descending=True,
    )


def _programs() -> list[Line]:
    of_program = (*TARGET, "program_id", "program", "netns", "interface")
    info = series("xdp_program_info")
    packets = rate("xdp_packets_total", *LOCATION)
    queries = {
        "role": f"{total(packets, *of_program)} * {SAME_PROGRAM} group_left (role) {info}",
        "total": total(packets, *of_program),
        "share": share(
            rate("xdp_packets_total", *LOCATION, 'verdict="drop"'), packets, *of_program
        ),
        "bits": f"8 * {total(rate('xdp_bytes_total', *LOCATION), *of_program)}",
    }
    for verdict in VERDICTS:
        rates = rate("xdp_packets_total", *LOCATION, f'verdict="{verdict}"')
        queries[verdict] = total(rates, *of_program)
    programs = rows(
        Words(
            "Programs",
            "What each program decides at each interface, in packets a second. A packet that passes"
            " through several is in the row of each, so rows do not add up: a dispatcher and its"
            " components see the same packets. A name leads to the program, at node and interface.",
            NOTHING,
        ),
        queries,
        {
            "program": Column("program", link=to_program(**LOCATION_OF_ROW)),
            "instance": Column("node", width=130, link=to_agent()),
            "cluster": Column("cluster", width=80),
            "netns": Column("namespace", width=95),
            "interface": Column("interface", width=80),
            "role": Column("role", width=95),
            "program_id": Column("id", width=55),
            **total_columns(),
            **verdict_columns(),
        },
        sort="drop %",
        descending=True,
    )
    where = described(
        described(
            series("xdp_program_attachment_info", *LOCATION),
            series("xdp_program_info"),
            "role",
            "tag",
        ),
        series("xdp_program_traced"),
        "reason",
    )
    attached = rows(
        Words(
            "Attachments",
            "Where each program receives packets, and whether what it decides there is counted. A"
            " component is attached where its dispatcher is. A program on a bond (via) receives"
            " packets from the bond's lower devices.",
            "No XDP program is attached here.",
        ),
        {"counted": where, "total": total(packets, *of_program)},
        {
            "instance": Column("node", width=180, link=to_agent()),
            "cluster": Column("cluster", width=110),
            "netns": Column("namespace", width=130),
            "interface": Column("interface", width=130),
            "mode": Column("mode", width=80),
            "via": Column("via", width=90),
            "program": Column("program", link=to_program(**LOCATION_OF_ROW)),
            "role": Column("role", width=110),
            "program_id": Column("id", width=80),
            "tag": Column("tag", width=160),
            "Value #total": total_columns()["Value #total"],
            "Value #counted": Column("counted", width=85, texts={"0": "no", "1": "yes"}),
            "reason": Column("why not", width=220, texts=REASONS),
        },
        sort="packets",
        descending=True,
    )
    return [Line(12, [(24, programs)]), Line(10, [(24, attached)])]


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
        PACKETS_RATE,
        VERDICT_COLOURS["redirect"],
    )
    flows = rows(
        Words(
            "Top flows",
            "The twenty flows with most packets and what becomes of them, of those that have"
            " series of their own (flows.top). The verdict is the one that the driver receives.",
            NO_FLOWS,
        ),
        {
            "A": "topk(20, "
            + total(NAMED_FLOWS, *NODE, "netns", "interface", "program", "verdict", *FLOW)
            + ")"
        },
        {
            "instance": Column("node", width=110, link=to_agent()),
            "cluster": Column("cluster", width=65),
            "netns": Column("namespace", width=88),
            "interface": Column("interface", width=76),
            "program": Column("program", link=to_program(**LOCATION_OF_ROW)),
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
    return [Line(10, [(5, sources), (19, flows)])]


def overview() -> model.Dashboard:
    """Return the dashboard."""
    return dashboard(
        OVERVIEW,
        "What XDP programs do with packets, on all nodes that xdpscope watches.",
        [datasource(), *agents(), *locations()],
        [link(PROGRAM, *SHARED), link(AGENT, "datasource", *TARGET)],
        [
            Section(
                "Now",
                [Line(5, _numbers()), firing(OVERVIEW, "Alerts about what is chosen.")],
            ),
            Section("Traffic", _traffic()),
            Section("Flows", _talkers()),
            Section("Programs", _programs()),
            Section("Outcomes", outcomes()),
            Section("Maps", maps()),
            Section("AF_XDP sockets", sockets()),
        ],
    )
