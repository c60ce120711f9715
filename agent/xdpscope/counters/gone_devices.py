# SPDX-License-Identifier: Apache-2.0
"""Find the devices that no longer exist, but still occupy slots in targets' own records."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set
from typing import NamedTuple

import numpy as np

from xdpscope.counters.device_names import DeviceNames
from xdpscope.counters.overflow_cleanup import QUIET
from xdpscope.counters.series_index import Seen
from xdpscope.counters.totals import Device


class _State(NamedTuple):
    since: float  # when a scan first did not find the device
    packets: int  # of a device in a namespace that no scan enters
    quiet_since: float  # when these packets last grew


class GoneDevices:
    """Follow the devices in targets' own records from scan to scan.

    A device that is wrongly found gone loses no packet. It may lose its slot to another device.
    """

    def __init__(self) -> None:
        self._known: dict[int, _State] = {}  # by identity

    def update(
        self,
        seen: Iterable[Seen],
        names: DeviceNames,
        packets_of: Callable[[Set[Device]], Generator[None, None, Mapping[Device, int]]],
        now: float,
        retention: float,
    ) -> Generator[None, None, set[int]]:
        """Return the identities of devices that have been gone for some time, in steps.

        Args:
            seen: The devices that have slots.
            names: The names as of the last scan.
            packets_of: Returns the packets of devices.
            now: Seconds of a monotonic clock.
            retention: Seconds for which the series of a device stay after it is gone. Until then,
                its flows keep their owner.
        """
        candidates = [*_candidates(seen, names)]
        yield
        uncertain = {_device(identity) for identity, certain in candidates if not certain}
        packets = (yield from packets_of(uncertain)) if uncertain else {}
        known: dict[int, _State] = {}
        gone: set[int] = set()
        for identity, certain in candidates:
            before = self._known.get(identity)
            count = 0 if certain else packets.get(_device(identity), 0)
            quiet_since = before.quiet_since if before and before.packets == count else now
            known[identity] = _State(before.since if before else now, count, quiet_since)
            if before is None:
                continue
            if now - before.since >= retention and (certain or now - quiet_since >= QUIET):
                gone.add(identity)
        self._known = known
        return gone


def _candidates(seen: Iterable[Seen], names: DeviceNames) -> Iterator[tuple[int, bool]]:
    """Yield the identities of devices that may be gone, and whether that is certain."""
    devices = list(seen)
    identities, first = np.unique(
        np.concatenate([np.empty(0, np.uint64), *(each.identities for each in devices)]),
        return_index=True,
    )
    inodes = np.concatenate([np.empty(0, np.uint32), *(each.inodes for each in devices)])
    for identity, inode in zip(identities.tolist(), inodes[first].tolist(), strict=True):
        serial, index = _device(identity)
        certain = names.has_gone(serial, index, inode)
        if certain or not names.in_view(serial):
            yield identity, certain


def _device(identity: int) -> Device:
    return identity >> 32, identity & 0xFFFFFFFF
