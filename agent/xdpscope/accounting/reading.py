# SPDX-License-Identifier: Apache-2.0
"""From the records of ``bpf/xdpscope.h`` to counts by device, summed over CPUs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERDICTS = ("aborted", "drop", "pass", "tx", "redirect", "unknown")
"""In the order of ``enum verdict``."""


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """What a target did with the packets of one device since its tracer was attached."""

    name: str  # when it was first seen
    packets: tuple[int, ...]  # by verdict
    bytes: tuple[int, ...]


Reading = dict[tuple[int, int], DeviceReading]
"""By (namespace inode, ifindex); (0, 0) for packets that no device's place was left for."""

UNPLACED = (0, 0)


def by_device(records: NDArray[Any]) -> Reading:
    """Sums ``struct device_counts`` records, of any shape, into one reading."""
    used = records[records["identity"] != 0]
    if not used.size:
        return {}
    identities, first, where = np.unique(used["identity"], return_index=True, return_inverse=True)
    sums = np.zeros((len(identities), 2, len(VERDICTS)), np.uint64)
    np.add.at(sums[:, 0], where, used["verdicts"]["packets"])
    np.add.at(sums[:, 1], where, used["verdicts"]["bytes"])
    names = used["name"][first]
    return {
        (identity >> 32, identity & 0xFFFFFFFF): DeviceReading(
            name.decode(errors="replace"), tuple(packets), tuple(sizes)
        )
        for identity, name, (packets, sizes) in zip(
            identities.tolist(), names.tolist(), sums.tolist(), strict=True
        )
    }


def of_target(values: NDArray[Any]) -> Reading:
    """Sums every CPU's ``struct target_counts`` of one target."""
    reading = by_device(values["devices"])
    unplaced = values["unplaced"]
    if unplaced["packets"].any():
        reading[UNPLACED] = DeviceReading(
            "",
            tuple(unplaced["packets"].sum(axis=0).tolist()),
            tuple(unplaced["bytes"].sum(axis=0).tolist()),
        )
    return reading
