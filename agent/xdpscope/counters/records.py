# SPDX-License-Identifier: Apache-2.0
"""Sum the records of ``bpf/common/xdpscope.h`` over CPUs, to counts by device."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xdpscope.discovery.model import interface_name
from xdpscope.program_types.xdp import VERDICTS

REASONS = ("not_ip", "truncated", "sampled_out", "table_full")
"""The reasons why a packet is in no flow, in the order of ``enum reason``."""

Counts = NDArray[np.uint64]
"""Shape (1 + REASONS, VERDICTS, 2): all packets, then packets in no flow; packets and bytes."""


def no_counts() -> Counts:
    """Return counts that are all 0."""
    return np.zeros((1 + len(REASONS), len(VERDICTS), 2), np.uint64)


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """The counts of one target for one device, since the tracer was attached."""

    name: str  # when it was first seen
    counts: Counts
    inode: int  # of its network namespace


Reading = dict[tuple[int, int], DeviceReading]
"""By (serial number of the namespace, ifindex); (0, 0) has the packets of devices that found no
free record."""

UNPLACED = (0, 0)


def pairs(tallies: NDArray[Any]) -> NDArray[np.uint64]:
    """Return ``struct tally`` of any shape, with (packets, bytes) as the last axis."""
    return np.stack([tallies["packets"], tallies["bytes"]], axis=-1)


def sums(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the sum of all counters of each target; ``struct target_counts``, (targets, CPUs).

    Counters only grow, and by less than 2⁶⁴. So while the sum stays the same, no counter changes.
    """
    found = np.zeros(len(values), np.uint64)
    devices = values["devices"]
    for tallies in (devices["verdicts"], devices["unaccounted"], values["unplaced"]):
        for name in ("packets", "bytes"):
            column = tallies[name]
            found += column.sum(axis=tuple(range(1, column.ndim)), dtype=np.uint64)
    return found


def by_device(records: NDArray[Any]) -> Reading:
    """Sum ``struct device_counts`` of any shape into one reading."""
    used = records[records["identity"] != 0]
    if not used.size:
        return {}
    identities, first, where = np.unique(used["identity"], return_index=True, return_inverse=True)
    sums = np.zeros((len(identities), *no_counts().shape), np.uint64)
    np.add.at(sums[:, 0], where, pairs(used["verdicts"]))
    np.add.at(sums[:, 1:], where, pairs(used["unaccounted"]))
    names, inodes = used["name"][first].tolist(), used["netns"][first].tolist()
    return {
        (identity >> 32, identity & 0xFFFFFFFF): DeviceReading(interface_name(name), each, inode)
        for identity, name, inode, each in zip(
            identities.tolist(), names, inodes, sums, strict=True
        )
    }


def of_target(values: NDArray[Any]) -> Reading:
    """Sum the ``struct target_counts`` of one target over all CPUs."""
    reading = by_device(values["devices"])
    unplaced = values["unplaced"]
    if unplaced["packets"].any():
        counts = no_counts()
        counts[0] = pairs(unplaced).sum(axis=0)
        counts[1 + REASONS.index("table_full")] = counts[0]
        reading[UNPLACED] = DeviceReading("", counts, 0)
    return reading
