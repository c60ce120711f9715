# SPDX-License-Identifier: Apache-2.0
"""Every query of every panel, asked of a real Prometheus that reads the real agent."""

import json
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.lab import Lab, Veth, addressed, frame
from tests.kernel.prometheus import PROMETHEUS, Prometheus, scraping
from tests.kernel.test_lifecycle import extension_of, link_targets  # noqa: F401 - a fixture
from tests.kernel.test_xdp_tools import udp
from tests.waiting import wait_for

DASHBOARDS = Path(__file__).parents[2] / "dashboards" / "grafana" / "dashboards"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}

ZERO = {
    "Aborted or unknown",
    "Missed",
    "Agents not answering",
    "Not answering",
    "Collectors failing",
    "Packets missed",
    "Failed attempts to trace",
    "Flows evicted",
    "Scans failed",
    "Failed scans",
    "Failed redirects",
    "Exceptions",
    "Dropped after the verdict",
    "Programs not traced, and why",
    "Budget",
}
"""Panels in which nothing but 0 is no failure: they show what should not happen, or need not."""

EMPTY = {
    "Firing alerts",
    "Collectors that failed",
    "Failed redirects",
    "Exceptions",
    "Dropped after the verdict",
    "Outcomes that are not reported",
    "Drops of AF_XDP sockets",
    "AF_XDP sockets",
}
"""Panels without rows here: this Prometheus has no rules, nothing need go wrong, and no AF_XDP
socket is open.
"""

MAPS = {"Fullest maps", "Memory of maps", "Maps"}
"""Panels without rows for a program that uses no map."""

STEP = 30
"""Seconds from one point of a graph to the next."""

PATIENCE = 240
"""Seconds for a busy emulator to have had enough scrapes in time."""

# With a budget, the agent measures what it costs every two seconds, however slow this machine is.
MEASURING = f"{QUICK}latency: {{enabled: true}}\nbudget: {{cpu_percent: 100}}\n"

pytestmark = [
    pytest.mark.one_kernel,
    pytest.mark.matrix,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is missing: make setup fetches it"),
    pytest.mark.timeout(900),
]


def substituted(text: str, chosen: Mapping[str, str]) -> str:
    """What Grafana asks: of what is not chosen, all; a point a step."""
    text = text.replace("$__rate_interval", f"{STEP + 1}s").replace("$__range", f"{2 * STEP}s")
    return re.sub(
        r"(=~?)\"\$(\w+)(\|?)\"",
        lambda match: match[1] + json.dumps(escaped(chosen, match[2], match[1]) + match[3]),
        text.replace("${__from}", "0"),
    )


def escaped(chosen: Mapping[str, str], name: str, operator: str) -> str:
    if name not in chosen:
        return ".*" if name == "cluster" else ".+"
    return re.escape(chosen[name]) if operator == "=~" else chosen[name]


def points(
    prometheus: Prometheus, target: dict[str, Any], chosen: Mapping[str, str]
) -> list[float]:
    """Return all numbers that a query has for a panel."""
    query, now = substituted(target["expr"], chosen), time.time()
    if target["instant"]:
        found = prometheus.ask("query", query=query, time=str(now))["result"]
        return [float(series["value"][1]) for series in found]
    times = {"start": str(now - 2 * STEP), "end": str(now), "step": str(STEP)}
    found = prometheus.ask("query_range", query=query, **times)["result"]
    return [float(value) for series in found for _, value in series["values"]]


def disappointing(
    prometheus: Prometheus,
    board: str,
    chosen: Mapping[str, str],
    empty: frozenset[str] = frozenset(),
) -> list[tuple[str, str, list[float]]]:
    """Return the queries of a dashboard that show nothing: panel, refId and what there is.

    It asks again for the panels that do: a scrape that came too late leaves nothing, until the
    next.
    """
    panels = BOARDS[board]["panels"]
    end = time.monotonic() + PATIENCE
    while True:
        found = [(panel, _disappointing(prometheus, panel, chosen, empty)) for panel in panels]
        panels = [panel for panel, wrong in found if wrong]
        if not panels or time.monotonic() > end:
            return [(panel["title"], *each) for panel, wrong in found for each in wrong]
        time.sleep(1)


def _disappointing(
    prometheus: Prometheus, panel: dict[str, Any], chosen: Mapping[str, str], empty: frozenset[str]
) -> list[tuple[str, list[float]]]:
    shown: list[float] = []
    wrong = []
    for target in panel.get("targets", ()):
        found = points(prometheus, target, chosen)
        shown += found
        missing = not found and panel["title"] not in EMPTY | empty
        if missing or not all(map(math.isfinite, found)):
            wrong.append((target["refId"], found))
    if shown and not any(shown) and panel["title"] not in ZERO:
        wrong.append(("all", shown))
    return wrong


def events(prometheus: Prometheus, board: str, chosen: Mapping[str, str]) -> set[str]:
    """What is marked in the graphs."""
    return {
        event["name"]
        for event in BOARDS[board]["annotations"]["list"]
        if any(points(prometheus, event["target"], chosen))
    }


def offered(prometheus: Prometheus, board: str, chosen: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what can be chosen."""
    found = {}
    for variable in BOARDS[board]["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert match
            found[variable["name"]] = prometheus.ask(
                f"label/{match[2]}/values", **{"match[]": substituted(match[1], chosen)}
            )
    return found


@contextmanager
def programs_at_work(lab: Lab) -> Iterator[dict[str, Veth]]:
    """Yield a root, a chain, a program behind a map, one that cannot be traced and one that is
    idle.
    """
    veths = {name: lab.veth(name) for name in ("xst0", "xst1", "xst2", "xst3")}
    lab.attach(lab.load("decide_by_source_mac", "flows"), veths["xst0"])
    lab.attach(lab.load("decide_drop", "verdicts", "-g0"), veths["xst3"])
    behind = lab.load_together("maps", "to_device", "where_it_leaves")
    lab.attach(behind["to_device"], veths["xst2"])
    behind.put("devices", 0, lab.index("xst0p"), behind["where_it_leaves"])
    lab.load_together("map_kinds", "use_one").put("grown", 1, 0, 0)
    calling = lab.load("xdp_dispatcher", "chain")
    with extension_of(calling, "prog3") as extension, extension.attached():
        lab.attach(calling, veths["xst1"])
        yield veths


@contextmanager
def statistics() -> Iterator[None]:
    """Have the kernel count each run of a program: packets that come in bursts miss the windows."""
    sysctl = Path("/proc/sys/kernel/bpf_stats_enabled")
    sysctl.write_text("1")
    try:
        yield
    finally:
        sysctl.write_text("0")


@contextmanager
def sending(veths: Mapping[str, Veth]) -> Iterator[None]:
    """Packets of flows and of none, to each program, all the time."""
    end = threading.Event()

    def send() -> None:
        while not end.wait(0.5):
            for verdict in range(4):
                veths["xst0"].send(addressed(udp(5000 + verdict, 100), what=verdict), times=5)
            veths["xst0"].send(addressed(frame(60), what=2), times=2)
            veths["xst1"].send(udp(53, 100), frame(60), times=5)
            veths["xst2"].send(addressed(udp(53, 100), what=1), times=5)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@pytest.mark.usefixtures("link_targets")
def test_every_panel_has_something_to_show(lab: Lab, tmp_path: Path) -> None:
    with ExitStack() as stack:
        veths = stack.enter_context(programs_at_work(lab))
        stack.enter_context(statistics())
        agent = stack.enter_context(AgentProcess(MEASURING))
        agent.ready()
        wait_for(lambda: traced(agent, "drop_instead") and traced(agent, "to_device"))
        prometheus = stack.enter_context(scraping(agent, tmp_path, seconds=8))
        stack.enter_context(sending(veths))
        time.sleep(STEP)

        for board in ("overview", "agent"):
            missing = disappointing(prometheus, board, {})
            assert not missing, missing
            assert {"Program loaded", "Agent restarted"} <= events(prometheus, board, {})
        assert offered(prometheus, "overview", {})["interface"] == ["xst0", "xst0p", "xst1", "xst2"]
        check_program_board(prometheus, agent.address.removeprefix("http://"))
        lab.attach(lab.load("decide_pass"), veths["xst0"])
        wait_for(lambda: "Program replaced" in events(prometheus, "overview", {}), 120)
        lab.attach(None, veths["xst0"])
        wait_for(lambda: "Program detached" in events(prometheus, "overview", {}), 120)


def check_program_board(prometheus: Prometheus, node: str) -> None:
    """Fail unless the dashboard of one program shows it, and offers it."""
    chosen = {"job": "xdpscope", "instance": node, "netns": "host", "interface": "xst1"}
    program = chosen | {"program": "drop_instead"}
    assert disappointing(prometheus, "program", program, frozenset(MAPS)) == []
    options = offered(prometheus, "program", program)
    assert {"decide_by_source_mac", "decide_drop", "drop_instead"} <= {*options["program"]}
    assert {name: options[name] for name in chosen} == {k: [v] for k, v in chosen.items()}
    assert "Program loaded" in events(prometheus, "program", program)
    assert "Program replaced" not in events(prometheus, "program", program)
