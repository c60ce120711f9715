# SPDX-License-Identifier: Apache-2.0
"""The programs behind maps: what entries run, and what tail calls lead to."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from xdpscope.discovery.listing import Listing
from xdpscope.discovery.model import XdpProgram, interface_name
from xdpscope.errors import KernelError
from xdpscope.kernel import netns


class MapKind(IntEnum):
    """Maps that have programs in them; of ``enum bpf_map_type``."""

    PROG_ARRAY = 3
    DEVMAP = 14
    CPUMAP = 16
    DEVMAP_HASH = 25


@dataclass(frozen=True, slots=True)
class MapEntry:
    """A program in an entry of a map.

    ``device`` is (serial number of the namespace, ifindex) of the device to which a devmap's entry
    sends packets. ``name`` is its name and ``inode`` its namespace's inode. All are 0 for other
    maps.
    """

    map_id: int
    kind: MapKind
    program: int
    device: tuple[int, int]
    inode: int
    name: str


class MapEntries:
    """Walks all maps of the host with an iterator in the kernel, ``bpf/iterators/maps.bpf.c``."""

    def __init__(self) -> None:
        self._listing: Listing | None
        try:
            self._listing = Listing("maps", "entry_record")
        except KernelError:
            self._listing = None
        self._records: object = None
        self._entries: list[MapEntry] = []

    def close(self) -> None:
        """Unload the iterator."""
        if self._listing is not None:
            self._listing.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> list[MapEntry]:
        """Return the entries with programs; none where the kernel refuses the iterator.

        The result is the same list as the last time, if the entries are the same. At most 65,536
        entries of a map are read, and at most 800 programs returned.
        """
        if self._listing is None:
            return []
        records = self._listing.read()
        if records is not self._records:
            self._records = records
            by_cookie = netns.has_cookies()
            self._entries = [
                MapEntry(
                    map_id,
                    MapKind(kind),
                    program,
                    (serial if by_cookie else inode, index),
                    inode,
                    interface_name(name),
                )
                for map_id, kind, program, index, inode, name, serial in records.tolist()
            ]
        return self._entries


def tail_called(
    entries: Iterable[MapEntry],
    programs: Mapping[int, XdpProgram],
    in_service: Collection[int],
) -> dict[int, tuple[int, ...]]:
    """Return the callers of tail-called programs; see Snapshot.

    Args:
        entries: All entries with programs.
        programs: All programs, by id.
        in_service: The programs that packets reach by other ways.
    """
    leaves: dict[int, set[int]] = defaultdict(set)  # the prog arrays that each leaf is in
    for entry in entries:
        known = entry.program in programs and entry.program not in in_service
        if entry.kind is MapKind.PROG_ARRAY and known:
            leaves[entry.program].add(entry.map_id)
    # For each prog array: its callers, and the prog arrays that lead there through a leaf.
    arrays = set().union(*leaves.values())
    callers: dict[int, set[int]] = defaultdict(set)
    before: dict[int, set[int]] = defaultdict(set)
    for program in programs.values():
        for array in arrays.intersection(program.map_ids):
            if program.id in leaves:
                before[array] |= leaves[program.id]
            else:
                callers[array].add(program.id)
    roots = {array: _all_before(array, before, callers) for array in arrays}
    return {
        leaf: tuple(sorted(set().union(*(roots[array] for array in of_leaf))))
        for leaf, of_leaf in leaves.items()
    }


def _all_before(
    array: int, before: Mapping[int, set[int]], callers: Mapping[int, set[int]]
) -> set[int]:
    """Return the callers of this prog array, also through any number of other prog arrays."""
    found: set[int] = set()
    seen, ahead = {array}, [array]
    while ahead:
        at = ahead.pop()
        found |= callers.get(at, set())
        following = before.get(at, set()) - seen
        seen |= following
        ahead.extend(following)
    return found
