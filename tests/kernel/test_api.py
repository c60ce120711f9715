# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/flows`` finds exactly the flows that were sent, by each of its parameters."""

import json
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.kernel.agent import QUICK, AgentProcess
from tests.kernel.flows import Expected, Key, Sums, differs, mac_verdict
from tests.kernel.lab import Lab
from tests.kernel.mixture import samples
from tests.kernel.namespaces import namespace
from tests.kernel.nursery import finished
from tests.reference import Flow
from tests.waiting import wait_for

pytestmark = pytest.mark.one_kernel

READING, WRITING = "decide_by_source_mac", "write_and_decide"
LOCATIONS = {READING: ("host", "xst0"), WRITING: ("xstblue", "eth0")}

Filter = tuple[dict[str, object], Callable[[Key], bool]]
"""Parameters, and which flows they stand for."""


@pytest.fixture
def agent(lab: Lab) -> Iterator[AgentProcess]:
    with AgentProcess(f"{QUICK}flows: {{idle_timeout: 1h}}\n") as agent:
        yield agent.ready()


def asked(agent: AgentProcess, **parameters: object) -> dict[str, Any]:
    query = urlencode({"limit": 100_000} | parameters)
    answer: dict[str, Any] = json.loads(agent.get(f"/api/v1/flows?{query}"))
    assert (answer["version"], answer["enabled"], answer["sample_rate"]) == (1, True, 1)
    return answer


def by_flow(rows: list[dict[str, Any]]) -> Sums:
    sums: Sums = {}
    for row in rows:
        flow = Flow(
            row["protocol"], row["source"], row["destination"],
            row["source_port"], row["destination_port"],
        )  # fmt: skip
        key = row["program"], row["interface"], row["verdict"], flow
        assert (row["netns"], row["interface"]) == LOCATIONS[row["program"]]
        assert key not in sums
        sums[key] = row["packets"], row["bytes"]
    return sums


Send = Callable[[int, bytes], object]
"""Sends a frame so many times."""


def count(agent: AgentProcess, program: str, send: Send, step: int) -> Sums:
    """Send frames to an attached program, and return the flows that the agent then holds."""
    made = samples()
    # Until its flows are counted, too. How often that took the first frame, only the agent knows.
    wait_for(lambda: probe(agent, program, send, made[0].frame), interval=0.5)
    first = by_flow(asked(agent, program=program)["flows"])
    expected = Expected()
    for number, (data, _) in enumerate(made[step::step]):
        times = 1 + number % 7
        send(times, data)
        expected.add(program, LOCATIONS[program][1], mac_verdict(data), data, times)
    sent = {key: sums for key, sums in expected.sums.items() if isinstance(key[3], Flow)}
    assert not first.keys() & sent.keys()
    sent |= first
    wait_for(lambda: by_flow(asked(agent, program=program)["flows"]) == sent)
    return sent


def probe(agent: AgentProcess, program: str, send: Send, data: bytes) -> bool:
    send(1, data)
    return bool(asked(agent, program=program)["flows"])


def in_network(side: str, network: str) -> Callable[[Key], bool]:
    wanted = ip_network(network)
    return lambda key: ip_address(getattr(key[3], side)) in wanted


def filters(sent: Sums) -> Iterator[Filter]:
    """Parameters that a user may ask for."""
    listed = json.loads(finished("list", "--json").stdout)["programs"]
    (reading,) = (each for each in listed if each["program"] == READING)
    for glob in (READING, "decide_*", reading["id"], reading["tag"]):
        yield {"program": glob}, lambda key: key[0] == READING
    yield {"program": "absent"}, lambda _: False
    yield {"interface": "xst0"}, lambda key: key[1] == "xst0"
    yield {"interface": "e?h0"}, lambda key: key[1] == "eth0"
    yield {"interface": "*0"}, lambda _: True
    yield {"netns": "xstblue"}, lambda key: key[0] == WRITING
    yield {"netns": "host"}, lambda key: key[0] == READING
    for verdict in ("pass", "drop", "unknown"):
        yield {"verdict": verdict}, lambda key, verdict=verdict: key[2] == verdict
    for name in ("udp", "tcp", "icmp", "icmpv6", "47"):
        yield {"protocol": name}, lambda key, name=name: key[3].protocol == name
    yield {"protocol": 17}, lambda key: key[3].protocol == "udp"
    for side in ("source", "destination"):
        addresses = [next(getattr(f, side) for *_, f in sent if s in f.source) for s in ".:"]
        for network in (*addresses, "0.0.0.0/0", "::/0", "128.0.0.0/1", "2000::/4"):
            yield {side: network}, in_network(side, network)
    program, *_, flow = next(k for k in sent if k[3].protocol == "udp" and ":" not in k[3].source)
    port, network = flow.destination_port, f"{flow.source}/8"
    yield {"port": port}, lambda key: port in key[3][3:]
    yield {"port": flow.source_port}, lambda key: flow.source_port in key[3][3:]
    near = in_network("source", str(ip_network(network, strict=False)))
    yield (
        {"port": port, "protocol": "udp", "source": network, "netns": LOCATIONS[program][0]},
        lambda key: (
            port in key[3][3:] and key[3].protocol == "udp" and near(key) and key[0] == program
        ),
    )


def test_flows_are_found_by_each_parameter(lab: Lab, agent: AgentProcess) -> None:
    reading, writing = (lab.load(name, "flows") for name in (READING, WRITING))
    veth = lab.veth("xst0")
    lab.attach(reading, veth)
    with namespace("xstblue", writing) as blue:
        sent = count(agent, READING, lambda times, data: veth.send(data, times=times), step=33)
        sent |= count(agent, WRITING, blue.send, step=19)
        assert len(sent) > 150 and len({key[3].protocol for key in sent}) > 6
        selective = 0
        for parameters, wanted in filters(sent):
            expected = {key: sums for key, sums in sent.items() if wanted(key)}
            answer = asked(agent, **parameters)
            differs(by_flow(answer["flows"]), expected)
            assert (answer["matched"], answer["held"]) == (len(expected), len(sent)), parameters
            selective += 0 < len(expected) < len(sent)
        assert selective > 20

        for sort, column in ("packets", 0), ("bytes", 1):
            most = sorted((sums[column] for sums in sent.values()), reverse=True)
            answer = asked(agent, sort=sort, limit=25)
            assert [row[sort] for row in answer["flows"]] == most[:25]
            assert answer["matched"] == len(sent)
        rates = [row["rate"] for row in asked(agent)["flows"]]
        assert rates == sorted(rates, reverse=True) and rates[0] > 0

        options = ("--program", WRITING, "--verdict", "drop", "--limit", "5000")
        listed = finished("flows", "--connect", agent.address, *options, "--json")
        document = asked(agent, program=WRITING, verdict="drop")
        assert by_flow(json.loads(listed.stdout)["flows"]) == by_flow(document["flows"])
        table = finished("flows", "--connect", agent.address, *options).stdout
        assert table.count(" drop ") == document["matched"] > 5

        for query in ("soruce=10.0.0.1", "port=1&port=2", "source=10.0.0.0/33"):
            assert agent.status(f"/api/v1/flows?{query}") == 400
