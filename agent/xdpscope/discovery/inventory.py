# SPDX-License-Identifier: Apache-2.0
"""Programs and interfaces put together into one snapshot."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Self

from xdpscope.discovery.interfaces import InterfaceSource
from xdpscope.discovery.maps import MapEntries, MapKind, tail_called
from xdpscope.discovery.model import Attachment, Mode, Role, Snapshot
from xdpscope.discovery.programs import ProgramList, ProgramSource
from xdpscope.kernel.netns import NamespaceNames, own_inode


class Inventory:
    """Takes snapshots of the host. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._names = NamespaceNames()
        self._own = own_inode()
        self._programs = ProgramSource()
        self._interfaces = InterfaceSource()
        self._maps = MapEntries()

    def close(self) -> None:
        self._maps.close()
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
        # Interfaces and maps first: a program that they name is then in the list, or gone.
        attachments: dict[int, set[Attachment]] = defaultdict(set)
        interfaces = {}
        netns = self._names(self._own)
        for interface in self._interfaces.read():
            interfaces[self._own, interface.index] = (netns, interface.name)
            for mode, program_id in interface.programs:
                attachments[program_id].add(Attachment(netns, interface.name, mode))
        entries = self._maps.read()
        running = set()
        for entry in entries:
            if entry.kind is MapKind.CPUMAP:
                running.add(entry.program)
            elif entry.kind is not MapKind.PROG_ARRAY:
                inode, _ = entry.device
                place = interfaces.get(entry.device, (self._names(inode), entry.name))
                attachments[entry.program].add(Attachment(*place, Mode.NATIVE))
        listed = self._programs.read()
        extended = self._targets_of_extensions(listed)
        leaves = tail_called(
            entries, listed.programs, attachments.keys() | running | extended.keys()
        )
        for id, targets in extended.items():
            for target in targets:
                attachments[id] |= attachments.get(target, set())
                if target in running or target in leaves:
                    running.add(id)
        return Snapshot(
            programs=listed.programs,
            attachments={id: tuple(sorted(at)) for id, at in attachments.items() if at},
            holders=listed.holders,
            replaced=listed.replaced,
            chains=listed.chains,
            running=frozenset(running),
            tail_called=leaves,
            interfaces=interfaces,
        )

    @staticmethod
    def _targets_of_extensions(listed: ProgramList) -> Mapping[int, Iterable[int]]:
        if listed.chains:
            return {id: [at.dispatcher for at in chain] for id, chain in listed.chains.items()}
        # Before Linux 5.13 no link tells what it is on: an extension may be in any dispatcher.
        programs = listed.programs.values()
        dispatchers = frozenset(p.id for p in programs if p.role is Role.DISPATCHER)
        return {p.id: dispatchers for p in programs if p.extension}
