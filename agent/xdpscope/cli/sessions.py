# SPDX-License-Identifier: Apache-2.0
"""What ``trace`` and ``capture`` have in common."""

import argparse

from xdpscope.cli.console import note
from xdpscope.sessions.packet_filter import FilterError, PacketFilter
from xdpscope.sessions.selectors import Selectors
from xdpscope.sessions.session import Session
from xdpscope.sessions.trace import summary


def selectors_of(arguments: argparse.Namespace) -> Selectors:
    """Return what was typed."""
    return Selectors(
        programs=tuple(arguments.program),
        interfaces=tuple(arguments.interface),
        namespaces=tuple(arguments.netns),
        verdicts=frozenset(arguments.verdict),
        min_inside=arguments.min_latency,
    )


def filter_of(arguments: argparse.Namespace) -> PacketFilter | None:
    """Return the compiled filter; None if there is none.

    Raises:
        FilterError: it is wrong.
    """
    expression = " ".join(arguments.filter)
    if not expression.strip():
        return None
    return PacketFilter.compile(expression)


def inner_of(arguments: argparse.Namespace) -> PacketFilter | None:
    """Return the compiled filter for packets inside tunnels; None if there is none.

    Raises:
        FilterError: it is wrong.
    """
    if arguments.inner is None:
        return None
    try:
        compiled = PacketFilter.compile(arguments.inner)
    except FilterError as error:
        raise FilterError(f"--inner: {error}") from None
    if compiled.raw_ip_error is not None:
        note(
            "warning: --inner matches no packet that is not Ethernet, such as one in IPIP, GTP-U or"
            f" plain GRE: {compiled.raw_ip_error}"
        )
    return compiled


def announce(session: Session) -> None:
    """Print that packets are seen from now on; ``session`` says it if there is no program yet."""
    if session.programs:
        what = "program" if session.programs == 1 else "programs"
        note(f"tracing {session.programs} {what}; Ctrl-C ends")


def print_summary(session: Session) -> None:
    """Print what was captured at each point; ``session`` has stopped."""
    lines = list(summary(session.summary()))
    for line in lines or ["no packet matched"]:
        note(line)
