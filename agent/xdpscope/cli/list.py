# SPDX-License-Identifier: Apache-2.0
"""``xdpscope list``."""

import argparse
import json

from rich.markup import escape
from rich.table import Table

from xdpscope.cli.console import console, first_that_fits, note
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
    screen = console()
    screen.print(first_that_fits(screen, _wide(standings), _narrow(standings)))
    if unavailable is not None:
        note(f"This host cannot trace: {unavailable}")
    return 0


def _wide(standings: list[Standing]) -> Table:
    """Return a table with the role in a column of its own."""
    table = _table("PROGRAM", "ROLE")
    for standing in standings:
        table.add_row(_id(standing), _name(standing), _role(standing.part), *_status(standing))
    return table


def _narrow(standings: list[Standing]) -> Table:
    """Return a table with the role below the name, for 80 columns."""
    table = _table("PROGRAM\nROLE")
    for standing in standings:
        name = f"{_name(standing)}\n[dim]{_role(standing.part)}[/]"
        table.add_row(_id(standing), name, *_status(standing))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ID", justify="right", no_wrap=True)
    for name in (*columns, "ATTACHED"):
        table.add_column(name, overflow="fold")
    table.add_column("TRACEABLE", no_wrap=True)
    return table


def _id(standing: Standing) -> str:
    return str(standing.program.id)


def _name(standing: Standing) -> str:
    return escape(printable(standing.program.function))


def _status(standing: Standing) -> tuple[str, str]:
    """Return where the program is attached, and whether it can be traced."""
    return (
        escape("\n".join(_location(at) for at in standing.attachments)) or "-",
        "[green]yes[/]" if standing.reason is None else f"[yellow]no: {standing.reason}[/]",
    )


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
