# SPDX-License-Identifier: Apache-2.0
"""Programs and interfaces put together into one snapshot."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Self, TypeVar

from xdpscope.discovery.maps import MapEntries, MapEntry, MapKind, tail_called
from xdpscope.discovery.model import Attachment, Mode, Role, Snapshot
from xdpscope.discovery.namespaces import Namespaces, NamespaceSource
from xdpscope.discovery.programs import ProgramList, ProgramSource
from xdpscope.discovery.retry import check_capability
from xdpscope.discovery.uppers import Uppers
from xdpscope.errors import KernelError
from xdpscope.kernel.netns import HOST

T = TypeVar("T")


class Reading(Generic[T]):
    """The last result of a source, used while the source fails."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._last: T | None = None

    def again(self, failures: list[KernelError | OSError]) -> T:
        """Read once more; add to ``failures`` if that cannot be, and return the last reading.

        Raises:
            KernelError: there is none.
            OSError: the same.
        """
        try:
            self._last = self._read()
        except (KernelError, OSError) as error:
            if self._last is None:
                raise
            if isinstance(error, KernelError):
                check_capability(error)
            failures.append(error)
        return self._last


class Inventory:
    """Takes snapshots of the host. Two threads must not use it concurrently."""

    def __init__(self, namespaces: NamespaceSource | None = None) -> None:
        """Open the sources.

        Args:
            namespaces: The source of interfaces, closed with this. If not given, all namespaces.
        """
        self._programs = ProgramSource()
        self._namespaces = namespaces or NamespaceSource()
        self._maps = MapEntries()
        self._programs_read = Reading(self._programs.read)
        self._namespaces_read = Reading(self._namespaces.read)
        self._maps_read = Reading(self._maps.read)
        self._found: object = None
        self._snapshot = Snapshot()
        self.failures: list[KernelError | OSError] = []
        """The errors of the last snapshot."""

    def close(self) -> None:
        self._maps.close()
        self._namespaces.close()
        self._programs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def everywhere(self) -> bool:
        """Return whether it scans all network namespaces, or only our own."""
        return self._namespaces.everywhere

    @everywhere.setter
    def everywhere(self, wanted: bool) -> None:
        self._namespaces.everywhere = wanted

    def take(self) -> Snapshot:
        """Return a snapshot; the same object as the last time, if nothing has changed since.

        If a part cannot be read, the snapshot has its last reading, and ``failures`` has the
        error.

        Raises:
            NotPermittedError: CAP_SYS_ADMIN is missing.
            KernelError: a part cannot be read, and never could.
            OSError: the same.
        """
        failures: list[KernelError | OSError] = []
        self.failures = failures
        # Interfaces and maps first: a program that they name is then in the list, or gone.
        found = (
            self._namespaces_read.again(failures),
            self._maps_read.again(failures),
            self._programs_read.again(failures),
        )
        if found != self._found:
            self._found, self._snapshot = found, self._put_together(*found)
        return self._snapshot

    def _put_together(
        self, namespaces: Namespaces, entries: list[MapEntry], listed: ProgramList
    ) -> Snapshot:
        attachments: dict[int, set[Attachment]] = defaultdict(set)
        interfaces = {}
        drivers: dict[tuple[str, str], str] = {}
        strips_vlan = set()
        above: dict[tuple[str, str], tuple[str, ...]] = {}
        for namespace in namespaces.seen:
            uppers = Uppers.of(namespace.interfaces)
            above.update({(namespace.name, name): up for name, up in uppers.names.items()})
            for interface in namespace.interfaces:
                interfaces[namespace.serial, interface.index] = namespace.name, interface.name
                if interface.driver:
                    drivers[namespace.name, interface.name] = interface.driver
                if interface.strips_vlan:
                    strips_vlan.add((namespace.name, interface.name))
                for mode, program_id in interface.programs:
                    attachments[program_id].update(
                        uppers.attachments(namespace.name, interface, mode)
                    )
        running = set()
        for entry in entries:
            if entry.kind is MapKind.CPUMAP:
                running.add(entry.program)
            elif entry.kind is not MapKind.PROG_ARRAY:
                elsewhere = namespaces.names.get(entry.inode, str(entry.inode)), entry.name
                location = interfaces.get(entry.device, elsewhere)
                attachments[entry.program].add(Attachment(*location, Mode.NATIVE))
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
            attachments={id: tuple(sorted(at, key=_order)) for id, at in attachments.items() if at},
            holders=listed.holders,
            claimed=listed.claimed,
            extensions=listed.extensions,
            chains=listed.chains,
            running=frozenset(running),
            tail_called=leaves,
            interfaces=interfaces,
            drivers=drivers,
            strips_vlan=frozenset(strips_vlan),
            uppers=above,
            namespaces={each.serial: (each.inode, each.name) for each in namespaces.seen},
            names=namespaces.names,
        )

    @staticmethod
    def _targets_of_extensions(listed: ProgramList) -> Mapping[int, Iterable[int]]:
        if listed.extended:
            return listed.extended
        # Before Linux 5.13 no link reports its target: an extension may be in any dispatcher.
        programs = listed.programs.values()
        dispatchers = frozenset(p.id for p in programs if p.role is Role.DISPATCHER)
        return {
            p.id: dispatchers for p in programs if p.extension and p.id not in listed.extensions
        }


def _order(at: Attachment) -> tuple[bool, str, str, bool, Attachment]:
    """Put our own namespace first, and a lower device after its upper one."""
    return at.netns != HOST, at.netns, at.via or at.interface, bool(at.via), at
