# SPDX-License-Identifier: Apache-2.0
"""Programs and interfaces put together into one snapshot."""

from collections import defaultdict
from typing import Self

from xdpscope.discovery.interfaces import InterfaceSource
from xdpscope.discovery.model import Attachment, Snapshot
from xdpscope.discovery.programs import ProgramSource
from xdpscope.kernel.netns import NamespaceNames, own_inode


class Inventory:
    """Takes snapshots of the host. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._names = NamespaceNames()
        self._own = own_inode()
        self._programs = ProgramSource()
        self._interfaces = InterfaceSource()

    def close(self) -> None:
        self._interfaces.close()
        self._programs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def namespace_name(self, inode: int) -> str:
        """The name of a network namespace as of the last snapshot."""
        return self._names(inode)

    def take(self) -> Snapshot:
        """What is there now.

        Raises:
            NotPermitted: for want of CAP_SYS_ADMIN.
        """
        self._names.refresh()
        # Interfaces first: a program that they name is then in the list, or gone.
        attachments: dict[int, list[Attachment]] = defaultdict(list)
        interfaces = {}
        netns = self._names(self._own)
        for interface in self._interfaces:
            interfaces[self._own, interface.index] = (netns, interface.name)
            for mode, program_id in interface.programs:
                attachments[program_id].append(Attachment(netns, interface.name, mode))
        programs, holders = self._programs.read()
        return Snapshot(
            programs=programs,
            attachments={id: tuple(sorted(at)) for id, at in attachments.items()},
            holders=holders,
            interfaces=interfaces,
        )
