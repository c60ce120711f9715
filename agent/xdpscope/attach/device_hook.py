# SPDX-License-Identifier: Apache-2.0
"""The hook that reports new devices to tracers, and whether the kernel still runs it.

Tracers recognise a device by its address, as long as the hook, ``device_appears`` in
``bpf/common/counting.h``, counts every device that appears. In some cases the kernel never runs the
hook, and reports no error: while ``kernel.ftrace_enabled`` is 0, and where the compiler has inlined
the hooked function. A device that moves would then keep its old location. While the hook is silent,
the agent marks its count as unreliable. Tracers then identify the device of each packet, which is
as exact and costs more.
"""

import time
from collections.abc import Set
from pathlib import Path

import numpy as np
import structlog

from xdpscope.kernel import netns
from xdpscope.libbpf import Map

_log = structlog.get_logger(__name__)

_FTRACE = Path("/proc/sys/kernel/ftrace_enabled")

# Seconds between two tests of a hook that failed one.
_PAUSE = 60.0

SILENT = "the hook on devices is silent: each packet's device is identified, which costs more"
"""The log message about it."""

_ONLY_KEY = b"\0\0\0\0"

# The distance from `epoch.now` to `epoch.kept` in counting.h while the hook is not trusted.
_APART = np.uint64(1 << 63)
# Added when the hook can be trusted again, so that no record remembers what follows: as many
# steps of the hook as 2**32 devices make.
_JUMP = np.uint64((0x9E3779B97F4A7C15 << 32) % (1 << 64))


def ftrace_is_off() -> bool:
    """Return whether the kernel runs no hook on its functions, by ``kernel.ftrace_enabled``."""
    try:
        return _FTRACE.read_text().strip() == "0"
    except OSError:  # this kernel cannot switch it off
        return False


class DeviceHook:
    """The hook of one engine, through the count that it advances."""

    def __init__(self, epoch: Map) -> None:
        """Take the map with the hook's count."""
        self._epoch = epoch
        self._devices: Set[tuple[int, int]] = frozenset()
        self._at_last_scan: tuple[np.uint64, np.uint64] | None = None
        self._again_at = 0.0
        self.failure = ""
        """Why the hook is not trusted; empty while it is."""

    @property
    def trusted(self) -> bool:
        """Return whether tracers recognise devices with the hook's help."""
        now, kept = self._read()
        return bool(now == kept)

    def test(self) -> bool:
        """Return whether the hook runs when a device appears: ``failure`` says why not.

        The device is the loopback of a network namespace that exists for a moment only.
        """
        if ftrace_is_off():
            self.failure = "kernel.ftrace_enabled is 0"
            return False
        before = self._read()
        try:
            netns.register_loopback()
        except OSError as error:
            self.failure = f"it cannot be tested: {error.strerror}"
            return False
        if self._read() == before:
            self.failure = "the kernel does not call it: raw_notifier_call_chain may be inlined"
            return False
        self.failure = ""
        return True

    def check(self, devices: Set[tuple[int, int]]) -> None:
        """Check for signs of silence, once a scan, and let tracers do without the hook if need be.

        Args:
            devices: The devices found by the scan, each by its namespace's serial number and its
                ifindex.
        """
        unnoticed = not devices <= self._devices and self._read() == self._at_last_scan
        retry = not self.trusted and time.monotonic() >= self._again_at
        if (ftrace_is_off() or unnoticed or retry) and self.decide():
            if self.trusted:
                _log.info("the hook on devices works again")
            else:
                _log.warning(SILENT, error=self.failure)
        self._devices, self._at_last_scan = devices, self._read()

    def decide(self) -> bool:
        """Test the hook, and have tracers trust it or not; return whether that is a change."""
        trusted, works = self.trusted, self.test()
        # While ftrace is off, asking whether it is on again costs nothing.
        self._again_at = 0.0 if ftrace_is_off() else time.monotonic() + _PAUSE
        if works == trusted:
            return False
        _, kept = self._read()
        with np.errstate(over="ignore"):
            now, kept = (kept + _JUMP,) * 2 if works else (kept + _APART, kept)
        self._epoch.update(_ONLY_KEY, np.array([now, kept]).tobytes())
        return True

    def _read(self) -> tuple[np.uint64, np.uint64]:
        """Return ``epoch.now`` and ``epoch.kept``."""
        now, kept = self._epoch.lookup(_ONLY_KEY).view(np.uint64)[0]
        return now, kept
