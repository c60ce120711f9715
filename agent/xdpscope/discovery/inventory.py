# SPDX-License-Identifier: Apache-2.0
"""Programs and interfaces put together into one snapshot."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Self

from xdpscope.discovery.model import Attachment, Role, Snapshot
from xdpscope.discovery.namespaces import NamespaceSource
from xdpscope.discovery.programs import ProgramList, ProgramSource
from xdpscope.kernel.netns import HOST


class Inventory:
    """Takes snapshots of the host. Not for use by two threads at once."""

    def __init__(self, namespaces: NamespaceSource | None = None) -> None:
        """Opens what it reads from.

        Args:
            namespaces: Where to look for interfaces; closed with this. Everywhere, if not given.
        """
        self._programs = ProgramSource()
        self._namespaces = namespaces or NamespaceSource()

    def close(self) -> None:
        self._namespaces.close()
        self._programs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def everywhere(self) -> bool:
        """Whether it looks into all network namespaces, or into our own alone."""
        return self._namespaces.everywhere

    @everywhere.setter
    def everywhere(self, wanted: bool) -> None:
        self._namespaces.everywhere = wanted

    def take(self) -> Snapshot:
        """What is there now.

        Raises:
            NotPermitted: for want of CAP_SYS_ADMIN.
        """
        # Interfaces first: a program that they name is then in the list, or gone.
        attachments: dict[int, list[Attachment]] = defaultdict(list)
        interfaces = {}
        namespaces = self._namespaces.read()
        for namespace in namespaces.seen:
            for interface in namespace.interfaces:
                place = namespace.name, interface.name
                interfaces[namespace.serial, interface.index] = place
                for mode, program_id in interface.programs:
                    attachments[program_id].append(Attachment(*place, mode))
        listed = self._programs.read()
        for id, targets in self._targets_of_extensions(listed).items():
            places = {at for target in targets for at in attachments.get(target, ())}
            if places:
                attachments[id] = list(places)
        return Snapshot(
            programs=listed.programs,
            attachments={id: tuple(sorted(at, key=_order)) for id, at in attachments.items()},
            holders=listed.holders,
            replaced=listed.replaced,
            interfaces=interfaces,
            namespaces={each.serial: (each.inode, each.name) for each in namespaces.seen},
            names=namespaces.names,
        )

    def _targets_of_extensions(self, listed: ProgramList) -> Mapping[int, frozenset[int]]:
        if listed.extends:
            return listed.extends
        # Before Linux 5.13 no link tells what it is on: an extension may be in any dispatcher.
        programs = listed.programs.values()
        dispatchers = frozenset(p.id for p in programs if p.role is Role.DISPATCHER)
        return {p.id: dispatchers for p in programs if p.extension}


def _order(at: Attachment) -> tuple[bool, Attachment]:
    """Our own namespace's first."""
    return at.netns != HOST, at
