# SPDX-License-Identifier: Apache-2.0
"""config/prometheus: rules and alerts as Prometheus itself judges them, and what they refer to."""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs.generate import exposed_name, families
from tests.kernel.alert_causes import CAUSED, ELSEWHERE
from tests.promtool import PROMTOOL, promtool
from tests.tools.fast_rules import divided, faster

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config" / "prometheus"
CASES = sorted((ROOT / "tests" / "prometheus").glob("*.yml"))
RUNBOOK = ROOT / "docs" / "runbook.md"

needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: make setup fetches it"
)


def rules(*files: str) -> list[dict[str, Any]]:
    """Return the rules of these files, of all if none is named."""
    paths = [CONFIG / file for file in files or ("recording.yml", "alerts.yml")]
    return [
        rule
        for path in paths
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml") if "alert" in rule}
THRESHOLDS = {rule["record"]: rule for rule in rules("alerts.yml") if "record" in rule}


def queries(page: Path) -> list[str]:
    """Return the expressions on a page, which are marked as such."""
    return re.findall(r"^ *```promql\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)


def metrics_in(expression: str) -> set[str]:
    """Return the metrics, recorded ones too, that an expression names."""
    bare = re.sub(r'"[^"]*"|\[[^]]*\]', "", expression)
    return {
        name
        for name in re.findall(r"[a-zA-Z_:][\w:]*", bare)
        if name == "up" or name.startswith("xdp") or ":" in name
    }


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, which have no two alike."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@needs_promtool
def test_promtool_accepts_the_configuration() -> None:
    """And with it the rules, which it names."""
    said = promtool("check", "config", CONFIG / "prometheus.yml")
    assert "2 rule files found" in said
    promtool("check", "rules", "--lint=all", "--lint-fatal", *CONFIG.glob("[ra]*.yml"))


@needs_promtool
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_quiet(cases: Path) -> None:
    promtool("test", "rules", cases)


def test_every_alert_has_cases_in_which_it_fires_ends_and_stays_quiet() -> None:
    """Quiet in another case: quiet at first and firing later proves only that it waits."""
    fires, quiet, ends = defaultdict(set), defaultdict(set), set()
    for path in CASES:
        for number, case in enumerate(yaml.safe_load(path.read_text())["tests"]):
            for expected in case["alert_rule_test"]:
                alert = expected["alertname"]
                if expected.get("exp_alerts"):
                    fires[alert].add((path, number))
                    continue
                quiet[alert].add((path, number))
                if (path, number) in fires[alert]:
                    ends.add(alert)
    assert fires.keys() >= ALERTS.keys()
    for alert in ALERTS:
        assert fires[alert], f"{alert} fires in no case"
        assert quiet[alert] - fires[alert], f"{alert} is nowhere tried in vain"
        assert alert in ends, f"{alert} ends in no case"


def test_every_alert_has_a_real_cause_or_a_reason_why_not() -> None:
    """See tests/kernel/test_alerts.py."""
    assert not CAUSED.keys() & ELSEWHERE.keys()
    assert CAUSED.keys() | ELSEWHERE.keys() == ALERTS.keys()


def durations(rule: dict[str, Any]) -> list[str]:
    """Return all durations of a rule."""
    windows = re.findall(r"\[(\w+)(?::(\w+))?\]|offset (\w+)", rule["expr"])
    return [each for found in windows for each in found if each] + [rule.get("for", "0s")]


@needs_promtool
@pytest.mark.parametrize("file", ["recording.yml", "alerts.yml"])
def test_rules_for_a_faster_clock_differ_in_durations_only(file: str) -> None:
    text = faster((CONFIG / file).read_text(), 30)
    promtool("check", "rules", "/dev/stdin", text=text)
    fast = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    assert len(fast) == len(rules(file))
    for quick, usual in zip(fast, rules(file), strict=True):
        assert durations(quick) == [divided(each, 30) for each in durations(usual)]
        assert quick.keys() == usual.keys()
        bare = [re.sub(r"\[.*?\]|offset \w+", "", rule["expr"]) for rule in (quick, usual)]
        assert bare[0] == bare[1]


def severities(rule: dict[str, Any]) -> list[str]:
    """Those that the rule has of its own, or that it takes from thresholds."""
    taken = [
        THRESHOLDS[name].get("labels", {}) for name in metrics_in(rule["expr"]) & {*THRESHOLDS}
    ]
    return [each["severity"] for each in (rule.get("labels", {}), *taken) if each]


def test_thresholds_are_used_and_say_what_for() -> None:
    text = (CONFIG / "alerts.yml").read_text()
    for name in THRESHOLDS:
        assert re.fullmatch(r"xdpscope:threshold:[a-z_]+", name)
        users = [alert for alert, rule in ALERTS.items() if name in metrics_in(rule["expr"])]
        assert users, f"{name} has no effect"
        [comment] = re.findall(rf"((?: +#.*\n)+) +- record: {name}\n", text)
        assert set(users) == set(re.findall(r"Xdp\w+", comment))


@pytest.mark.parametrize("alert", ["XdpDropRatioJumped", "XdpDropsFromStart", "XdpPacketsAborted"])
def test_lost_packets_are_critical(alert: str) -> None:
    assert severities(ALERTS[alert]) == ["critical"]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_joins_are_of_one_target(rule: dict[str, Any]) -> None:
    """Else two clusters with a node of the same name would be taken for one."""
    joins = re.findall(r"\b(?:on|by) \(([^)]*)\)", rule["expr"])
    for labels in joins:
        assert not labels or labels.startswith("cluster, job, instance"), labels


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_there_is_to_say(alert: str) -> None:
    rule = ALERTS[alert]
    assert re.fullmatch(r"Xdp(?:scope)?(?:[A-Z][a-z]+)+", alert)
    [severity] = severities(rule)
    assert severity in ("critical", "warning", "info")
    assert rule["for"]
    notes = rule["annotations"]
    assert notes.keys() == {"summary", "description", "runbook_url", "dashboard_url"}
    assert "The alert ends " in notes["description"]
    assert "{{" not in notes["summary"], "one summary for all, so that they can be grouped"
    if not rule["expr"].startswith("absent("):
        assert "$labels.instance" in notes["description"]
    for number in re.findall(r"{{ \$value[^}]*}}", notes["description"]):
        assert "| humanize" in number


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_has_a_section(alert: str) -> None:
    url = ALERTS[alert]["annotations"]["runbook_url"]
    address, _, anchor = url.partition("#")
    assert address.startswith("http://") and "/?runbook" in address
    assert anchor == alert.lower()
    assert anchor in anchors(RUNBOOK)
    section = RUNBOOK.read_text().partition(f"\n## {alert}\n")[2].partition("\n## ")[0]
    for part in ("What it means.", "What to check.", "What to do."):
        assert section.count(f"**{part}**") == 1


def test_each_address_is_set_once(tmp_path: Path) -> None:
    """By the commands that the file itself and docs/prometheus.md have."""
    text = (CONFIG / "alerts.yml").read_text()
    commands = re.findall(r"^# +(sed -i '.*' alerts\.yml)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert f"`{command}`" in (ROOT / "docs" / "prometheus.md").read_text()
        (tmp_path / "alerts.yml").write_text(text)
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)
        text = (tmp_path / "alerts.yml").read_text()
    changed = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    notes = {rule["alert"]: rule["annotations"] for rule in changed if "alert" in rule}
    assert notes.keys() == ALERTS.keys()
    for alert, note in notes.items():
        assert note["runbook_url"] == f"https://docs.example.net/runbook/#{alert.lower()}"
        link = ALERTS[alert]["annotations"]["dashboard_url"].removeprefix("http://localhost:3000")
        assert note["dashboard_url"] == f"https://grafana.example.net{link}"
        assert link.startswith(
            ("/d/xdpscope-program?", "/d/xdpscope-agent", "/d/xdpscope-overview?")
        )


def test_the_runbook_has_no_other_section() -> None:
    assert set(re.findall(r"^## (.*)$", RUNBOOK.read_text(), re.MULTILINE)) == ALERTS.keys()


def test_every_metric_exists() -> None:
    served = {exposed_name(family) for family in families()}
    recorded = {rule["record"] for rule in rules("recording.yml")}
    known = served | recorded | {*THRESHOLDS} | {"up"}
    expressions = [rule["expr"] for rule in rules()]
    expressions += [query for page in (ROOT / "docs").glob("*.md") for query in queries(page)]
    assert len(expressions) > len(rules())
    for expression in expressions:
        assert metrics_in(expression) <= known, expression
    # By these endings the text tells a metric from a function or a structure.
    metric = re.compile(r"\bxdp(?:scope)?_\w+_(?:total|info|seconds|entries|traced)\b(?!:)")
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        assert set(metric.findall(page.read_text())) <= known | {"xdp_rxq_info"}, page


def test_recording_rules_are_named_by_the_convention() -> None:
    for rule in rules("recording.yml"):
        level, metric, operations = rule["record"].split(":")
        assert set(level.split("_")) <= {"program", "interface", "verdict", "component", "via"}
        assert metric.startswith("xdp_") and operations


@needs_promtool
def test_queries_in_the_documentation_are_queries() -> None:
    found = [query for page in (ROOT / "docs").glob("*.md") for query in queries(page)]
    group = {"name": "docs", "rules": [{"record": f"q{i}", "expr": q} for i, q in enumerate(found)]}
    # JSON is YAML.
    promtool("check", "rules", "/dev/stdin", text=json.dumps({"groups": [group]}))
