# SPDX-License-Identifier: Apache-2.0
"""``xdpscope capture``."""

import argparse
import sys

from xdpscope.cli.console import note
from xdpscope.cli.sessions import announce, filter_of, inner_of, print_summary, selectors_of
from xdpscope.errors import UsageError
from xdpscope.sessions import capture, events
from xdpscope.sessions.session import Session
from xdpscope.sessions.tracers import Plan

MOST_MEMORY = 4 << 30
"""Bytes that the flight recorder may come to take: packets of ``--snaplen`` bytes, and blocks."""

_BLOCK_SIZE = 128  # of a packet's block beside the packet


def run(arguments: argparse.Namespace) -> int:
    """Write packets until a limit or a signal ends it."""
    if arguments.write == capture.STDOUT and sys.stdout.isatty():
        raise UsageError(
            "standard output is a terminal: pcapng is not for people",
            hint="xdpscope capture -w - | tshark -r -",
        )
    if arguments.rotate and arguments.write == capture.STDOUT:
        raise UsageError("--rotate needs a file: standard output is one stream")
    if arguments.keep and not arguments.rotate:
        raise UsageError("--keep needs --rotate")
    recorder = _recorder(arguments)
    plan = Plan(
        entry=arguments.emit != "exit",
        exit=arguments.emit != "entry",
        snaplen=arguments.snaplen,
        selectors=selectors_of(arguments),
        filter=filter_of(arguments),
        inner=inner_of(arguments),
    )
    files = capture.Files(arguments.write, rotating=bool(arguments.rotate), keep=arguments.keep)
    with Session(plan, note) as session:
        announce(session)
        try:
            capture.run(
                session,
                files,
                count=arguments.count,
                seconds=arguments.seconds,
                rotate_at=arguments.rotate,
                recorder=recorder,
                note=note,
            )
        finally:
            session.stop()
            print_summary(session)
    return 0


def _recorder(arguments: argparse.Namespace) -> capture.Recorder | None:
    if not arguments.last and not arguments.on:
        return None
    if not arguments.last or not arguments.on:
        raise UsageError("--last and --on belong together")
    if arguments.rotate or arguments.count:
        raise UsageError("--last writes one file, and ends with the event: no --rotate, no --count")
    points = 2 if arguments.emit == "both" else 1
    memory = (arguments.last + 1) * points * (arguments.snaplen + _BLOCK_SIZE)
    if memory > MOST_MEMORY:
        raise UsageError(
            f"--last {arguments.last} may take {memory / 2**30:.1f} GiB of memory, with packets of"
            f" {arguments.snaplen} bytes; at most {MOST_MEMORY >> 30} GiB are allowed",
            hint="keep fewer packets, or less of each: --snaplen 256",
        )
    try:
        event = events.parse(arguments.on)
    except ValueError as error:
        raise UsageError(f"--on {error}") from None
    if event.verdict is not None and arguments.emit == "entry":
        raise UsageError(f"--on {event.text} needs packets at exit: --emit exit or both")
    return capture.Recorder(arguments.last, event)
