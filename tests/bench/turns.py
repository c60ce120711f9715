# SPDX-License-Identifier: Apache-2.0
"""A target whose packets are of many flows."""

import statistics
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.rig import Bench
from xdpscope.libbpf import Object

FLOWS = 10_000

_ENDLESS = (1 << 32) - 1  # each packet a flow of its own
# Each flow twice: the first packet puts it into the table.
_SETTLE = 2 * FLOWS
# More than twice as many as there are places.
_FILL = 140_000
# Where flows meet in the table is another matter each time: the means of all flows, and of these
# the median.
_SERIES, _RUNS = 20, FLOWS


class FlowBench(Bench):
    """A target whose runs take turns among flows."""

    def __init__(self, loaded: Object, function: str, packet: bytes, source: int) -> None:
        """``source`` is where in the packet the bytes are that the target changes."""
        super().__init__(loaded.program(function), function, packet)
        self._source = source
        self._length = _RUNS
        self._turns = loaded.map(".data")
        self.take_turns()

    def close(self) -> None:
        self._turns.close()
        self.program.close()

    def take_turns(self) -> None:
        """From now on there are FLOWS, known before anything is measured."""
        self._set(FLOWS, _SETTLE)

    def flood(self) -> None:
        """From now on each packet is of a new flow, and tables are full."""
        self._set(_ENDLESS, _FILL)

    def _set(self, flows: int, settle: int) -> None:
        self._turns.update(bytes(4), struct.pack("=II", 0, flows))
        self._settle = settle

    @contextmanager
    def gently(self) -> Iterator[None]:
        """Meanwhile in short series, after which another process has time for what it got of them.

        In longer ones (400 of xdpdump's runs on 7.2) it already runs before their end, and counts.
        """
        before = self._length, self.pause
        self._length, self.pause = 100, 0.2
        try:
            yield
        finally:
            self._length, self.pause = before

    def run(self, repeat: int) -> int:
        """Go on with the flow after that of the last run, as the runs of a series do."""
        last = self._turns.lookup(bytes(4))[0, :4].tobytes()
        self.packet = self.packet[: self._source] + last + self.packet[self._source + 4 :]
        return super().run(repeat)

    def settle(self) -> None:
        """Run until the flows are known, or tables full."""
        for _ in range(self._settle // self._length):
            self.series()

    def instructions(self) -> int:
        """Return what one run costs: the median of means."""
        self.series()
        return statistics.median_low(self.series() for _ in range(_SERIES))

    def series(self) -> int:
        """Return the mean cost of a run in one series."""
        time.sleep(self.pause)
        return self.run(self._length)
