# SPDX-License-Identifier: Apache-2.0
"""``xdpscope list``."""

import argparse
import json

from rich.markup import escape
from rich.table import Table

from xdpscope.cli.console import console, note
from xdpscope.describe import as_json
from xdpscope.discovery.model import Attachment, Part
from xdpscope.formats import document
from xdpscope.kernel.netns import HOST
from xdpscope.log import printable
from xdpscope.observer import Standing
from xdpscope.survey import survey


def run(arguments: argparse.Namespace) -> int:
    """Prints every XDP program."""
    standings, unavailable = survey()
    if arguments.json:
        programs = [as_json(standing) for standing in standings]
        print(json.dumps(document("programs", programs), indent=2))
        return 0
    if not standings:
        note("No XDP program is loaded.")
        return 0
    console().print(_table(standings))
    if unavailable is not None:
        note(f"This host cannot trace: {unavailable}")
    return 0


def _table(standings: list[Standing]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ID", justify="right")
    table.add_column("PROGRAM", overflow="fold")
    table.add_column("ROLE")
    table.add_column("ATTACHED", overflow="fold")
    table.add_column("TRACEABLE")
    for standing in standings:
        places = [_location(at) for at in standing.attachments]
        table.add_row(
            str(standing.program.id),
            escape(printable(standing.program.function)),
            _role(standing.part),
            escape("\n".join(places)) or "-",
            "[green]yes[/]" if standing.reason is None else f"[yellow]no: {standing.reason}[/]",
        )
    return table


def _location(at: Attachment) -> str:
    """Return where a program is attached: ``eth0 (native)``, ``blue/eth0 (native)``; or, on a lower
    device of a bond, ``eth1 via bond0``.
    """
    name = printable(at.interface if at.netns == HOST else f"{at.netns}/{at.interface}")
    return f"{name} via {printable(at.via)}" if at.via else f"{name} ({at.mode})"


def _role(part: Part) -> str:
    """The role, and to whom a component or a tail-called program belongs."""
    lines = [f"{place.position} of {place.dispatcher}" for place in part.chain]
    if part.callers:
        lines.append(f"of {', '.join(map(str, part.callers))}")
    return "\n".join([part.role, *lines]) if len(lines) > 1 else " ".join([part.role, *lines])
