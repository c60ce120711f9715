# SPDX-License-Identifier: Apache-2.0
"""Counts of each CPU, from the records that the kernel has now.

The ledger keeps sums over CPUs only: a host has hundreds of CPUs and thousands of locations. So
these counts begin when the present tracer was attached, and are under the present names.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xdpscope.accounting.ledger import Place, PlaceOf
from xdpscope.accounting.reading import UNPLACED, VERDICTS, pairs
from xdpscope.discovery.model import interface_name

CpuCounts = NDArray[np.uint64]
"""Shape (CPUs, VERDICTS, 2): packets and bytes."""


def by_cpu(
    records: NDArray[Any], overflow: NDArray[Any] | None, place_of: PlaceOf
) -> dict[Place, CpuCounts]:
    """Return the counts of one target by location.

    Args:
        records: ``struct target_counts``, shape (CPUs,).
        overflow: ``struct device_counts`` of the same target, shape (devices, CPUs), if any.
        place_of: See the ledger. What has no location yet is left out.
    """
    devices = records["devices"]
    if overflow is not None:
        devices = np.concatenate([devices, overflow.T], axis=1)
    found: dict[Place, CpuCounts] = {}
    for cpu, number in np.argwhere(devices["identity"] != 0).tolist():
        device = devices[cpu, number]
        identity, inode = int(device["identity"]), int(device["netns"])
        name = interface_name(device["name"])
        place = place_of(identity >> 32, identity & 0xFFFFFFFF, inode, name)
        if place is not None:
            _of(found, place, len(devices))[cpu] += pairs(device["verdicts"])
    unplaced = pairs(records["unplaced"])
    place = place_of(*UNPLACED, 0, "")
    if unplaced.any() and place is not None:
        _of(found, place, len(devices))[...] += unplaced
    return found


def _of(found: dict[Place, CpuCounts], place: Place, cpus: int) -> CpuCounts:
    return found.setdefault(place, np.zeros((cpus, len(VERDICTS), 2), np.uint64))
