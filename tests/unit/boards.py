# SPDX-License-Identifier: Apache-2.0
"""The dashboards that are checked in, and the metrics that they may ask for."""

import json

from dashboards.files import FOLDER
from dashboards.promql import Metric
from dashboards.rules import Board, Panel, panels
from prometheus_client.process_collector import ProcessCollector

from xdpscope.metrics import (
    AgentCollector,
    IsolatedCollectors,
    ProgramCollector,
    ScanCollector,
)
from xdpscope.probes import REGISTRY
from xdpscope.scans import ScanStatus

BOARDS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
AGENTS = 'cluster=~"$cluster", job=~"$job", instance=~"$instance"'
"""The selectors of every query."""


def panel(boards: dict[str, Board], title: str, board: str = "overview.json") -> Panel:
    [found] = [each for each in panels(boards[board]) if each["title"] == title]
    return found


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
