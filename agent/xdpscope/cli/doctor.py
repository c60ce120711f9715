# SPDX-License-Identifier: Apache-2.0
"""``xdpscope doctor``."""

import argparse
import json
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from xdpscope.cli.console import console
from xdpscope.doctor import Finding, Status, examine

_STYLE = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


def run(arguments: argparse.Namespace) -> int:
    """Prints each finding; exit code 1 if one keeps the agent from working."""
    findings = list(examine())
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        console().print(_table(findings))
    return int(any(finding.status is Status.FAIL for finding in findings))


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        style = _STYLE[finding.status]
        text = escape(finding.found)
        if finding.cure:
            text += f"\n[dim]cure:[/] {escape(finding.cure)}"
        table.add_row(f"[{style}]{finding.status}[/]", finding.check, text)
    return table
