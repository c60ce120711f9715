# SPDX-License-Identifier: Apache-2.0
"""The checker of dashboards notices each of these mistakes."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from dashboards.panels import VERDICT_COLOURS
from dashboards.rules import Board, Panel, findings, panels, variables
from tests.unit.boards import AGENTS, BOARDS, METRICS, panel


def verdicts(boards: dict[str, Board]) -> Panel:
    return panel(boards, "Packets by verdict")


def defaults(boards: dict[str, Board]) -> dict[str, Any]:
    found: dict[str, Any] = verdicts(boards)["fieldConfig"]["defaults"]
    return found


def job(boards: dict[str, Board]) -> dict[str, Any]:
    return variables(boards["overview.json"])["job"]


def ask(query: str, title: str = "Packets by verdict") -> Callable[[dict[str, Board]], None]:
    def change(boards: dict[str, Board]) -> None:
        panel(boards, title)["targets"][0]["expr"] = query

    return change


def replace(old: str, new: str, title: str = "Packets by verdict") -> Callable[[Any], None]:
    def change(boards: dict[str, Board]) -> None:
        target = panel(boards, title)["targets"][0]
        assert old in target["expr"]
        target["expr"] = target["expr"].replace(old, new)

    return change


def drop(of: Callable[[Any], dict[str, Any]], key: str) -> Callable[[Any], None]:
    return lambda boards: of(boards).pop(key)


def put(of: Callable[[Any], dict[str, Any]], **values: Any) -> Callable[[Any], None]:
    return lambda boards: of(boards).update(values)


def board(boards: dict[str, Board]) -> Board:
    return boards["overview.json"]


def first_link(boards: dict[str, Board]) -> dict[str, Any]:
    found: dict[str, Any] = board(boards)["links"][0]
    return found


def first_target(boards: dict[str, Board]) -> dict[str, Any]:
    found: dict[str, Any] = verdicts(boards)["targets"][0]
    return found


def first_override(boards: dict[str, Board]) -> dict[str, Any]:
    found: dict[str, Any] = verdicts(boards)["fieldConfig"]["overrides"][0]
    return found


def dropped(boards: dict[str, Board]) -> Panel:
    return panel(boards, "Dropped")


def programs(boards: dict[str, Board]) -> Panel:
    return panel(boards, "Programs")


PLAIN_SUM = f"sum by (verdict) (rate(xdp_packets_total{{{AGENTS}}}[$__rate_interval]))"
EACH = f"rate(xdp_packets_total{{{AGENTS}}}[$__rate_interval])"
OF_PROGRAM = f"sum by (program) (rate(xdp_packets_total{{{AGENTS}}}[$__rate_interval]))"

MISTAKES: dict[str, tuple[Callable[[dict[str, Board]], Any], str]] = {
    "no uid": (drop(board, "uid"), "no uid of ours"),
    "a uid twice": (put(board, uid="xdpscope-agent"), "is that of 2 dashboards"),
    "an id": (put(board, id=7), "one server's affair"),
    "editable": (put(board, editable=True), "is editable"),
    "no tag": (put(board, tags=[]), "has not the tag"),
    "no title": (put(verdicts, title=""), "has no title"),
    "a title twice": (put(verdicts, title="Dropped"), "2 panels with the title"),
    "a panel's id twice": (put(verdicts, id=2), "2 panels with the id 2"),
    "no description": (drop(verdicts, "description"), "no description"),
    "no word on emptiness": (drop(defaults, "noValue"), "why it may be empty"),
    "no unit": (drop(defaults, "unit"), "has the unit None"),
    "a wrong unit": (put(defaults, unit="bps"), "has the unit bps, not count:pkt/s"),
    "an invented unit": (put(defaults, unit="packets"), "none of ours"),
    "bytes for bits": (replace("8 * ", "", "Traffic by verdict"), "calls them bits"),
    "another data source": (
        put(verdicts, datasource={"type": "prometheus", "uid": "abc"}),
        "does not use the data source",
    ),
    "a query's own data source": (drop(first_target, "datasource"), "does not use the data"),
    "a variable's own data source": (drop(job, "datasource"), "does not use the data source"),
    "no data source variable": (
        lambda boards: board(boards)["templating"]["list"].pop(0),
        "does not begin with a variable for the data source",
    ),
    "no variable job": (put(job, name="jobs"), "no variable job"),
    "one job only": (put(job, multi=False), "no variable job for any number"),
    "All that matches nothing": (put(job, allValue=".*"), "something else than .+"),
    "a variable that goes stale": (put(job, refresh=1), "not refreshed"),
    "a variable that matters nowhere": (
        lambda boards: board(boards)["templating"]["list"].append(
            {"name": "colour", "type": "custom"}
        ),
        "variable colour has no effect",
    ),
    "a variable of a missing label": (
        put(job, query="label_values(xdpscope_build_info, colour)"),
        "does not ask for the values of its label",
    ),
    "a variable that is not there": (replace("$netns", "$ns"), "uses the variable ns"),
    "many as one": (replace('netns=~"$netns"', 'netns="$netns"'), "compares by ="),
    "no job": (replace('job=~"$job", ', ""), 'without job=~"$job"'),
    "no instance in one selector of many": (
        lambda boards: first_target(boards).update(
            expr=first_target(boards)["expr"].replace('instance=~"$instance", role', "role")
        ),
        'xdp_program_info without instance=~"$instance"',
    ),
    "a join of two clusters' nodes": (
        replace("on (cluster, job, instance", "on (job, instance"),
        "agents for one that differ by cluster",
    ),
    "a join of two jobs": (
        replace("on (cluster, job, instance", "on (cluster, instance"),
        "agents for one that differ by job",
    ),
    "All clusters, and not those without a name": (
        lambda boards: variables(board(boards))["cluster"].update(allValue=".+"),
        "something else than .*",
    ),
    "an invented metric": (replace("xdp_packets", "xdp_frames"), "which nobody serves"),
    "an invented label": (replace('netns=~"$netns"', 'node=~"$netns"'), "the label node"),
    "no PromQL": (ask("sum("), "is no PromQL"),
    "a fixed range": (replace("$__rate_interval", "5m"), "another range"),
    "the range of all that is shown": (
        replace("$__rate_interval", "$__range"),
        "at each point of a graph",
    ),
    "a part of the time for what should be 0": (
        lambda boards: panel(boards, "Aborted or unknown")["targets"][0].update(
            expr=f"sum({EACH})"
        ),
        "does not cover the time that is shown",
    ),
    "orange for what should be 0": (
        lambda boards: panel(boards, "Aborted or unknown")["fieldConfig"]["defaults"]["thresholds"][
            "steps"
        ][1].update(color=VERDICT_COLOURS["drop"]),
        "not green at 0 and red otherwise",
    ),
    "a tile without an explanation": (
        lambda boards: dropped(boards)["fieldConfig"]["defaults"].update(links=[]),
        "leads to nothing that explains it",
    ),
    "a tile that leads to no panel": (
        lambda boards: dropped(boards)["fieldConfig"]["defaults"]["links"][0].update(
            url="/d/xdpscope-overview?viewPanel=999"
        ),
        "leads to the panel 999",
    ),
    "a variable without effect on a panel": (replace('netns=~"$netns", ', ""), "filtered by netns"),
    "a variable without effect on maps": (
        lambda boards: panel(boards, "Fullest maps")["targets"][0].update(
            expr=f"topk(10, sum by (map) (xdp_map_entries{{{AGENTS}}})"
            f" / (sum by (map) (xdp_map_max_entries{{{AGENTS}}}) > 0))"
        ),
        "Fullest maps: query A is not filtered by interface",
    ),
    "a closed row": (
        lambda boards: board(boards)["panels"][0].update(collapsed=True),
        "row Now is closed",
    ),
    "a row that is empty by default": (
        lambda boards: [
            each["targets"][0].update(expr="ALERTS")
            for each in panels(board(boards))
            if each["title"] in ("Packets by verdict", "Traffic by verdict", "Packets by node")
            or each["title"] in ("Dropped by node", "Nodes")
        ],
        "row Traffic is empty by default",
    ),
    "columns without filters": (
        lambda boards: programs(boards)["fieldConfig"]["defaults"]["custom"].update(
            filterable=False
        ),
        "cannot be filtered",
    ),
    "a table by name": (
        lambda boards: programs(boards)["options"]["sortBy"][0].update(displayName="program"),
        "neither by a rate nor by the share",
    ),
    "a row that forgets its interface": (
        lambda boards: [
            link.update(url=link["url"].replace("var-interface=", "interface="))
            for override in programs(boards)["fieldConfig"]["overrides"]
            for each in override["properties"]
            if each["id"] == "links"
            for link in each["value"]
        ],
        "does not keep a row's interface",
    ),
    "no events": (
        lambda boards: board(boards)["annotations"]["list"].clear(),
        "does not mark Agent restarted, Alert firing, Program detached",
    ),
    "an event that nobody sees": (
        lambda boards: board(boards)["annotations"]["list"][0].update(enable=False),
        "Alert firing is not on at first",
    ),
    "an event that tells what it does not know": (
        lambda boards: board(boards)["annotations"]["list"][4].update(textFormat="{{program}}"),
        "Agent restarted tells program",
    ),
    "thousandths of packets": (put(defaults, unit="pps"), "none of ours"),
    "another ten nodes at each point": (
        replace(" @ end()", "", "Packets by node"),
        "topk over time",
    ),
    "a counter bare": (
        ask(f"sum by (verdict, program) (xdp_packets_total{{{AGENTS}}})"),
        "without a rate",
    ),
    "the rate of a gauge": (
        ask(f"rate(xdp_flow_table_entries{{{AGENTS}}}[$__rate_interval])"),
        "which is no counter",
    ),
    "irate": (
        ask(PLAIN_SUM.replace("rate(", "irate(").replace("by (verdict)", "by (verdict, program)")),
        "uses irate",
    ),
    "an average": (ask(OF_PROGRAM.replace("sum by", "avg by")), "averages"),
    "a ratio of each series": (
        ask(f"{EACH} / {EACH}", "Dropped"),
        "not been summed up first",
    ),
    "an average of ratios over time": (
        lambda boards: dropped(boards)["options"]["reduceOptions"].update(calcs=["mean"]),
        "average or a sum of ratios",
    ),
    "packets of several programs in one sum": (ask(PLAIN_SUM), "packets in common"),
    "the same, in a ratio": (
        ask(f"{PLAIN_SUM} / ({PLAIN_SUM} > 0)", "Dropped"),
        "packets in common",
    ),
    "nearly each packet once": (replace("root|dispatcher", "root"), "packets in common"),
    "the busiest, over time": (ask(f"topk(5, {OF_PROGRAM})"), "topk over time"),
    "grouped by what is not there": (replace("by (verdict)", "by (colour)"), "groups by colour"),
    "no legend": (drop(first_target, "legendFormat"), "has no legend"),
    "a legend of what is not there": (
        put(first_target, legendFormat="{{verdict}} {{tag}}"),
        "tag in its legend",
    ),
    "series with one name": (put(first_target, legendFormat="packets"), "differ by verdict"),
    "no refId": (put(first_target, refId=""), "without a refId"),
    "a refId twice": (
        lambda boards: verdicts(boards)["targets"].append(first_target(boards)),
        "without a refId of their own",
    ),
    "another colour for a verdict": (
        lambda boards: first_override(boards)["properties"][0]["value"].update(fixedColor="red"),
        "another colour for pass",
    ),
    "a verdict without its colour": (
        lambda boards: verdicts(boards)["fieldConfig"]["overrides"].pop(),
        "verdicts without their colours",
    ),
    "colours left to Grafana": (drop(defaults, "color"), "red from 80 on"),
    "thresholds without a meaning": (
        put(defaults, thresholds={"steps": [{"value": None}, {"value": 80}]}),
        "thresholds without a meaning",
    ),
    "colours by thresholds that are not there": (
        put(defaults, color={"mode": "thresholds"}),
        "coloured by thresholds and has none",
    ),
    "a panel on another": (
        lambda boards: verdicts(boards)["gridPos"].update(x=1),
        "overlap",
    ),
    "a hole": (lambda boards: verdicts(boards)["gridPos"].update(w=11), "holes in its grid"),
    "beyond the edge": (
        lambda boards: verdicts(boards)["gridPos"].update(w=25),
        "outside the grid",
    ),
    "a dashboard that nothing leads to": (
        lambda boards: board(boards)["links"].pop(),
        "does not link to each",
    ),
    "a link into the void": (put(first_link, url="/d/xdpscope-home"), "which is not there"),
    "a link that forgets": (put(first_link, url="/d/xdpscope-program"), "does not carry"),
    "a link that forgets the time": (put(first_link, keepTime=False), "does not keep the time"),
    "a table over time": (
        lambda boards: programs(boards)["targets"][0].update(instant=False, range=True),
        "not for a table",
    ),
    "a table of several tables": (
        lambda boards: programs(boards)["transformations"].pop(0),
        "does not make one row",
    ),
    "a column of what is not there": (
        lambda boards: programs(boards)["transformations"][1]["options"]["include"]["names"].append(
            "colour"
        ),
        "have no name for people",
    ),
    "an override for no column": (
        lambda boards: programs(boards)["fieldConfig"]["overrides"][0]["matcher"].update(
            options="colour"
        ),
        "is no column",
    ),
    "an explanation in a cell": (
        lambda boards: programs(boards)["fieldConfig"]["overrides"].pop(),
        "says in empty cells of unknown",
    ),
    "another kind of panel": (put(verdicts, type="piechart"), "which has no rules yet"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_noticed(mistake: str) -> None:
    make, expected = MISTAKES[mistake]
    boards = copy.deepcopy(BOARDS)
    make(boards)
    found = findings(boards, METRICS)
    assert any(expected in finding for finding in found), found
