# SPDX-License-Identifier: Apache-2.0
"""The sums of each packet once, the documented and the recorded one, evaluated by Prometheus's own
engine on given series.
"""

import json
from pathlib import Path

import pytest
from tests.promtool import PROMTOOL, promtool

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "prometheus.md"
RECORDING = ROOT / "config" / "prometheus" / "recording.yml"

pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: make setup fetches it"
)

Series = dict[str, str]


def documented_sum() -> str:
    """Return the expression for each packet once that needs no recording rules."""
    section = PAGE.read_text().partition("\n### Without recording rules\n")[2]
    return section.partition("```promql\n")[2].partition("```")[0].strip()


class AgentSource:
    """What is on the pages of an agent, counters growing evenly."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self.series: list[Series] = []

    def _add(self, values: str, name: str, **labels: str) -> None:
        labels = {"instance": self._instance} | labels
        inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
        self.series.append({"series": f"{name}{{{inside}}}", "values": values})

    def program(
        self, id: str, role: str, *interfaces: str, reason: str = "", via: str = ""
    ) -> None:
        """A program, and where it receives packets."""
        self._add("1x40", "xdp_program_info", program_id=id, role=role)
        self._add(f"{int(not reason)}x40", "xdp_program_traced", program_id=id, reason=reason)
        for interface in interfaces:
            location = {"netns": "host", "interface": interface, "mode": "native", "via": via}
            self._add("1x40", "xdp_program_attachment_info", program_id=id, **location)

    def component(self, id: str, dispatcher: str, position: str) -> None:
        """A component's place in a dispatcher."""
        where = {"dispatcher_id": dispatcher, "position": position}
        self._add("1x40", "xdp_program_component_info", program_id=id, **where)

    def packets(self, id: str, interface: str, verdict: str, rate: int) -> None:
        """So many packets a second; the pages are read every 15 seconds."""
        location = {"netns": "host", "interface": interface, "verdict": verdict}
        self._add(f"0+{15 * rate}x40", "xdp_packets_total", program_id=id, **location)


def check(
    pages: list[AgentSource], expected: dict[tuple[str, str], int], documented: bool = True
) -> None:
    """Fail unless the sums are this, by interface and verdict, in packets a second."""
    samples = [
        {
            "labels": f'{{netns="host",interface="{interface}",verdict="{verdict}"}}',
            "value": rate,
        }
        for (interface, verdict), rate in expected.items()
    ]
    # Rounded, because rates over a window are an ulp off and promtool compares exactly.
    recorded = "round(sum without (instance) (interface_verdict:xdp_packets:rate5m), 0.001)"
    queries = [
        {"expr": expression, "eval_time": "6m", "exp_samples": samples}
        for expression in ([documented_sum()] if documented else []) + [recorded]
    ]
    test = {
        "interval": "15s",
        "input_series": [series for page in pages for series in page.series],
        "promql_expr_test": queries,
    }
    whole = {"rule_files": [str(RECORDING)], "evaluation_interval": "15s", "tests": [test]}
    promtool("test", "rules", "/dev/stdin", text=json.dumps(whole))


def test_a_root() -> None:
    page = AgentSource("a")
    page.program("1", "root", "eth0", "eth1")
    page.packets("1", "eth0", "pass", 10)
    page.packets("1", "eth0", "drop", 5)
    page.packets("1", "eth1", "pass", 3)
    check([page], {("eth0", "pass"): 10, ("eth0", "drop"): 5, ("eth1", "pass"): 3})


def test_a_program_behind_a_map() -> None:
    page = AgentSource("a")
    page.program("1", "root", "eth0")
    page.program("2", "devmap", "eth1")
    page.program("3", "cpumap")
    page.program("4", "tailcall", reason="tailcall_only")
    page.packets("1", "eth0", "redirect", 10)
    page.packets("2", "eth1", "drop", 10)
    page.packets("3", "eth0", "pass", 10)
    check([page], {("eth0", "redirect"): 10})


def chain(page: AgentSource, dispatcher: str, interface: str) -> None:
    page.program(dispatcher, "dispatcher", interface)
    page.packets(dispatcher, interface, "drop", 4)
    page.packets(dispatcher, interface, "pass", 6)
    for position, verdicts in enumerate(({"pass": 10}, {"drop": 4, "pass": 6}, {"pass": 6})):
        id = f"{dispatcher}{position}"
        page.program(id, "component", interface)
        page.component(id, dispatcher, str(position))
        for verdict, rate in verdicts.items():
            page.packets(id, interface, verdict, rate)


def test_a_chain() -> None:
    page = AgentSource("a")
    chain(page, "7", "eth0")
    check([page], {("eth0", "drop"): 4, ("eth0", "pass"): 6})


def alone(page: AgentSource, dispatcher: str, interface: str) -> None:
    page.program(dispatcher, "dispatcher", interface, reason="busy")
    page.program(f"{dispatcher}0", "component", interface)
    page.component(f"{dispatcher}0", dispatcher, "0")
    page.packets(f"{dispatcher}0", interface, "drop", 8)


def test_a_component_in_the_place_of_its_dispatcher() -> None:
    page = AgentSource("a")
    alone(page, "8", "eth0")
    check([page], {("eth0", "drop"): 8})


def test_a_component_in_the_place_of_its_dispatcher_on_a_bond() -> None:
    page = AgentSource("a")
    page.program("8", "dispatcher", "eth0", "eth1", reason="busy", via="bond0")
    page.program("80", "component", "eth0", "eth1", via="bond0")
    page.component("80", "8", "0")
    page.packets("80", "eth0", "drop", 8)
    page.packets("80", "eth1", "drop", 9)
    check([page], {("eth0", "drop"): 8, ("eth1", "drop"): 9})


def test_a_dispatcher_that_seems_to_have_two_in_its_place() -> None:
    """What should not be, on one host, is no reason to lose the sums of all others."""
    odd, other = AgentSource("a"), AgentSource("b")
    alone(odd, "8", "eth0")
    odd.component("81", "8", "0")
    odd.packets("81", "eth0", "drop", 8)
    other.program("1", "root", "eth1")
    other.packets("1", "eth1", "pass", 10)
    check([odd, other], {("eth0", "drop"): 8, ("eth1", "pass"): 10}, documented=False)


def test_both_on_several_hosts() -> None:
    """Ids mean something else on each of them."""
    one, other = AgentSource("a"), AgentSource("b")
    chain(one, "7", "eth0")
    alone(one, "8", "eth1")
    chain(other, "8", "eth0")
    alone(other, "7", "eth1")
    check([one, other], {("eth0", "drop"): 8, ("eth0", "pass"): 12, ("eth1", "drop"): 16})


def test_a_component_in_the_place_of_one_dispatcher_and_in_the_chain_of_another() -> None:
    page = AgentSource("a")
    page.program("1", "dispatcher", "eth0", reason="busy")
    page.program("2", "dispatcher", "eth1")
    page.program("3", "component", "eth0", "eth1")
    page.component("3", "1", "0")
    page.component("3", "2", "0")
    page.packets("3", "eth0", "drop", 5)
    page.packets("3", "eth1", "drop", 7)
    page.packets("2", "eth1", "drop", 7)
    check([page], {("eth0", "drop"): 5, ("eth1", "drop"): 7})
