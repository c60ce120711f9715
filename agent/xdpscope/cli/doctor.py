# SPDX-License-Identifier: Apache-2.0
"""``xdpscope doctor``."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from xdpscope.cli.console import console, note
from xdpscope.config import load
from xdpscope.doctor import (
    Finding,
    Status,
    clean,
    conclusion,
    examine,
    never_works,
    programs,
    works,
)
from xdpscope.errors import ConfigError
from xdpscope.formats import document

_STYLE = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red", Status.SKIP: "dim"}


def run(arguments: argparse.Namespace) -> int:
    """Print each finding, and last whether xdpscope works here.

    The exit code is 1 if it does not, 3 if it never will.
    """
    pin_path = load(arguments.config).state.pin_path
    if arguments.clean:
        return _clean(pin_path, arguments.json)
    findings = list(examine(pin_path))
    if arguments.json:
        checks = [asdict(finding) for finding in findings]
        print(json.dumps(document("checks", checks, works=works(findings)), indent=2))
    else:
        screen = console()
        screen.print(_table(findings))
        screen.print(f"\n{escape(conclusion(findings))}", style="bold")
    return 3 if never_works(findings) else int(not works(findings))


def _clean(pin_path: Path | None, as_json: bool) -> int:
    if pin_path is None:
        raise ConfigError(
            "state.pin_path is not set: there is nothing to remove",
            hint="name the agent's configuration: xdpscope doctor --clean --config FILE",
        )
    removed = clean(pin_path)
    if as_json:
        print(json.dumps(document("removed", [asdict(each) for each in removed]), indent=2))
    elif not removed:
        note(f"Nothing is pinned in {pin_path}.")
    else:
        for each in removed:
            print(f"removed {each.path}, with the counts of {programs(each.programs)}")
    return 0


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        style = _STYLE[finding.status]
        text = escape(finding.found)
        if finding.hint:
            text += f"\n[dim]hint:[/] {escape(finding.hint)}"
        table.add_row(f"[{style}]{finding.status}[/]", finding.check, text)
    return table
