# SPDX-License-Identifier: Apache-2.0
"""Define the variables, links and layout that the dashboards share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog import builder
from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import BAD, DATASOURCE, Column, Panel, Words, rows
from dashboards.queries import (
    AGENT_UP,
    AGENTS,
    LOCATION,
    NEAR,
    RANGE,
    RATE_INTERVAL,
    SAME_PLACE,
    TARGET,
    here,
    lasting,
    series,
)

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
    """A line of panels side by side, with their widths."""

    height: int
    panels: Sequence[tuple[int, Panel]]


@dataclass(frozen=True)
class Section:
    """A heading and the lines below it."""

    title: str
    lines: Sequence[Line]


def datasource() -> build.DatasourceVariable:
    """Return the variable that selects the Prometheus server."""
    return build.DatasourceVariable("datasource").label("Data source").type("prometheus")


def choice(name: str, label: str, metric: str, *matchers: str) -> build.QueryVariable:
    """Return a variable that selects one value of a label, in the time that is shown."""
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
    """Return a variable that selects any number of values of a label. The default is all."""
    return (
        choice(name, label, metric, *matchers)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def agents() -> list[build.QueryVariable]:
    """Return the variables that select agents."""
    return [
        # "All" also includes agents without a cluster, because this label is optional.
        choices("cluster", "Cluster", AGENT_UP).all_value(".*"),
        choices("job", "Job", AGENT_UP, *AGENTS[:1]),
        choices("instance", "Node", AGENT_UP, *AGENTS[:2]),
    ]


def locations(*matchers: str) -> list[build.QueryVariable]:
    """Return the variables that select locations."""
    matchers = (*AGENTS, *matchers)
    return [
        choices("netns", "Network namespace", "xdp_packets_total", *matchers),
        choices("interface", "Interface", "xdp_packets_total", *matchers, 'netns=~"$netns"'),
    ]


def address(board: str, *variables: str) -> str:
    """Return the URL of another dashboard, with the current values of these variables."""
    return f"/d/{board}?" + "&".join(f"${{{variable}:queryparam}}" for variable in variables)


def panel_of(board: str, title: str, *variables: str) -> str:
    """Return the URL of a panel, alone on the page, with the current variables and time.

    ``files`` replaces the panel's title with its id.
    """
    _, _, chosen = address(board, *variables).partition("?")
    return f"/d/{board}?viewPanel=<{title}>&{chosen}&${{__url_time_range}}"


def of_row(**columns: str) -> str:
    """Return URL parameters that set each variable to the row's value in a column."""
    return "".join(
        f"&var-{variable}=${{__data.fields.{column}:percentencode}}"
        for variable, column in columns.items()
    )


NODE_OF_ROW: Final = {"instance": "node"}
LOCATION_OF_ROW: Final = {**NODE_OF_ROW, "netns": "namespace", "interface": "interface"}
"""The table columns that have the values of these variables."""


def to_program(*kept: str, **columns: str) -> dict[str, str]:
    """Return the link of a program's name in a table. It keeps the values of ``kept``."""
    shared = ("datasource", *(name for name in (*TARGET, *kept) if name not in columns))
    return {
        "title": "What ${__value.text} does",
        "url": address(PROGRAM, *shared)
        + "&var-program=${__value.raw:percentencode}"
        + of_row(**columns)
        + "&${__url_time_range}",
    }


def to_program_of_row(*shared: str, **columns: str) -> dict[str, str]:
    """Return the link to a row's program for another cell. The row has a column ``program``."""
    return {
        "title": "What ${__data.fields.program} does here",
        "url": address(PROGRAM, "datasource", *shared)
        + of_row(program="program", **columns)
        + "&${__url_time_range}",
    }


def to_agent() -> dict[str, str]:
    """Return the link of a node's name in a table."""
    return {
        "title": "The agent on ${__value.text}",
        "url": address(AGENT, "datasource", "cluster", "job")
        + "&var-instance=${__value.raw:percentencode}&${__url_time_range}",
    }


def to_overview() -> dict[str, str]:
    """Return the link of a node's name in a table about agents."""
    return {
        "title": "Packets of ${__value.text}",
        "url": address(OVERVIEW, "datasource", "cluster", "job")
        + "&var-instance=${__value.raw:percentencode}&${__url_time_range}",
    }


def link(board: str, *variables: str) -> build.DashboardLink:
    """Return a link to a dashboard for the head of another one, with the time that is shown.

    The link does not use ``includeVars``. That option would pass "All" to dashboards whose
    variables have no "All".
    """
    return (
        build.DashboardLink(TITLES[board].rpartition(" ")[2])
        .type(model.DashboardLinkType.LINK)
        .icon("dashboard")
        .url(address(board, *variables))
        .keep_time(True)
    )


def firing(board: str, about: str, *matchers: str) -> Line:
    """Return a line for ``board`` with the firing alerts, and links to the other dashboards."""
    rule = {"title": "The rule and its runbook", "url": "/alerting/list?search=${__value.raw}"}
    panel = rows(
        Words(
            "Firing alerts",
            f"{about} An alert leads to its rule in Grafana, which has the description and a link"
            " to the runbook. A program and a node lead to their dashboards.",
            "No alert fires here, or Prometheus does not evaluate config/prometheus/alerts.yml.",
        ),
        {"A": everywhere(firing_alerts(board, *matchers))},
        {
            "severity": Column("severity", width=90, colours={"critical": BAD}),
            "alertname": Column("alert", link=rule),
            "program": Column(
                "program", link=None if board == PROGRAM else to_program(**LOCATION_OF_ROW)
            ),
            "netns": Column("namespace", width=130),
            "interface": Column("interface", width=130),
            "instance": Column("node", width=200, link=None if board == AGENT else to_agent()),
            "cluster": Column("cluster", width=120),
        },
        sort="severity",
    )
    return Line(5, [(WIDTH, panel)])


def firing_alerts(board: str, *matchers: str) -> str:
    """Return the query for firing alerts about the current selection on ``board``."""
    near = () if board == AGENT else NEAR
    return series("ALERTS", 'alertname=~"Xdp.+"', 'alertstate="firing"', *near, *matchers)


def alert_events(board: str, *matchers: str) -> str:
    """Return the query for the alert events of a dashboard.

    On the dashboard of one program, an event lasts as long as its alert fires. On the other
    dashboards, an event is only the moment when its alert begins. Grafana shades an event for as
    long as it lasts. With hundreds of programs, this would shade the whole graph.
    """
    alerts = firing_alerts(board, *matchers)
    if board != PROGRAM:
        alerts = f"({alerts} unless {alerts} offset {RATE_INTERVAL})"
    return everywhere(alerts)


def everywhere(alerts: str) -> str:
    """Return the alerts, with "All" as namespace and interface if they have none.

    A link passes "All" as any location.
    """
    for label in ("netns", "interface"):
        alerts = f'label_replace({alerts}, "{label}", "All", "{label}", "")'
    return alerts


def events(board: str, *matchers: str) -> list[builder.Builder[model.AnnotationQuery]]:
    """Return the events for the graphs of ``board``; ``matchers`` select programs."""
    locations = () if board == AGENT else LOCATION
    attached = series("xdp_program_attachment_info", *locations, *matchers)
    all_attached = series("xdp_program_attachment_info", *locations)
    before = f"offset {RATE_INTERVAL}"
    # A starting agent has not seen the attachments yet, so its events do not count.
    last_scan = series("xdpscope_scan_last_success_timestamp_seconds")
    scanned = f"and on (cluster, job, instance) {last_scan} > 0"
    loaded = series("xdp_program_loaded_timestamp_seconds", *matchers)
    started = (
        f"{series('process_start_time_seconds')} and on (cluster, job, instance) {series(AGENT_UP)}"
    )
    at = "{{interface}} ({{netns}}) of {{instance}} {{cluster}}"
    return [
        _event(
            "Alert firing",
            BAD,
            alert_events(board, *matchers),
            "{{alertname}}",
            f"{{{{severity}}}}: {{{{program}}}} {at}",
        ),
        _event(
            "Program loaded",
            "blue",
            f"({loaded if board == AGENT else here(loaded)}) * 1000 > ${{__from}}",
            "{{program}} loaded",
            "id {{program_id}} on {{instance}} {{cluster}}",
            value_is_time=True,
        ),
        _event(
            "Program replaced",
            "purple",
            f"{attached} unless {SAME_PLACE[:-1]}, program_id) ({all_attached} {before})"
            f" and {SAME_PLACE} (({all_attached} {before})"
            f" unless {SAME_PLACE[:-1]}, program_id) {all_attached}) {scanned}",
            "{{program}} replaced another program",
            f"id {{{{program_id}}}} on {at}",
        ),
        _event(
            "Program detached",
            "yellow",
            f"({attached} {before}) unless {SAME_PLACE} {attached} {scanned}",
            "{{program}} detached",
            f"id {{{{program_id}}}} from {at}",
        ),
        _event(
            "Agent restarted",
            "text",
            f"({started}) * 1000 > ${{__from}}",
            "Agent started",
            "on {{instance}} {{cluster}}",
            value_is_time=True,
        ),
    ]


def _event(
    name: str, colour: str, query: str, title: str, text: str, *, value_is_time: bool = False
) -> build.AnnotationQuery:
    target = prometheus.Dataquery().ref_id("Anno").expr(query).datasource(DATASOURCE).range()
    return (
        build.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(colour)
        .target(target)
        .title_format(title)
        .text_format(text)
        .tag_keys("program,interface,instance")
        .use_value_for_time(value_is_time)
    )


def dashboard(
    uid: str,
    about: str,
    variables: Iterable[build.DatasourceVariable | build.QueryVariable],
    links: Iterable[build.DashboardLink],
    sections: Iterable[Section],
    *programs: str,
) -> model.Dashboard:
    """Return a dashboard; ``programs`` are matchers that select the programs of its events."""
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
        .annotations(events(uid, *programs))
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
        # The SDK would put links and events into a menu, where nobody finds them.
        each.placement = None  # type: ignore[assignment]
    for event in (made.annotations and made.annotations.list_val) or []:
        event.placement = None  # type: ignore[assignment]
    return made


def unanswered() -> str:
    """Return a query that counts the agents that did not always answer in the time shown."""
    known = f"on (cluster, job) {lasting(AGENT_UP)}"
    lowest = f"min_over_time({series('up')}[{RANGE}])"
    return f"count(({lowest} and {known}) == 0) or 0 * count({lasting(AGENT_UP)})"
