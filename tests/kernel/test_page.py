# SPDX-License-Identifier: Apache-2.0
"""What the running agent serves."""

import json
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.lab import Lab, frame
from tests.kernel.nursery import finished, retain
from tests.waiting import wait_for

pytestmark = pytest.mark.one_kernel


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    with AgentProcess(QUICK) as agent:
        yield agent.ready()
        assert agent.stop() == 0


def test_the_log_says_started_once_programs_are_traced(lab: Lab) -> None:
    lab.attach(lab.load("decide_drop"), lab.veth("xst0"))
    with AgentProcess(QUICK) as agent:
        agent.ready()
        wait_for(lambda: "started" in agent.events())
        assert traced(agent, "decide_drop")
        (entry,) = (each for each in agent.log if each["event"] == "started")
        assert f"http://{entry['listen']}" == agent.address
        assert entry["traced"] == 1 <= entry["programs"]  # other tests may have left some, idle
        events = agent.events()
        assert events[0] == "listening"
        assert events.index("tracing") < events.index("started")
        assert agent.stop() == 0


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.nightly)])
def test_what_is_gone_leaves_the_page(lab: Lab, seconds: int) -> None:
    """After a minute, or, the short way, sooner."""
    before = partial(retain, seconds) if seconds < 60 else bool
    veth, program = lab.veth("xst0"), lab.load("decide_drop")
    lab.attach(program, veth)
    with AgentProcess(QUICK, before=before) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        lab.attach(None, veth)
        program.close()
        lab.delete(veth)
        ended = time.monotonic()
        wait_for(lambda: b"decide_drop" not in agent.get("/metrics"), interval=2)
        assert time.monotonic() - ended > seconds, "not every scraper has read the last counts"

        # Another program of the same name has zeros, before its first packet.
        lab.attach(lab.load("decide_drop"), lab.veth("xst0"))
        wait_for(lambda: traced(agent, "decide_drop"))
        assert agent.value("xdp_packets_total", program="decide_drop", interface="xst0") == 0


def test_the_page_counts_exactly(lab: Lab, agent: AgentProcess) -> None:
    veth = lab.veth("xst0")
    program = lab.load("decide_by_first_payload_byte")
    lab.attach(program, veth, "generic")
    wait_for(lambda: traced(agent, "decide_by_first_payload_byte"))
    veth.send(frame(60, b"\1"), times=30)
    veth.send(frame(90, b"\2"), times=20)

    info = program.info()
    page = agent.metrics()
    key = ("xst0", "host", "decide_by_first_payload_byte", str(info.id))
    verdicts = {"aborted": 0, "drop": 30, "pass": 20, "tx": 0, "redirect": 0, "unknown": 0}
    for verdict, packets in verdicts.items():
        assert page["xdp_packets_total", *key, verdict] == packets
        assert page["xdp_bytes_total", *key, verdict] == packets * {"pass": 90}.get(verdict, 60)
    name = key[2:]
    assert page["xdp_program_info", "xdp", *name, "root", info.tag] == 1
    assert page["xdp_program_attachment_info", "xst0", "generic", "host", *name, ""] == 1
    assert page["xdp_program_traced", *name, ""] == 1
    assert page["xdpscope_tracer_missed_total", *name] == 0
    assert all(
        value == 1 for (name, *_), value in page.items() if name == "xdpscope_collector_success"
    )


def test_the_api_lists_what_list_prints(lab: Lab, agent: AgentProcess) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass"), veth)
    wait_for(lambda: traced(agent, "decide_pass"))
    veth.send(frame(60), times=7)
    served = json.loads(agent.get("/api/v1/programs"))["programs"]
    printed = finished("list", "--json").stdout
    ours = [program for program in served if program["program"] == "decide_pass"]
    (counts,) = ours[0].pop("counts")
    assert ours[0].pop("latency") is None  # it is not measured
    assert (counts["netns"], counts["interface"]) == ("host", "xst0")
    assert (counts["packets"]["pass"], counts["bytes"]["pass"]) == (7, 7 * 60)
    (of_cpus,) = (
        program["counts"]
        for program in json.loads(agent.get("/api/v1/programs?cpus=1"))["programs"]
        if program["program"] == "decide_pass"
    )
    assert [counts | {"cpus": of_cpus[0]["cpus"]}] == of_cpus
    assert sum(each["packets"]["pass"] for each in of_cpus[0]["cpus"]) == 7
    assert sum(each["bytes"]["pass"] for each in of_cpus[0]["cpus"]) == 7 * 60
    assert ours[0]["attachments"] == [{"netns": "host", "interface": "xst0", "mode": "native"}]
    assert ours == [p for p in json.loads(printed)["programs"] if p["program"] == "decide_pass"]


def test_metrics_may_be_picked_by_name(lab: Lab, agent: AgentProcess) -> None:
    lab.attach(lab.load("decide_pass"), lab.veth("xst0"))
    wait_for(lambda: traced(agent, "decide_pass"))
    page = agent.get("/metrics?name[]=xdp_program_traced&name[]=xdp_bytes_total").decode()
    found = {line.partition("{")[0] for line in page.splitlines() if not line.startswith("#")}
    assert found == {"xdp_program_traced", "xdp_bytes_total"}


def test_openmetrics_and_compression(lab: Lab, agent: AgentProcess) -> None:
    page = agent.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert page.endswith(b"# EOF\n")
    assert agent.get("/metrics", **{"Accept-Encoding": "gzip"})[:2] == b"\x1f\x8b"
