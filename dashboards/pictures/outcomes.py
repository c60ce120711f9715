# SPDX-License-Identifier: Apache-2.0
"""Simulates what happens after the verdict: redirects that fail, and AF_XDP sockets that drop."""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any

from xdpscope.kernel.xdp_diag import REASONS
from xdpscope.probes.outcomes.tracepoints import Outcome

Course = Callable[[float], float]
Labels = dict[str, str]


@dataclass(frozen=True)
class Redirecting:
    """A program that redirects, and how many of its packets get lost afterwards."""

    id: int
    program: str
    netns: str
    interface: str
    to: str
    rate: Course
    failing: Course
    """Packets a second that ``to`` does not take, because it is down."""
    dropped: Course
    """Packets a second that the driver of ``to`` drops."""


@dataclass(frozen=True)
class Socket:
    """An AF_XDP socket; ``starved`` are packets a second for which its fill ring is empty."""

    inode: int
    interface: str
    queue: int
    pid: int
    comm: str
    starved: Course


def of_redirects(each: Redirecting, counted: Any, at: range) -> Iterator[Any]:
    """Yield the series of a program that redirects."""
    of = {"program_id": str(each.id), "program": each.program}
    location = {"netns": each.netns, "interface": each.interface}
    error = of | location | {"error": "ENETDOWN"}
    yield counted("xdp_redirect_errors_total", error, each.failing, at)
    way = {"netns": each.netns, "from_interface": each.interface, "to_interface": each.to}

    def sent(t: float) -> float:
        return max(0.0, each.rate(t) - each.failing(t) - each.dropped(t))

    for result, rate in (("sent", sent), ("dropped", each.dropped)):
        labels = way | {"result": result}
        yield counted("xdp_devmap_transmit_packets_total", labels, rate, at)


def of_interface(
    netns: str, interface: str, missing: Container[Outcome], made: Any
) -> Iterator[Any]:
    """Yield which outcomes the driver of an interface reports: all but ``missing``."""
    for outcome in Outcome:
        labels = {"netns": netns, "interface": interface, "outcome": str(outcome)}
        reported = int(outcome not in missing)
        yield made("xdp_outcome_supported", labels, lambda _, reported=reported: reported)


def of_socket(each: Socket, counted: Any, one: Any, at: range) -> Iterator[Any]:
    """Yield the series of an AF_XDP socket."""
    labels = {
        "socket": str(each.inode),
        "netns": "host",
        "interface": each.interface,
        "queue": str(each.queue),
    }
    yield one("xdp_socket_info", labels | {"pid": str(each.pid), "comm": each.comm})
    for reason in REASONS:
        starved = reason in ("rx_dropped", "fill_ring_empty")
        rate = each.starved if starved else lambda _: 0.0
        yield counted("xdp_socket_dropped_packets_total", labels | {"reason": reason}, rate, at)
