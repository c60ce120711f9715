# SPDX-License-Identifier: Apache-2.0
"""From the records of ``bpf/common/xdpscope.h`` to counts by device, summed over CPUs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xdpscope.discovery.model import interface_name
from xdpscope.program_types.xdp import VERDICTS

REASONS = ("not_ip", "truncated", "sampled_out", "table_full")
"""Why a packet is in no flow; in the order of ``enum reason``."""

Counts = NDArray[np.uint64]
"""Shape (1 + REASONS, VERDICTS, 2): all packets, then those in no flow; packets and bytes."""


def no_counts() -> Counts:
    """Noughts."""
    return np.zeros((1 + len(REASONS), len(VERDICTS), 2), np.uint64)


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """What a target did with the packets of one device since its tracer was attached."""

    name: str  # when it was first seen
    counts: Counts
    inode: int  # of its network namespace


Reading = dict[tuple[int, int], DeviceReading]
"""By (serial number of the namespace, ifindex); (0, 0) for packets of devices that no place
was left for."""

UNPLACED = (0, 0)


def pairs(tallies: NDArray[Any]) -> NDArray[np.uint64]:
    """``struct tally`` of any shape, as a last axis of (packets, bytes)."""
    return np.stack([tallies["packets"], tallies["bytes"]], axis=-1)


def sums(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Of each target, all of its counters added up; ``struct target_counts``, (targets, CPUs).

    They only grow, and by less than 2⁶⁴: so as long as the sum is the same, each of them is.
    """
    found = np.zeros(len(values), np.uint64)
    devices = values["devices"]
    for tallies in (devices["verdicts"], devices["unaccounted"], values["unplaced"]):
        for name in ("packets", "bytes"):
            column = tallies[name]
            found += column.sum(axis=tuple(range(1, column.ndim)), dtype=np.uint64)
    return found


def by_device(records: NDArray[Any]) -> Reading:
    """Sums ``struct device_counts`` records, of any shape, into one reading."""
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
    """Sums every CPU's ``struct target_counts`` of one target."""
    reading = by_device(values["devices"])
    unplaced = values["unplaced"]
    if unplaced["packets"].any():
        counts = no_counts()
        counts[0] = pairs(unplaced).sum(axis=0)
        counts[1 + REASONS.index("table_full")] = counts[0]
        reading[UNPLACED] = DeviceReading("", counts, 0)
    return reading
