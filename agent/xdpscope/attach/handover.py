# SPDX-License-Identifier: Apache-2.0
"""Replace tracing programs of targets while packets pass, so that each packet counts once.

``struct control`` of ``bpf/common/xdpscope.h`` has the kernel's part. Between ``begin`` and
``end``, all tracing programs of all targets take a slower path. There, an exit does not count a
packet that the exit of the new programs has counted. At other times this costs no instruction.

Programs that take each packet for flows go another way for sampled packets by the same means.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from xdpscope.attach.spec import KINDS, Spec
from xdpscope.errors import VanishedError
from xdpscope.kernel import rcu
from xdpscope.libbpf import Map, Program

_ONLY_KEY = b"\0\0\0\0"
_WAYS = 4  # the number of a handover, modulo this, is an enum way
_KEY, _UNSAMPLED, _HANDOVERS, _RATE = range(4)  # struct control

# Seconds that the kernel may take to unload a detached program.
_PATIENCE = 1.0


class Handover:
    """Hold the control record that all tracing programs share.

    One thread begins and ends handovers.
    """

    def __init__(self, control: Map) -> None:
        """Continue the handover of an agent that ended within it, if there is one."""
        self._control = control
        self._changing = threading.Lock()
        self._sampled = False
        self._replaced: list[int] = []
        self.active = False
        """Whether ``begin`` was called, and ``end`` was not."""

    def begin(self, kind: Spec) -> None:
        """Let programs be replaced from now on. Again is no error.

        Args:
            kind: The kind of the new programs, one of ``KINDS``.

        Raises:
            KernelError: the control record cannot be read or written.
        """
        record, way = self._read(), KINDS.index(kind)
        if self.active and record[_KEY] % _WAYS == way:
            return
        self.end()
        number = int(record[_HANDOVERS]) + 1
        number += (way - number) % _WAYS
        self.active = True
        self._set({_KEY: number, _HANDOVERS: number})
        rcu.synchronize()

    def replaced(self, program_ids: Iterable[int]) -> None:
        """Record that these programs are detached, and that others have replaced them."""
        self._replaced += program_ids

    def end(self) -> None:
        """End the handover, once the kernel has unloaded what was replaced. Again is no error.

        Raises:
            KernelError: the control record cannot be read or written.
        """
        if not self._read()[_KEY]:
            self.active = False
            return
        until = time.monotonic() + _PATIENCE
        while any(map(_is_loaded, self._replaced)) and time.monotonic() < until:
            time.sleep(0.005)
        self._replaced.clear()
        rcu.synchronize()
        self._set({_KEY: 0})
        self.active = False

    def set_rate(self, rate: int) -> None:
        """Measure the time of one of this many packets.

        Raises:
            KernelError: the control record cannot be read or written.
        """
        self._set({_RATE: rate})

    def sample(self, sampled: bool) -> None:
        """Let programs that take each packet for flows sample packets, or not.

        Raises:
            KernelError: the control record cannot be read or written.
        """
        self._sampled = sampled
        self._set({})

    def _read(self) -> NDArray[np.uint32]:
        found: NDArray[np.uint32] = self._control.lookup(_ONLY_KEY)[0].view(np.uint32).copy()
        return found

    def _set(self, values: Mapping[int, int]) -> None:
        with self._changing:
            record = self._read()
            for at, value in values.items():
                record[at] = value
            record[_UNSAMPLED] = record[_KEY] or self._sampled
            self._control.update(_ONLY_KEY, record.tobytes()[: self._control.info.value_size])


def _is_loaded(program_id: int) -> bool:
    with suppress(VanishedError):
        Program.open(program_id).close()
        return True
    return False
