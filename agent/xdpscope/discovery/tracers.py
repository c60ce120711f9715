# SPDX-License-Identifier: Apache-2.0
"""How many tracers, ours or anybody's, are on each program."""

from collections import Counter

from xdpscope.errors import Vanished
from xdpscope.libbpf import Link


class TracerCount:
    """Walks the kernel's links; what a link is on never changes and is asked for once."""

    def __init__(self) -> None:
        self._targets: dict[int, int] = {}

    def read(self) -> Counter[int]:
        """Program id to the number of tracing links (fentry, fexit, freplace) on it.

        Each holds a reference on its program.

        Raises:
            NotPermitted: for want of CAP_SYS_ADMIN.
        """
        known: dict[int, int] = {}
        for id in Link.ids():
            target = self._targets.get(id)
            if target is None:
                try:
                    with Link.open(id) as link:
                        target = link.target()
                except Vanished:
                    continue
            known[id] = target
        self._targets = known
        return Counter(known.values())
