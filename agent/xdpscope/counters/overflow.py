# SPDX-License-Identifier: Apache-2.0
"""Sum the records of overflow devices over CPUs.

On 256 CPUs, one record has 130 KiB. So the agent sums records as it reads them, some at a time.
A sum has about 500 bytes, and four bytes for each CPU.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from xdpscope.counters.records import DeviceReading, Reading, pairs
from xdpscope.discovery.model import interface_name

_UNBOUND = 0xFFFFFFFF
"""No record has this index: see NO_INDEX of bpf/common/xdpscope.h."""


@dataclass(frozen=True, slots=True)
class OverflowReading:
    """One reading of overflow records, as arrays with one entry for each device."""

    identities: NDArray[np.uint64]  # serial number of the namespace << 32 | ifindex
    inodes: NDArray[np.uint32]  # of the namespaces
    names: NDArray[np.bytes_]  # when first seen
    counts: NDArray[np.uint64]  # as of DeviceReading, over all CPUs
    indices: NDArray[np.uint32]  # shape (devices, CPUs): of the record; _UNBOUND if there is none

    @classmethod
    def of(cls, records: NDArray[Any]) -> Self:
        """Sum the records of one or more devices: ``struct device_counts``, (devices, CPUs)."""
        bound = records["identity"] != 0
        first = np.arange(len(records)), bound.argmax(axis=1)
        # Sum every field as if it were a counter: this needs one pass over the memory.
        words = np.ascontiguousarray(records).view(np.uint64).reshape(*records.shape, -1)
        sums = words.sum(axis=1).view(records.dtype)[:, 0]
        return cls(
            records["identity"][first],
            records["netns"][first],
            records["name"][first],
            np.concatenate([pairs(sums["verdicts"])[:, None], pairs(sums["unaccounted"])], axis=1),
            np.where(bound, records["index"], np.uint32(_UNBOUND)),
        )

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Return all devices of one or more readings."""
        return cls(*map(np.concatenate, zip(*(part._arrays() for part in parts), strict=True)))

    def split(self, keys: NDArray[Any]) -> Iterator[tuple[int, Self]]:
        """Yield each key with its devices; ``keys`` has one key for each device."""
        order = np.argsort(keys, kind="stable")
        found, begins = np.unique(keys[order], return_index=True)
        bounds = pairwise([*begins, len(keys)])
        for key, (begin, end) in zip(found.tolist(), bounds, strict=True):
            yield key, type(self)(*(array[order[begin:end]] for array in self._arrays()))

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.identities, self.inodes, self.names, self.counts, self.indices

    def __len__(self) -> int:
        return len(self.identities)

    @property
    def bound(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the device and the CPU of each record in use."""
        devices, cpus = np.nonzero(self.indices != _UNBOUND)
        return devices, cpus

    @property
    def packets(self) -> NDArray[np.uint64]:
        """Return the number of packets of each device."""
        found: NDArray[np.uint64] = self.counts[:, 0, :, 0].sum(axis=1, dtype=np.uint64)
        return found

    def by_device(self) -> Reading:
        """Return the reading by device, as ``records.by_device`` does."""
        parts = (self.identities.tolist(), self.names.tolist(), self.inodes.tolist(), self.counts)
        return {
            (identity >> 32, identity & 0xFFFFFFFF): DeviceReading(
                interface_name(name), counts, inode
            )
            for identity, name, inode, counts in zip(*parts, strict=True)
            if identity
        }
