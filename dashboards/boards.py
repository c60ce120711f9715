# SPDX-License-Identifier: Apache-2.0
"""What the dashboards share beside panels: variables, links, and how they are laid out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import DATASOURCE, Column, Panel, Words, rows
from dashboards.queries import AGENT_UP, AGENTS, series

WIDTH: Final = 24
"""Columns of Grafana's grid."""

OVERVIEW, PROGRAM, AGENT = "xdpscope-overview", "xdpscope-program", "xdpscope-agent"
TITLES: Final = {
    OVERVIEW: "xdpscope / Overview",
    PROGRAM: "xdpscope / Program",
    AGENT: "xdpscope / Agent",
}


@dataclass(frozen=True)
class Line:
    """Panels side by side, with their widths."""

    height: int
    panels: Sequence[tuple[int, Panel]]


@dataclass(frozen=True)
class Section:
    """Lines under a heading."""

    title: str
    lines: Sequence[Line]


def datasource() -> build.DatasourceVariable:
    """Which Prometheus to ask."""
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus")


def choice(name: str, label: str, metric: str, *matchers: str) -> build.QueryVariable:
    """One of the values of a label, in the time that is shown."""
    selector = f"{metric}{{{', '.join(matchers)}}}" if matchers else metric
    query = f"label_values({selector}, {name})"
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .definition(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
    )


def choices(name: str, label: str, metric: str, *matchers: str) -> build.QueryVariable:
    """Any number of them, at first all."""
    return (
        choice(name, label, metric, *matchers)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def agents() -> list[build.QueryVariable]:
    """Which agents."""
    return [
        # "All" is any cluster and none: the label is optional.
        choices("cluster", "Cluster", AGENT_UP).all_value(".*"),
        choices("job", "Job", AGENT_UP, *AGENTS[:1]),
        choices("instance", "Node", AGENT_UP, *AGENTS[:2]),
    ]


def places(*matchers: str) -> list[build.QueryVariable]:
    """Where packets come by."""
    matchers = (*AGENTS, *matchers)
    return [
        choices("netns", "Network namespace", "xdp_packets_total", *matchers),
        choices("interface", "Interface", "xdp_packets_total", *matchers, 'netns=~"$netns"'),
    ]


def address(board: str, *variables: str) -> str:
    """The way to another dashboard, with these variables as they are here."""
    return f"/d/{board}?" + "&".join(f"${{{variable}:queryparam}}" for variable in variables)


def link(board: str, *variables: str) -> build.DashboardLink:
    """The same, for the head of a dashboard, in the time that is shown.

    Not ``includeVars``: a dashboard that has no "All" of a variable would be told of it.
    """
    return (
        build.DashboardLink(TITLES[board].rpartition(" ")[2])
        .type(model.DashboardLinkType.LINK)
        .icon("dashboard")
        .url(address(board, *variables))
        .keep_time(True)
    )


def firing(board: str, about: str, *matchers: str) -> Line:
    """Return a line for ``board`` with the alerts that fire, and links to the other dashboards."""
    shared = ("datasource", "cluster", "job")
    places = () if board == AGENT else ("netns", "interface")
    rule = {"title": "The rule and its runbook", "url": "/alerting/list?search=${__value.raw}"}
    to_program = {
        "title": "What ${__value.text} does",
        "url": address(PROGRAM, *shared, *places)
        + "&var-instance=${__data.fields.node}&var-program=${__value.raw}&${__url_time_range}",
    }
    to_agent = {
        "title": "The agent on ${__value.text}",
        "url": address(AGENT, *shared) + "&var-instance=${__value.raw}&${__url_time_range}",
    }
    panel = rows(
        Words(
            "Firing alerts",
            f"{about} An alert leads to its rule in Grafana, which has the description and a link"
            " to the runbook. A program and a node lead to their dashboards.",
            "No alert fires here, or Prometheus does not evaluate config/prometheus/alerts.yml.",
        ),
        {"A": series("ALERTS", 'alertname=~"Xdp.+"', 'alertstate="firing"', *matchers)},
        {
            "severity": Column("severity", width=90),
            "alertname": Column("alert", link=rule),
            "program": Column("program", link=None if board == PROGRAM else to_program),
            "netns": Column("namespace", width=130),
            "interface": Column("interface", width=130),
            "instance": Column("node", width=200, link=None if board == AGENT else to_agent),
            "cluster": Column("cluster", width=120),
        },
        sort="severity",
    )
    return Line(5, [(WIDTH, panel)])


def dashboard(
    uid: str,
    about: str,
    variables: Iterable[build.DatasourceVariable | build.QueryVariable],
    links: Iterable[build.DashboardLink],
    sections: Iterable[Section],
) -> model.Dashboard:
    """The whole of it."""
    board = (
        build.Dashboard(TITLES[uid])
        .uid(uid)
        .description(about)
        .tags(["xdpscope", "xdp"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("1m")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables(list(variables))
        .links(list(links))
        .annotations([])
    )
    y = number = 0
    for section in sections:
        number += 1
        heading = build.Row(section.title).id(number)
        board.with_row(heading.grid_pos(model.GridPos(h=1, w=WIDTH, x=0, y=y)))
        y += 1
        for line in section.lines:
            x = 0
            for width, panel in line.panels:
                number += 1
                position = model.GridPos(h=line.height, w=width, x=x, y=y)
                board.with_panel(panel.id(number).grid_pos(position))
                x += width
            y += line.height
    made = board.build()
    for each in made.links or []:
        # The SDK would have them in a menu, where nobody looks.
        each.placement = None  # type: ignore[assignment]
    return made


def agents_that_answer() -> str:
    """``up`` of the agents, those that do not answer included.

    A job may be chosen by ``.+``, so what is no agent has to be left out: there it is told by
    the other agents of its job.
    """
    return f"{series('up')} and on (cluster, job) {series(AGENT_UP)}"
