# SPDX-License-Identifier: Apache-2.0
"""Plain values about maps."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MapFacts:
    """One map. ``memory`` is in bytes; None if the kernel does not report it."""

    id: int
    name: str
    type: str  # libbpf's name, such as "lru_hash"
    max_entries: int
    memory: int | None


@dataclass(frozen=True, slots=True)
class ProgramMap:
    """One map that one program uses."""

    program_id: int
    program: str
    map_id: int


@dataclass(frozen=True, slots=True)
class MapReport:
    """All maps of one moment."""

    maps: tuple[MapFacts, ...] = ()
    # By map id. A map is missing if the kernel does not count its entries.
    entries: Mapping[int, int] = field(default_factory=dict)
    uses: tuple[ProgramMap, ...] = ()
