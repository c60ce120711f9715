# SPDX-License-Identifier: Apache-2.0
"""``xdpscope trace``."""

import argparse
import sys

from xdpscope.cli.console import console, note
from xdpscope.cli.sessions import announce, filter_of, inner_of, print_summary, selectors_of
from xdpscope.sessions import trace
from xdpscope.sessions.session import Session
from xdpscope.sessions.tracers import Plan


def run(arguments: argparse.Namespace) -> int:
    """Print packets until a limit or a signal ends it."""
    points = arguments.emit.split(",")
    plan = Plan(
        entry="entry" in points,
        exit="exit" in points,
        snaplen=trace.SNAPLEN,
        selectors=selectors_of(arguments),
        filter=filter_of(arguments),
        inner=inner_of(arguments),
    )
    terminal = sys.stdout.isatty()
    with Session(plan, note) as session:
        announce(session)
        trace.run(
            session,
            json_lines=arguments.json,
            count=arguments.count,
            seconds=arguments.seconds,
            width=console().width if terminal else 0,
            note=note,
        )
        print_summary(session)
    return 0
