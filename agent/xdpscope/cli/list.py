# SPDX-License-Identifier: Apache-2.0
"""``xdpscope list``."""

import argparse
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from xdpscope import formats
from xdpscope.cli.console import console, first_that_fits, note, short
from xdpscope.client import AgentClient
from xdpscope.describe import as_json
from xdpscope.discovery.model import Attachment, Part
from xdpscope.errors import XdpscopeError
from xdpscope.formats import document
from xdpscope.kernel.netns import HOST
from xdpscope.log import printable
from xdpscope.probes.sockets.report import XdpSocket
from xdpscope.probes.sockets.report import as_json as socket_as_json
from xdpscope.report import ProgramStatus
from xdpscope.survey import Survey

# Seconds. A list without counts is better than one that comes late.
_TIMEOUT = 2.0

# So much of an interface's name, with its network namespace, stays on one line.
_NAME = 24


class Count(NamedTuple):
    """Packets of one program, at all its locations."""

    packets: int
    dropped: int


_Counts = Mapping[tuple[object, object], Count | None]
"""By id and tag. None: the agent does not trace the program."""


class View(NamedTuple):
    """What is known at one moment."""

    statuses: Sequence[ProgramStatus]
    sockets: Sequence[XdpSocket]
    counts: _Counts | None
    notes: Sequence[str]


def run(arguments: argparse.Namespace) -> int:
    """Print every XDP program and AF_XDP socket; with ``--watch``, again until Ctrl-C."""
    client = AgentClient(
        arguments.connect, arguments.ca, arguments.cert, arguments.key, timeout=_TIMEOUT
    )
    with Survey() as survey:
        if arguments.json:
            programs = [as_json(status) for status in survey.programs()]
            sockets = [socket_as_json(each) for each in survey.sockets()]
            print(json.dumps(document("programs", programs, sockets=sockets), indent=2))
        elif arguments.watch is None:
            screen, view = console(), _view(survey, client)
            for table in _tables(screen, view):
                screen.print(table)
            for text in view.notes:
                note(text)
        else:
            _watch(console(), lambda: _view(survey, client), arguments.watch)
    return 0


def _watch(screen: Console, view: Callable[[], View], seconds: float) -> None:
    """Show a view again and again until Ctrl-C; in place on a terminal, else one after another."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if screen.is_terminal:
            with Live(console=screen, auto_refresh=False) as live:
                for _ in _ticks(seconds):
                    title = Text(f"{time.strftime('%H:%M:%S')}, every {seconds:g} s\n", style="dim")
                    live.update(Group(title, *_frame(screen, view())), refresh=True)
        else:
            for number in _ticks(seconds):
                screen.print(*[""] * bool(number), *_frame(screen, view()), sep="\n")
    except KeyboardInterrupt:
        return


def _ticks(seconds: float) -> Iterator[int]:
    """Yield 0, 1, 2 … at this interval, or later if what is done in between takes longer."""
    number, due = 0, time.monotonic()
    while True:
        yield number
        number, due = number + 1, max(due + seconds, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def _frame(screen: Console, view: View) -> list[Table | Text]:
    return [*_tables(screen, view), *(Text(text, style="dim") for text in view.notes)]


def _view(survey: Survey, client: AgentClient) -> View:
    statuses, sockets = survey.programs(), survey.sockets()
    if not statuses:
        return View(statuses, sockets, None, ["No XDP program is loaded."])
    if survey.unavailable is not None:
        hint = f" Hint: {survey.unavailable.hint}." if survey.unavailable.hint else ""
        return View(statuses, sockets, None, [f"No program is traced: {survey.unavailable}.{hint}"])
    try:
        return View(statuses, sockets, _counts(client.get("api/v1/programs", {})), [])
    except XdpscopeError as error:
        return View(statuses, sockets, None, [f"No counts: {error}"])


def _counts(found: Mapping[str, Any]) -> _Counts:
    if found["version"] != formats.PROGRAMS:
        raise XdpscopeError(f"the agent's programs have format {found['version']}")
    return {
        (program["id"], program["tag"]): _count(program) if program["traceable"] else None
        for program in found["programs"]
    }


def _count(program: Mapping[str, Any]) -> Count:
    packets = [location["packets"] for location in program["counts"]]
    return Count(
        sum(sum(verdicts.values()) for verdicts in packets),
        sum(verdicts["drop"] for verdicts in packets),
    )


def _tables(screen: Console, view: View) -> list[Table | Text]:
    """Return the table of programs, an empty line, and the table of sockets, as far as needed."""
    tables: list[Table | Text] = []
    if view.statuses:
        tables.append(first_that_fits(screen, _wide(view), _narrow(view)))
    if view.sockets:
        tables += [*[Text()] * bool(tables), _sockets(view.sockets)]
    return tables


def _sockets(sockets: Sequence[XdpSocket]) -> Table:
    """Return a table with a row for each interface that has AF_XDP sockets."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("INTERFACE", overflow="fold")
    table.add_column("AF_XDP SOCKETS", justify="right", no_wrap=True)
    table.add_column("OWNERS", overflow="fold")
    for (netns, interface), group in groupby(sockets, lambda each: (each.netns, each.interface)):
        name = interface if netns == HOST else f"{netns}/{interface}"
        here = list(group)
        series_index = sorted(
            {each.owner for each in here if each.owner}, key=lambda each: each.pid
        )
        shown = ", ".join(f"{each.comm} ({each.pid})" for each in series_index) or "-"
        table.add_row(escape(printable(name)), str(len(here)), escape(printable(shown)))
    return table


def _wide(view: View) -> Table:
    """Return a table with the role, the share of drops and the loader in columns of their own."""
    table = _columns("PROGRAM", "ROLE", counts=["PACKETS", "DROP"] if view.counts else [])
    table.add_column("UID", justify="right", no_wrap=True)
    for each in view.statuses:
        row = [_id(each), _name(each), _role(each.part), _locations(each)]
        table.add_row(*row, *_count_of(each, view.counts), _traceable(each), _uid(each))
    return table


def _narrow(view: View) -> Table:
    """Return a table with two lines for each program, for 80 columns."""
    table = _columns("PROGRAM\nROLE", counts=["PACKETS\nDROP"] if view.counts else [])
    names = [word for each in view.statuses for word in _locations(each).split()]
    table.columns[2].min_width = min(_NAME, max(map(len, names), default=0))
    for each in view.statuses:
        name = f"{_name(each)}\n[dim]{_role(each.part)}[/]"
        counts = ["\n".join(_count_of(each, view.counts))] if view.counts else []
        table.add_row(_id(each), name, _locations(each), *counts, _traceable(each))
    return table


def _columns(*names: str, counts: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("ID", justify="right", no_wrap=True)
    for name in (*names, "ATTACHED"):
        table.add_column(name, overflow="fold")
    for name in counts:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("TRACEABLE", no_wrap=True)
    return table


def _id(status: ProgramStatus) -> str:
    return str(status.program.id)


def _name(status: ProgramStatus) -> str:
    return escape(printable(status.program.function))


def _locations(status: ProgramStatus) -> str:
    return escape("\n".join(_location(at) for at in status.attachments)) or "-"


def _count_of(status: ProgramStatus, counts: _Counts | None) -> list[str]:
    """Return packets and the share of drops; nothing without any counts."""
    if not counts:
        return []
    count = counts.get((status.program.id, status.program.tag))
    if count is None:
        return ["-", "-"]
    return [short(count.packets), f"{count.dropped / count.packets:.1%}" if count.packets else "-"]


def _uid(status: ProgramStatus) -> str:
    """Return the user id of the loader."""
    return "-" if status.program.uid is None else str(status.program.uid)


def _traceable(status: ProgramStatus) -> str:
    return "[green]yes[/]" if status.reason is None else f"[yellow]no: {status.reason}[/]"


def _location(at: Attachment) -> str:
    """Return where a program is attached: ``eth0 (native)``, ``blue/eth0 (native)``; or, on a lower
    device of a bond, ``eth1 via bond0``.
    """
    name = printable(at.interface if at.netns == HOST else f"{at.netns}/{at.interface}")
    return f"{name} via {printable(at.via)}" if at.via else f"{name} ({at.mode})"


def _role(part: Part) -> str:
    """Return the role, and to whom a component or a tail-called program belongs."""
    lines = [f"{position.position} of {position.dispatcher}" for position in part.chain]
    if part.callers:
        lines.append(f"of {', '.join(map(str, part.callers))}")
    return "\n".join([part.role, *lines]) if len(lines) > 1 else " ".join([part.role, *lines])
