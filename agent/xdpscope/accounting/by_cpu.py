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


def by_cpu(records: NDArray[Any], place_of: PlaceOf) -> dict[Place, CpuCounts]:
    """Return the counts of one target by location, without its overflow records.

    Args:
        records: ``struct target_counts``, shape (CPUs,).
        place_of: See the ledger. What has no location yet is left out.
    """
    devices = records["devices"]
    found: dict[Place, CpuCounts] = {}
    for cpu, number in np.argwhere(devices["identity"] != 0).tolist():
        device = devices[cpu, number]
        place = _place(device, place_of)
        if place is not None:
            _of(found, place, len(devices))[cpu] += pairs(device["verdicts"])
    unplaced = pairs(records["unplaced"])
    place = place_of(*UNPLACED, 0, "")
    if unplaced.any() and place is not None:
        _of(found, place, len(devices))[...] += unplaced
    return found


def add_overflow(found: dict[Place, CpuCounts], overflow: NDArray[Any], place_of: PlaceOf) -> None:
    """Add a target's overflow records to its counts by location.

    Args:
        found: What ``by_cpu`` returned of the same target.
        overflow: ``struct device_counts``, shape (devices, CPUs).
        place_of: As for ``by_cpu``.
    """
    for device in overflow:
        met = np.flatnonzero(device["identity"])
        if not len(met):
            continue
        place = _place(device[met[0]], place_of)
        if place is not None:
            _of(found, place, len(device))[met] += pairs(device["verdicts"][met])


def _place(device: Any, place_of: PlaceOf) -> Place | None:
    identity, inode = int(device["identity"]), int(device["netns"])
    return place_of(identity >> 32, identity & 0xFFFFFFFF, inode, interface_name(device["name"]))


def _of(found: dict[Place, CpuCounts], place: Place, cpus: int) -> CpuCounts:
    return found.setdefault(place, np.zeros((cpus, len(VERDICTS), 2), np.uint64))
