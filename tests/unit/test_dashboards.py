# SPDX-License-Identifier: Apache-2.0
"""The dashboards that are checked in, and the checker that watches over them."""

import copy
import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml
from dashboards import promql
from dashboards.files import FOLDER, GRAFANA, generated
from dashboards.panels import BAD, GOOD, PALE, REASONS, VERDICT_COLOURS
from dashboards.pictures.simulate import fleet, series_of
from dashboards.promql import Metric
from dashboards.queries import TARGET, VERDICTS, once, total
from dashboards.rules import Board, Panel, findings, panels, variables
from prometheus_client.process_collector import ProcessCollector
from tests.promtool import PROMTOOL, promtool
from tests.unit.test_sums import documented_sum

from xdpscope.attach.reason import Reason
from xdpscope.metrics import (
    AgentCollector,
    IsolatedCollectors,
    ProgramCollector,
    ScanCollector,
)
from xdpscope.probes import REGISTRY
from xdpscope.program_types import xdp
from xdpscope.scans import ScanStatus

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "dashboards.md"
BOARDS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def served() -> dict[str, Metric]:
    """Return what the agent's page can have, and what Prometheus itself adds to each."""
    collectors = (
        ProgramCollector(list),
        AgentCollector(dict),
        ScanCollector(lambda: ScanStatus(1.0, 1.0, 0, 1.0, None, 5.0)),
        IsolatedCollectors({}),
        ProcessCollector(registry=None),
        *(make() for make in REGISTRY),
    )
    own = ("up", "scrape_duration_seconds", "scrape_samples_scraped")
    found = dict.fromkeys(own, Metric(counter=False, labels=frozenset()))
    of_alerts = ("alertname", "alertstate", "severity", "program", "netns", "interface")
    found["ALERTS"] = Metric(counter=False, labels=frozenset(of_alerts))
    for collector in collectors:
        for family in collector.collect():
            counter = family.type == "counter"
            labels = frozenset(getattr(family, "_labelnames", ()))
            found[family.name + "_total" * counter] = Metric(counter, labels)
            if family.type == "histogram":
                found[family.name + "_bucket"] = Metric(counter=True, labels=labels | {"le"})
    program = Metric(counter=False, labels=frozenset(("program_id", "program")))
    found.setdefault("xdp_program_loaded_timestamp_seconds", program)
    return found


METRICS = served()


def test_what_is_checked_in_is_what_is_generated() -> None:
    there = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert there == generated(), "python -m dashboards writes it again"


def test_nothing_is_wrong() -> None:
    assert findings(BOARDS, METRICS) == []


def test_pictures_show_what_the_agent_serves() -> None:
    """Their data is simulated: with the agent's metrics and labels, and nodes of several kinds."""
    nodes = fleet()
    assert len({node.kernel for node in nodes}) > 1 and len({node.cluster for node in nodes}) > 1
    for node in nodes:
        for series in series_of(node):
            known = METRICS[series.name]
            assert set(series.labels) == known.labels | set(TARGET), series.name
            values = [value for _, value in series.values]
            if known.counter and not (node.restart and series.name.startswith("process_")):
                assert values == sorted(values), series.name


def test_each_packet_counts_once() -> None:
    """By the expression of docs/prometheus.md, which is tested with it."""
    ours = total(once("xdp_packets_total"), "netns", "interface", "verdict")
    ours = ours.replace(f"{AGENTS}, ", "").replace(f"{{{AGENTS}}}", "")
    ours = ours.replace("[$__rate_interval]", "[1m]")
    assert promql.parse(ours).prettify() == promql.parse(documented_sum()).prettify()


def test_verdicts_are_those_of_the_agent() -> None:
    assert set(VERDICTS) == set(xdp.VERDICTS) == set(VERDICT_COLOURS)


# Machado, Oliveira and Fernandes (2009), severity 1.0; for linear RGB.
COLOUR_VISION = {
    "full": numpy.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen(colour: str, vision: str) -> Any:
    """Return where a colour is in CIE L*a*b* (D65) for someone."""
    srgb = numpy.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = numpy.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = numpy.clip(numpy.array(COLOUR_VISION[vision]) @ linear, 0, 1)
    to_xyz = numpy.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ linear / (0.95047, 1.0, 1.08883)
    f = numpy.where(xyz > 0.008856, numpy.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return numpy.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_verdicts_can_be_told_apart(vision: str) -> None:
    for one, other in combinations(VERDICT_COLOURS, 2):
        apart = seen(VERDICT_COLOURS[one], vision) - seen(VERDICT_COLOURS[other], vision)
        assert numpy.linalg.norm(apart) > 15, f"{one} and {other}"


def test_a_problem_has_the_colour_of_no_verdict() -> None:
    for verdict, colour in VERDICT_COLOURS.items():
        for vision in COLOUR_VISION:
            apart = numpy.linalg.norm(seen(BAD, vision) - seen(colour, vision))
            assert apart > (30 if vision == "full" else 10), f"{verdict}, {vision}"


# What is behind text and lines: panels and pages of Grafana's two themes, and the agent's page.
BACKGROUNDS = ("#ffffff", "#f4f5f5", "#f6f7f9", "#181b1f", "#111217", "#171b21", "#0f1216")


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    srgb = numpy.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = numpy.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_colours_are_legible(background: str) -> None:
    """A contrast of 3:1, which WCAG 2.2 wants of graphics and of large text."""
    for name, colour in {**VERDICT_COLOURS, "problem": BAD, "good": GOOD, "0": PALE}.items():
        dark, light = sorted((luminance(colour), luminance(background)))
        assert (light + 0.05) / (dark + 0.05) >= 3, name


def test_the_page_of_the_agent_has_the_same_colours() -> None:
    css = (ROOT / "agent" / "xdpscope" / "web" / "page.css").read_text()
    found = {name: colour.upper() for name, colour in re.findall(r"--(\w+): (#\w{6})", css)}
    assert VERDICT_COLOURS.items() <= found.items()


def test_reasons_are_those_of_the_agent() -> None:
    assert set(REASONS) == {str(reason) for reason in Reason}


def test_only_dashboards_are_provisioned() -> None:
    """Grafana takes each JSON file of the directory, and of those below it, for a dashboard."""
    assert {path.name for path in FOLDER.rglob("*")} == set(generated())
    provider = yaml.safe_load((FOLDER.parent / "provider.yaml").read_text())
    [one] = provider["providers"]
    assert (provider["apiVersion"], one["type"]) == (1, "file")
    assert (one["folder"], Path(one["options"]["path"]).name) == ("xdpscope", "dashboards")


def test_grafana_knows_its_minimum() -> None:
    for name, board in BOARDS.items():
        [needed] = [each for each in board["__requires"] if each["type"] == "grafana"]
        assert needed["version"] == GRAFANA, name
    assert f"Grafana {GRAFANA.rpartition('.')[0]} or newer" in DOCS.read_text()


EVERY = {"cluster": ".*"}


def asked(query: str, **chosen: str) -> str:
    """Return a query as Grafana asks it for the last hour; of what is not chosen, all."""
    query = query.replace("$__rate_interval", "5m").replace("$__range", "1h")
    return re.sub(
        r'(=~?)"\$(\w+)(\|?)"',
        lambda at: at[1] + json.dumps(chosen.get(at[2], EVERY.get(at[2], ".+")) + at[3]),
        query.replace("${__from}", "0"),
    )


def promql_case(series: dict[str, str], answers: dict[str, list[float]]) -> dict[str, Any]:
    """Return a case of promtool: what queries answer two hours after the first sample."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "2h",
                "exp_samples": [{"labels": "{}", "value": value} for value in values],
            }
            for query, values in answers.items()
        ],
    }


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: make setup fetches it")
def test_queries_answer_what_they_are_for(tmp_path: Path) -> None:
    def of(node: int, program: int, more: str = "") -> str:
        return f'{{job="xdpscope",instance="n{node}",program_id="{program}",program="p"{more}}}'

    def query(title: str, board: str = "overview.json", **chosen: str) -> str:
        return asked(panel(BOARDS, title, board)["targets"][0]["expr"], **chosen)

    def event(name: str) -> str:
        found = {each["name"]: each for each in BOARDS["overview.json"]["annotations"]["list"]}
        return f"count({asked(found[name]['target']['expr'])})"

    at = ',netns="host",interface="eth0"'
    # A burst of 400 half an hour ago, of a program that is gone since; another one of 70 at eth1.
    aborted = f'{at},verdict="aborted"'
    burst = promql_case(
        {
            'xdpscope_build_info{job="xdpscope",instance="n1"}': "1x130",
            f"xdp_packets_total{of(1, 7, aborted)}": "0x89 400x10 stale",
            "xdp_program_info" + of(1, 7, ',role="root"'): "1x100 stale",
            f"xdp_packets_total{of(1, 8, aborted.replace('eth0', 'eth1'))}": "0x89 70x40",
            "xdp_program_info" + of(1, 8, ',role="root"'): "1x130",
        },
        {
            query("Aborted or unknown", interface="eth1"): [70],
            f"{query('Aborted or unknown')} > 470": [475],
        },
    )
    many = promql_case(
        {
            f"{metric}{of(node, 7, labels)}": values.replace("N", str(node))
            for node in range(200)
            for metric, labels, values in (
                ("xdp_packets_total", f'{at},verdict="drop"', "0+Nx130"),
                ("xdp_program_info", ',role="root"', "1x130"),
            )
        },
        {
            f"count({query('Packets by node')})": [10],
            f"count({query('Dropped by node')})": [10],
            f"count({query('Nodes')})": [200],
        },
    )
    # Two components one after the other in the place of the same dispatcher, which is no fault.
    first = ',dispatcher_id="9",position="0"'
    replaced = promql_case(
        {
            'xdpscope_build_info{job="xdpscope",instance="n1"}': "1x130",
            'xdpscope_scan_last_success_timestamp_seconds{job="xdpscope",instance="n1"}': "1x130",
            "xdp_program_traced" + of(1, 9, ',reason="busy"'): "0x130",
            "xdp_program_component_info" + of(1, 7, first): "1x80 stale",
            "xdp_program_component_info" + of(1, 8, first): "_x80 1x50",
            "xdp_program_traced" + of(1, 5, ',reason="no_btf"'): "0x80 stale",
            f"xdp_program_attachment_info{of(1, 7, at)}": "1x117 stale",
            f"xdp_program_attachment_info{of(1, 8, at)}": "_x117 1x20",
            f"xdp_program_attachment_info{of(2, 7, at)}": "1x117 stale",
            'xdpscope_scan_last_success_timestamp_seconds{job="xdpscope",instance="n2"}': "1x130",
            'process_start_time_seconds{job="xdpscope",instance="n1"}': "7000x130",
        },
        {
            query("Programs not counted"): [1],
            event("Program replaced"): [1],
            event("Program detached"): [1],
            event("Agent restarted"): [1],
        },
    )
    (tmp_path / "rules.yml").write_text("groups: []\n")
    cases = {"rule_files": ["rules.yml"], "tests": [burst, many, replaced]}
    (tmp_path / "cases.yml").write_text(json.dumps(cases))
    promtool("test", "rules", tmp_path / "cases.yml")


# The checker: each of these has to be noticed.


def panel(boards: dict[str, Board], title: str, board: str = "overview.json") -> Panel:
    [found] = [each for each in panels(boards[board]) if each["title"] == title]
    return found


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


AGENTS = 'cluster=~"$cluster", job=~"$job", instance=~"$instance"'
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
