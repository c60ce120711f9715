# SPDX-License-Identifier: Apache-2.0
"""Give the slots of devices that no longer exist to other devices.

A target's own record has slots for a few devices, and packets of other devices cost twice as much.
Only the tracers change slots, each on its own CPU: see ``give_slot_back`` of
``bpf/common/counting.h``. The agent tells them which devices no longer exist, and when they may
move counts.
"""

import secrets
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xdpscope.errors import KernelError
from xdpscope.libbpf import Map

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps

_ONLY_KEY = b"\0\0\0\0"

# Seconds that a move of a record may take: a CPU may be interrupted within it.
_PATIENCE = 0.05

# The number of entries of the list that one step writes.
_WRITTEN_IN_STEP = 8


class Vacancies:
    """Hold the list of devices that no longer exist, and stop moves of records during readings."""

    def __init__(self, gone: Map, number: Map, moves: Map) -> None:
        """Take the maps ``gone``, ``vacancies`` and ``moves``. No record moves until ``publish``.

        With pins, the maps may have the list of an earlier agent. It stays until ``publish``.
        """
        self._gone = gone
        self._number = number
        self._moves = moves
        self._published = set(gone.items()[0].view(np.uint64).reshape(-1).tolist())
        # Tracers remember the number of the list that they have searched in vain. They may know
        # the numbers of an earlier agent.
        self._last = secrets.randbits(32)
        self._readings = 0
        self._moves_done = 0  # records that had moved when this was last read
        self.still = False
        """Whether it is certain that no record moves."""
        self._set_number(0)

    def publish(self, identities: Set[int]) -> "Steps[None]":
        """Let tracers give the slots of these devices to others, and no slots of other devices.

        Raises:
            KernelError: the list cannot be written. The tracers may use a part of it.
        """
        wanted = set(islice(identities, self._gone.info.max_entries))
        changes = [*(self._published - wanted), *(wanted - self._published)]
        for number, identity in enumerate(changes, start=1):
            if identity in wanted:
                self._gone.update(_key(identity), bytes(self._gone.info.value_size))
                self._published.add(identity)
            else:
                self._gone.delete(_key(identity))
                self._published.discard(identity)
            if number % _WRITTEN_IN_STEP == 0:
                yield
        if not self._readings:
            self._allow()

    @property
    def moves(self) -> int:
        """Return how many records have moved so far, with any agent."""
        if not self.still:
            self._moves_done = int(self._counts()[1])
        return self._moves_done

    @contextmanager
    def reading(self) -> Iterator[bool]:
        """Let no record move in the body. Yield False if one may still move.

        Readings may be nested. One thread at a time uses this.
        """
        self._readings += 1
        try:
            if not self.still:
                with suppress(KernelError):
                    self._set_number(0)
                    self.still = self._has_stopped()
            yield self.still
        finally:
            self._readings -= 1
            if not self._readings:
                with suppress(KernelError):  # the next reading tries again
                    self._allow()

    def _allow(self) -> None:
        """Let records move, if there is a slot for another device."""
        if self._published:
            self._last = self._last % 0xFFFFFFFF + 1
            self.still = False
            self._set_number(self._last)

    def _has_stopped(self) -> bool:
        """Return whether no record is moving any more, after a short wait if necessary."""
        end = time.monotonic() + _PATIENCE
        while True:
            started, done = self._counts()
            if started == done:
                self._moves_done = int(done)
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.0005)

    def _counts(self) -> NDArray[np.uint64]:
        found: NDArray[np.uint64] = self._moves.lookup(_ONLY_KEY)[0].view(np.uint64)[:2].copy()
        return found

    def _set_number(self, number: int) -> None:
        self._number.update(_ONLY_KEY, np.uint32(number).tobytes())


def _key(identity: int) -> bytes:
    return np.uint64(identity).tobytes()
