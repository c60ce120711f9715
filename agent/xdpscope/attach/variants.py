# SPDX-License-Identifier: Apache-2.0
"""The variants of the tracing programs, and which programs of a variant do what a target needs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from math import ceil, log2
from typing import Self

import numpy as np
from numpy.typing import NDArray

from xdpscope import bpf
from xdpscope.attach.spec import Spec
from xdpscope.libbpf import MapInfo, possible_cpus

WAYS = 4
"""The number of ways in a set."""


# The ways to read packets, the cheapest first.
_READERS = ("plain", "cast", "copy")


@dataclass(frozen=True, slots=True)
class FlowSizes:
    """Hold the sizes of the flow tables."""

    sets: int  # of each family, on each CPU: a power of two, at least 2
    sample_rate: int
    cpus: int = 0  # in plain arrays, the number of CPUs that have sets; 0: per-CPU arrays
    entries: int = (
        0  # `flows.max_entries`, from which the other sizes are calculated; 0: there is none
    )

    @classmethod
    def for_entries(cls, entries: int, sample_rate: int, online: int, possible: int) -> Self:
        """Return the sizes for a number of flows, over all CPUs.

        One CPU may have all flows, but the more CPUs there are, the less likely that is. The room
        on each CPU therefore shrinks as the number of CPUs grows to 32, and not further.

        Args:
            entries: ``flows.max_entries``.
            sample_rate: ``flows.sample_rate``.
            online: The number of CPUs that need sets, from the first CPU on.
            possible: The number of CPUs in a per-CPU array. The agent uses per-CPU arrays if this
                is at most twice ``online``.
        """
        slots = entries / max(1, min(online, 32) // 2)
        sets = 1 << max(1, ceil(log2(slots / WAYS)))
        return cls(sets, sample_rate, online if possible > 2 * online else 0, entries)

    @property
    def identity(self) -> tuple[int, int]:
        """Return what must be equal to adopt pinned tables. The number of CPUs may differ."""
        return self.sample_rate, self.entries or self.sets * WAYS

    def found_in(self, table: MapInfo, sets: int) -> Self:
        """Return the sizes of the tables of an earlier agent.

        Args:
            table: One of these tables.
            sets: The number of sets of each CPU.
        """
        return replace(self, sets=sets, cpus=0 if table.per_cpu else table.max_entries // sets)

    @property
    def first_sets(self) -> NDArray[np.uint64]:
        """Return the index of the first set of each possible CPU.

        For a CPU without sets, the index is the end of the table.
        """
        before = np.minimum(np.arange(possible_cpus(), dtype=np.uint64), np.uint64(self.cpus))
        return before * np.uint64(self.sets)


@dataclass(frozen=True, slots=True)
class Variant:
    """Hold the programs of one object that work together."""

    object: str
    first: str  # counts verdicts; attached first
    watches_devices: bool
    # The programs that replace the first one, in the order of attaching. ``rest_read_only`` is for
    # targets that never alter a packet.
    rest: tuple[str, ...] = ()
    rest_read_only: tuple[str, ...] = ()
    sampled_out: tuple[str, ...] = ()  # replaces ``rest`` while no packet is taken for flows

    @property
    def programs(self) -> tuple[str, ...]:
        """Return the programs that an agent needs at once."""
        return tuple(dict.fromkeys((self.first, *self.rest, *self.rest_read_only)))

    def programs_for(self, kind: Spec) -> tuple[str, ...]:
        """Return the programs of one of ``KINDS``."""
        return tuple(dict.fromkeys(chain(*self.ways(kind))))

    def way(self, spec: Spec, *, writes_packets: bool) -> tuple[str, ...]:
        """Return the programs that do what ``spec`` says, in the order of attaching.

        The first one is an fexit program, which counts.
        """
        if spec in Spec.VERDICTS:
            return (self.first,)
        if spec.kind is Spec.SAMPLED_OUT:
            return self.sampled_out or (self.first,)
        way = (self.rest if writes_packets else self.rest_read_only) or (self.first,)
        if spec.kind is not Spec.TIMES:
            return way
        names = tuple(f"{name}_timed" for name in way)
        return names if len(way) > 1 else (*names, "entry_time")

    def ways(self, spec: Spec) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the result of ``way`` for targets that alter packets, and for others."""
        return (
            self.way(spec, writes_packets=True),
            self.way(spec, writes_packets=False),
        )

    def id(self, sizes: FlowSizes | None) -> str:
        """Return the id of the pinned state. An agent adopts only a state with an equal id."""
        of_sizes = None if sizes is None else sizes.identity
        parts = bpf.path_of(self.object).read_bytes(), repr((self, of_sizes)).encode()
        return sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()[:16]


def variants(flows: FlowSizes | None, watch_devices: bool) -> Iterator[Variant]:
    """Yield the variants to try, the best first."""
    for watches in (True, False) if watch_devices else (False,):
        known = "by_epoch" if watches else "by_identity"
        if flows is None:
            yield Variant("verdicts", f"count_{known}", watches)
            continue
        sampled = flows.sample_rate > 1
        for reader in ("sampled",) if sampled else _READERS:
            leave = f"exit_flows_sampled_{known}" if sampled else f"exit_flows_{known}"
            # Attach the exit before the entry: see bpf/probes/flows.bpf.c.
            pair = leave, f"entry_flows_{reader}"
            alone = (f"exit_only_{reader}",) if watches else pair
            none = (f"exit_sampled_out_{known}",)
            yield Variant("flows", f"exit_verdicts_{known}", watches, pair, alone, none)
