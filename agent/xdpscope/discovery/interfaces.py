# SPDX-License-Identifier: Apache-2.0
"""Interfaces and the XDP programs attached to them, over netlink."""

from collections.abc import Iterator
from dataclasses import dataclass

from pyroute2 import IPRoute

from xdpscope.discovery.model import Mode

# rtnetlink(7): leave out the counters, which are most of an answer. Linux 4.6.
_RTEXT_FILTER_SKIP_STATS = 1 << 3

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
    """The interfaces of one network namespace: that of the thread that opens this."""

    def __init__(self) -> None:
        self._route = IPRoute()

    def close(self) -> None:
        """Closes the netlink socket."""
        self._route.close()

    def __iter__(self) -> Iterator[Interface]:
        for link in self._route.link("dump", ext_mask=_RTEXT_FILTER_SKIP_STATS):
            xdp = link.get("IFLA_XDP")
            found = [] if xdp is None else [(m, xdp.get(a)) for m, a in _PROGRAM_OF.items()]
            programs = tuple((mode, program) for mode, program in found if program)
            yield Interface(link["index"], link.get("IFLA_IFNAME"), programs)
