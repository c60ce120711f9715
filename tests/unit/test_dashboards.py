# SPDX-License-Identifier: Apache-2.0
"""The dashboards that are checked in: what they show, and in which colours."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml
from dashboards import promql
from dashboards.files import FOLDER, GRAFANA, generated
from dashboards.panels import BAD, GOOD, PALE, REASONS, VERDICT_COLOURS
from dashboards.pictures.fleet import fleet
from dashboards.pictures.series import series_of
from dashboards.queries import TARGET, VERDICTS, once, total
from dashboards.rules import findings
from tests.promtool import PROMTOOL, promtool
from tests.unit.boards import AGENTS, BOARDS, METRICS, panel
from tests.unit.test_sums import documented_sum

from xdpscope.attach.reason import Reason
from xdpscope.program_types import xdp

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "dashboards.md"


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
