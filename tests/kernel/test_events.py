# SPDX-License-Identifier: Apache-2.0
"""Loads, attachments, replacements, detachments and unloads: each appears once, in order."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.agent import QUICK, AgentProcess
from tests.kernel.lab import Lab
from tests.kernel.programs import compiled
from tests.waiting import wait_for
from xdpscope.libbpf import Object, Program

pytestmark = pytest.mark.one_kernel

NAMES = {"decide_drop", "decide_pass"}


@pytest.fixture
def agent() -> Iterator[AgentProcess]:
    with AgentProcess(QUICK) as agent:
        yield agent.ready()


def events(agent: AgentProcess, query: str = "?limit=1000") -> list[dict[str, Any]]:
    document = json.loads(agent.get(f"/api/v1/events{query}"))
    assert document["version"] == 1
    return [each for each in document["events"] if each["program"] in NAMES]


def brief(found: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    keys = "event", "program", "interface", "mode"
    return [tuple(each[key] for key in keys if key in each) for each in found]


def load(function: str) -> Program:
    """Load a program that goes away when this is closed."""
    with Object(compiled("verdicts")) as loaded:
        loaded.set_autoload(function)
        loaded.load()
        return loaded.program(function)


def test_each_change_appears_once_in_order(lab: Lab, agent: AgentProcess) -> None:
    expected: list[tuple[object, ...]] = []

    def then(*happened: tuple[object, ...]) -> None:
        """Wait for the events: what comes next must be found by a later scan."""
        expected.extend(happened)
        wait_for(lambda: brief(events(agent)) == expected)

    veth = lab.veth("xsevents")
    began = time.time()
    with load("decide_drop") as first:
        then(("loaded", "decide_drop"))
        with load("decide_pass") as second:
            then(("loaded", "decide_pass"))
            ids = [first.info().id, second.info().id]
            lab.attach(first, veth)
            then(("attached", "decide_drop", "xsevents", "native"))
            lab.attach(second, veth)
            then(("replaced", "decide_pass", "xsevents", "native"))
            lab.attach(None, veth)
            then(("detached", "decide_pass", "xsevents", "native"))
            lab.attach(first, veth, "generic")
            then(("attached", "decide_drop", "xsevents", "generic"))
        then(("unloaded", "decide_pass"))
        lab.delete(veth)
        then(("detached", "decide_drop", "xsevents", "generic"))
    then(("unloaded", "decide_drop"))

    found = events(agent)
    assert [each["time"] for each in found] == sorted(each["time"] for each in found)
    assert all(began - 1 <= each["loaded_at"] <= each["time"] + 1 for each in found)
    assert {each["uid"] for each in found} == {0}
    assert (found[3]["program_id"], found[3]["previous"]["program_id"]) == (ids[1], ids[0])
    assert events(agent, f"?since={found[3]['time']}") == found[4:]
    assert events(agent, "?limit=1") == found[-1:]
    assert agent.stop() == 0  # all is logged
    logged = [each for each in agent.log if each.get("program") in NAMES]
    changes = [each for each in logged if str(each["event"]).startswith("program ")]
    assert [f"program {each['event']}" for each in found] == [each["event"] for each in changes]


def test_load_time_is_that_of_the_kernel_and_stable(lab: Lab, agent: AgentProcess) -> None:
    before = time.time()
    program = lab.load("decide_drop")
    after = time.time()
    lab.attach(program, lab.veth("xsloaded"))
    name = "xdp_program_loaded_timestamp_seconds"
    wait_for(lambda: agent.value(name, program="decide_drop") is not None)
    shown = {agent.value(name, program="decide_drop") for _ in range(5)}
    assert len(shown) == 1
    (at,) = shown
    assert at is not None and before - 0.1 <= at <= after + 0.1
    (listed,) = (
        each
        for each in json.loads(agent.get("/api/v1/programs"))["programs"]
        if each["program"] == "decide_drop"
    )
    assert (listed["loaded_at"], listed["uid"]) == (at, 0)
