# SPDX-License-Identifier: Apache-2.0
"""Compute the counts of each CPU, from the records that the kernel has now.

The totals are sums over all CPUs, because a host has hundreds of CPUs and thousands of locations.
So the counts of a CPU begin when the current tracer was attached. They have the current names.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xdpscope.counters.records import UNPLACED, pairs
from xdpscope.counters.totals import Location, LocationOf
from xdpscope.discovery.model import interface_name
from xdpscope.program_types.xdp import VERDICTS

CpuCounts = NDArray[np.uint64]
"""Shape (CPUs, VERDICTS, 2): packets and bytes."""


def by_cpu(records: NDArray[Any], location_of: LocationOf) -> dict[Location, CpuCounts]:
    """Return the counts of one target by location, without its overflow records.

    Args:
        records: ``struct target_counts``, shape (CPUs,).
        location_of: See ``LocationOf``. The result omits devices without a known location.
    """
    devices = records["devices"]
    found: dict[Location, CpuCounts] = {}
    for cpu, number in np.argwhere(devices["identity"] != 0).tolist():
        device = devices[cpu, number]
        location = _location(device, location_of)
        if location is not None:
            _of(found, location, len(devices))[cpu] += pairs(device["verdicts"])
    unplaced = pairs(records["unplaced"])
    location = location_of(*UNPLACED, 0, "")
    if unplaced.any() and location is not None:
        _of(found, location, len(devices))[...] += unplaced
    return found


def add_overflow(
    found: dict[Location, CpuCounts], overflow: NDArray[Any], location_of: LocationOf
) -> None:
    """Add a target's overflow records to its counts by location.

    Args:
        found: The result of ``by_cpu`` for the same target.
        overflow: ``struct device_counts``, shape (devices, CPUs).
        location_of: As for ``by_cpu``.
    """
    for device in overflow:
        met = np.flatnonzero(device["identity"])
        if not len(met):
            continue
        location = _location(device[met[0]], location_of)
        if location is not None:
            _of(found, location, len(device))[met] += pairs(device["verdicts"][met])


def _location(device: Any, location_of: LocationOf) -> Location | None:
    identity, inode = int(device["identity"]), int(device["netns"])
    return location_of(identity >> 32, identity & 0xFFFFFFFF, inode, interface_name(device["name"]))


def _of(found: dict[Location, CpuCounts], location: Location, cpus: int) -> CpuCounts:
    return found.setdefault(location, np.zeros((cpus, len(VERDICTS), 2), np.uint64))
