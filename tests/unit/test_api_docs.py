# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/api.md have exactly the keys that are served and printed."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from xdpscope.cli.parser import FLOW_OPTIONS
from xdpscope.counters.totals import Tally
from xdpscope.describe import as_json
from xdpscope.discovery.model import Attachment, ChainPosition, Mode, Part, Role, XdpProgram
from xdpscope.doctor import Finding, Removed, Status
from xdpscope.formats import document
from xdpscope.kernel.xdp_diag import REASONS
from xdpscope.probes.events.report import Change, Event, NotedEvent, ProgramName
from xdpscope.probes.events.report import as_json as event_as_json
from xdpscope.probes.flows.query import Order
from xdpscope.probes.flows.report import FlowRow, FlowsFound
from xdpscope.probes.flows.report import as_json as flows_as_json
from xdpscope.probes.latency.report import Latency
from xdpscope.probes.latency.report import as_json as latency_as_json
from xdpscope.probes.latency.times import BOUNDS, Times
from xdpscope.probes.sockets.report import Owner, XdpSocket
from xdpscope.probes.sockets.report import as_json as socket_as_json
from xdpscope.probes.verdicts.report import as_json as count_as_json
from xdpscope.probes.verdicts.report import cpus_as_json
from xdpscope.program_types.xdp import VERDICTS
from xdpscope.report import Count, ProgramStatus

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
EXAMPLES = {
    tuple(example)[-1]: example
    for example in map(json.loads, re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
}
PROGRAM = XdpProgram(32, "0" * 16, "xdp_filter", "xdp_filter", 3, True, "xdp", load_time=1, uid=0)
LOCATION = ("host", "eth0")


def shape(value: Any) -> Any:
    """Keys and types, of a list those of its first item."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value)


def test_the_example_of_flows() -> None:
    example = EXAMPLES["flows"]
    (row,) = example["flows"]
    flow = FlowRow(
        PROGRAM,
        LOCATION,
        *(row[key] for key in ("verdict", "protocol", "source", "destination")),
        *(row[key] for key in ("source_port", "destination_port", "packets", "bytes", "rate")),
    )
    assert flows_as_json(FlowsFound([flow], example["matched"], example["held"])) == example


def test_the_example_of_programs() -> None:
    part = Part(Role.COMPONENT, chain=(ChainPosition(38, 0),))
    at = (Attachment(*LOCATION, Mode.NATIVE),)
    listed = as_json(ProgramStatus(PROGRAM, part, at, None, 0, None))
    listed |= {"counts": [count_as_json(Count(PROGRAM, LOCATION, Tally()))]}
    times = Times((1,) * (len(BOUNDS) + 1))
    listed |= {"latency": latency_as_json(Latency(PROGRAM, times))}
    socket = XdpSocket(
        48211, 1, *LOCATION, 3, 0, (0,) * len(REASONS), 0, 0, 0, 0, False, Owner(1, "")
    )
    served = document("programs", [listed], sockets=[socket_as_json(socket)])
    assert shape(EXAMPLES["programs"]) == shape(served)


def test_the_example_of_events() -> None:
    at, name = Attachment(*LOCATION, Mode.NATIVE), ProgramName(1, "", "")
    loaded = Event(Change.LOADED, name, "root", 0, 1.5)
    replaced = Event(Change.REPLACED, name, "root", 0, 1.5, at, name)
    served = [event_as_json(NotedEvent(1.5, event)) for event in (loaded, replaced)]
    example = EXAMPLES["events"]
    assert [shape(each) for each in example["events"]] == [shape(each) for each in served]
    assert shape(example) == shape(document("events", served))
    assert all(f"`{change}`" in PAGE for change in Change)


def test_the_example_of_cpus() -> None:
    (shown,) = cpus_as_json(np.ones((1, len(VERDICTS), 2), np.uint64))
    assert shape(EXAMPLES["bytes"]) == shape(shown)


def test_the_examples_of_doctor() -> None:
    for name, item in ("checks", Finding("", Status.OK, "")), ("removed", Removed("", 0)):
        example = EXAMPLES[name]
        assert set(example) - {"works"} == {"version", name}
        assert list(example[name][0]) == list(asdict(item))
    assert all(f"| `{status}` |" in PAGE for status in Status)


def test_each_parameter_is_explained() -> None:
    table = PAGE.partition("| parameter |")[2].partition("\n\n")[0]
    named = re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines()[2:]))
    assert sorted(named) == sorted(FLOW_OPTIONS)
    assert all(f"`{order}`" in table for order in get_args(Order))
