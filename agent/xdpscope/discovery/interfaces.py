# SPDX-License-Identifier: Apache-2.0
"""Interfaces and the XDP programs attached to them, over netlink."""

from collections.abc import Iterator
from dataclasses import dataclass
from errno import EAGAIN
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_DUMP_INTR

from xdpscope.discovery.model import Mode
from xdpscope.errors import KernelError

# rtnetlink(7): leave out the counters, which are most of an answer. Linux 4.6.
_RTEXT_FILTER_SKIP_STATS = 1 << 3

_ATTEMPTS = 10

# The attribute that carries each mode's program id. Linux 4.19.
_PROGRAM_OF = {
    Mode.NATIVE: "IFLA_XDP_DRV_PROG_ID",
    Mode.GENERIC: "IFLA_XDP_SKB_PROG_ID",
    Mode.OFFLOAD: "IFLA_XDP_HW_PROG_ID",
}


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface and the id of the program it runs in each mode."""

    index: int
    name: str
    programs: tuple[tuple[Mode, int], ...]


class InterfaceSource:
    """The interfaces of one network namespace: that of the thread that opens this.

    Iterating raises KernelError (EAGAIN) if they never hold still long enough.
    """

    def __init__(self) -> None:
        self._route = IPRoute()

    def close(self) -> None:
        """Closes the netlink socket."""
        self._route.close()

    def __iter__(self) -> Iterator[Interface]:
        for link in self._consistent():
            xdp = link.get("IFLA_XDP")
            found = [] if xdp is None else [(m, xdp.get(a)) for m, a in _PROGRAM_OF.items()]
            programs = tuple((mode, program) for mode, program in found if program)
            yield Interface(link["index"], link.get("IFLA_IFNAME"), programs)

    def _consistent(self) -> list[Any]:
        """All links in one state: a dump that changes overtook may lack some, or have one twice."""
        for _ in range(_ATTEMPTS):
            links = list(self._route.link("dump", ext_mask=_RTEXT_FILTER_SKIP_STATS))
            if not any(link["header"]["flags"] & NLM_F_DUMP_INTR for link in links):
                return links
        raise KernelError("interfaces change faster than they can be listed", EAGAIN)
