# SPDX-License-Identifier: Apache-2.0
"""Check whether the kernel still runs the hook that reports new devices to tracers.

The hook is ``device_appears`` in ``bpf/common/counting.h``. It counts every device that appears.
Tracers recognise a device by its address as long as the hook runs. In two cases the kernel never
runs the hook, and reports no error: while ``kernel.ftrace_enabled`` is 0, and where the compiler
has inlined the hooked function. A device that moves would then keep its old location. While the
hook is silent, the agent marks its count as unreliable. Tracers then identify the device of each
packet. That is as exact, and costs more.
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

# Seconds between two tests of a hook that has failed a test.
_PAUSE = 60.0

SILENT = "the hook on devices is silent: each packet's device is identified, which costs more"
"""The log message about a silent hook."""

_ONLY_KEY = b"\0\0\0\0"

# The distance from `epoch.kept` to `epoch.now` in counting.h while the hook is not trusted.
_APART = np.uint64(1 << 63)
# The agent adds this when it can trust the hook again. No existing record then matches a
# later epoch. It is the distance that the hook advances for 2**32 devices.
_JUMP = np.uint64((0x9E3779B97F4A7C15 << 32) % (1 << 64))


def ftrace_is_off() -> bool:
    """Return whether ``kernel.ftrace_enabled`` is 0: the kernel then runs no hook on functions."""
    try:
        return _FTRACE.read_text().strip() == "0"
    except OSError:  # this kernel cannot switch it off
        return False


class DeviceHook:
    """Test and check the hook of one engine, by the count that the hook advances."""

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
        """Return whether tracers use the hook to recognise devices."""
        now, kept = self._read()
        return bool(now == kept)

    def test(self) -> bool:
        """Return whether the hook runs when a device appears. If not, set ``failure``.

        The test creates a network namespace for a moment. Its loopback is the new device.
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
        """Check for signs of a silent hook, once per scan. If there is one, test the hook.

        Args:
            devices: The devices that the scan found. Each is the serial number of its namespace
                and its ifindex.
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
        """Test the hook, and make tracers use it or not. Return whether that changed."""
        trusted, works = self.trusted, self.test()
        # While ftrace is off, the agent tries again at each scan. That check costs nothing.
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
