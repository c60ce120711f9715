# SPDX-License-Identifier: Apache-2.0
"""Programs and interfaces put together into one snapshot."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Self

from xdpscope.discovery.interfaces import InterfaceSource
from xdpscope.discovery.model import Attachment, Role, Snapshot
from xdpscope.discovery.programs import ProgramList, ProgramSource
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
        for interface in self._interfaces.read():
            interfaces[self._own, interface.index] = (netns, interface.name)
            for mode, program_id in interface.programs:
                attachments[program_id].append(Attachment(netns, interface.name, mode))
        listed = self._programs.read()
        for id, targets in self._targets_of_extensions(listed).items():
            places = {at for target in targets for at in attachments.get(target, ())}
            if places:
                attachments[id] = list(places)
        return Snapshot(
            programs=listed.programs,
            attachments={id: tuple(sorted(at)) for id, at in attachments.items()},
            holders=listed.holders,
            replaced=listed.replaced,
            interfaces=interfaces,
        )

    def _targets_of_extensions(self, listed: ProgramList) -> Mapping[int, frozenset[int]]:
        if listed.extends:
            return listed.extends
        # Before Linux 5.13 no link tells what it is on: an extension may be in any dispatcher.
        programs = listed.programs.values()
        dispatchers = frozenset(p.id for p in programs if p.role is Role.DISPATCHER)
        return {p.id: dispatchers for p in programs if p.extension}
