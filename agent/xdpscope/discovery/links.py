# SPDX-License-Identifier: Apache-2.0
"""Which program each tracing link puts onto which: fentry, fexit and freplace, anybody's."""

from collections.abc import Collection

from xdpscope.errors import Vanished
from xdpscope.libbpf import Link, LinkEnds


class TracingLinks:
    """Walks the kernel's links; what a link joins never changes and is asked for once."""

    def __init__(self) -> None:
        self._known: dict[int, LinkEnds] = {}
        self._found: Collection[LinkEnds] = []

    def read(self) -> Collection[LinkEnds]:
        """Every link whose target the kernel names; none before Linux 5.13.

        The same collection as the last time, if there are the same links.

        Each holds a reference on its target.

        Raises:
            NotPermitted: for want of CAP_SYS_ADMIN.
        """
        ids = list(Link.ids())
        if ids == list(self._known):
            return self._found
        known: dict[int, LinkEnds] = {}
        for id in ids:
            ends = self._known.get(id)
            if ends is None:
                try:
                    with Link.open(id) as link:
                        ends = link.ends()
                except Vanished:
                    continue
            known[id] = ends
        self._known = known
        self._found = [ends for ends in known.values() if ends.target]
        return self._found
