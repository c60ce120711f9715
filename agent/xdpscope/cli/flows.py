# SPDX-License-Identifier: Apache-2.0
"""``xdpscope flows``."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from xdpscope import formats
from xdpscope.cli.console import console, first_that_fits, note, short
from xdpscope.cli.parser import FLOW_OPTIONS
from xdpscope.client import AgentClient
from xdpscope.errors import XdpscopeError
from xdpscope.log import printable

_ICMP = ("icmp", "icmpv6")


def run(arguments: argparse.Namespace) -> int:
    """Print flows of a running agent."""
    client = AgentClient(arguments.connect, arguments.ca, arguments.cert, arguments.key)
    chosen = {name: getattr(arguments, name) for name in FLOW_OPTIONS}
    query = {name: value for name, value in chosen.items() if value is not None}
    document = client.get("api/v1/flows", query)
    if arguments.json:
        print(json.dumps(document, indent=2))
        return 0
    if document["version"] != formats.FLOWS:
        raise XdpscopeError(
            f"the agent's flows have format {document['version']}, this command reads"
            f" {formats.FLOWS}",
            hint="use the agent's version of xdpscope",
        )
    if not document["enabled"]:
        raise XdpscopeError(
            f"the agent at {client.url} does not count flows",
            hint="set `flows.enabled: true` in its configuration, and restart it",
        )
    flows = document["flows"]
    if flows:
        screen = console()
        screen.print(first_that_fits(screen, _wide(flows), _narrow(flows)))
    _remark(document, len(flows), filtered=bool(query.keys() - {"sort", "limit"}))
    return 0


def _remark(document: dict[str, Any], shown: int, *, filtered: bool) -> None:
    matched, held, rate = document["matched"], document["held"], document["sample_rate"]
    if not held:
        note("The agent holds no flow: no traced program has had a packet recently.")
    elif not matched:
        note(f"No flow matches, of {held:,} that the agent holds.")
    elif shown < matched:
        which = "matching flows" if filtered else "flows"
        note(f"{shown:,} of {matched:,} {which}: --limit {matched} lists all.")
    if rate > 1 and shown:
        note(f"One packet in {rate:,} is sampled: the numbers are estimates.")
    if rate == 0:
        note("The agent takes no packets for flows now: it is above its budget.")


def _wide(flows: Sequence[dict[str, Any]]) -> Table:
    """Return a table with one line for each flow."""
    table = _table("SOURCE", "DESTINATION", "PROGRAM", "INTERFACE")
    for flow in flows:
        table.add_row(
            *_numbers(flow),
            _text(_peer(flow, "source")),
            _text(_peer(flow, "destination")),
            _text(flow["program"]),
            _text(_location(flow)),
        )
    return table


def _narrow(flows: Sequence[dict[str, Any]]) -> Table:
    """Return a table with two lines for each flow, for 80 columns."""
    table = _table("SOURCE\nDESTINATION", "PROGRAM\nINTERFACE")
    for flow in flows:
        table.add_row(
            *_numbers(flow),
            f"{_text(_peer(flow, 'source'))}\n{_text(_peer(flow, 'destination'))}",
            f"{_text(flow['program'])}\n[dim]{_text(_location(flow))}[/]",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("PKT/S", "PACKETS", "BYTES"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("VERDICT", "PROTO"):
        table.add_column(name, no_wrap=True)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _numbers(flow: dict[str, Any]) -> list[str]:
    rate = flow["rate"]
    return [
        f"{rate:.1f}" if rate < 1000 else short(round(rate)),
        short(flow["estimated_packets"]),
        short(flow["estimated_bytes"]),
        _text(flow["verdict"]),
        _protocol(flow),
    ]


def _protocol(flow: dict[str, Any]) -> str:
    if flow["protocol"] in _ICMP:  # type and code
        return f"{flow['protocol']} {flow['source_port']}/{flow['destination_port']}"
    return _text(flow["protocol"])


def _peer(flow: dict[str, Any], side: str) -> str:
    address, port = flow[side], flow[f"{side}_port"]
    if flow["protocol"] in _ICMP or not (flow["source_port"] or flow["destination_port"]):
        return str(address)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _location(flow: dict[str, Any]) -> str:
    return flow["interface"] if flow["netns"] == "host" else f"{flow['netns']}/{flow['interface']}"


def _text(value: str) -> str:
    return escape(printable(value))
