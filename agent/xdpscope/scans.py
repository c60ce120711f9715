# SPDX-License-Identifier: Apache-2.0
"""The record of scans: when the last one succeeded, and whether one hangs in the kernel.

The scan thread writes the record. Others read it without a lock. So a scan that hangs delays none
of its readers.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HangDetector", "ScanRecord", "ScanStatus"]

_log = structlog.get_logger(__name__)

# The last successful scan is too old when it is older than both of these.
_OVERDUE_SECONDS = 60.0
_OVERDUE_INTERVALS = 10
# A scan that takes longer hangs. The first scan of a host with 500 programs takes 16 s.
_HANG_SECONDS = 60.0
# Seconds from one check for a hang to the next.
_CHECK_SECONDS = 5.0
# Innermost functions that the log shows of each side.
_PYTHON_FRAMES = 3
_KERNEL_FRAMES = 6

_PACKAGE = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class ScanStatus:
    """The scans so far. Durations are in seconds."""

    last_success: float | None  # end of the last successful scan, Unix time
    age: float  # since then, or since the agent's start
    failures: int
    duration: float | None  # of the last scan that ended
    running: float | None  # how long the present scan, or loading, has been running
    interval: float  # discovery.interval

    @property
    def overdue(self) -> bool:
        """Return whether the last successful scan is too old."""
        return self.age > max(_OVERDUE_SECONDS, _OVERDUE_INTERVALS * self.interval)

    def __str__(self) -> str:
        text = "none yet" if self.last_success is None else f"{self.age:.0f} s ago"
        if not self.overdue:
            return text
        if self.running is not None and self.running > _HANG_SECONDS:
            return f"{text}, the present one hangs since {self.running:.0f} s: see the agent's log"
        return f"{text}, which is too old: see the agent's log"


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    began: float  # monotonic clock
    at: float  # Unix time


class ScanRecord:
    """The record of scans, written by the scan thread. Any thread reads it, and never waits."""

    def __init__(self) -> None:
        # Loading comes before the first scan, and may hang as well.
        self.running: _Running | None = _Running(time.monotonic(), time.time())
        self._failures = 0
        self._duration: float | None = None
        # Monotonic clock and Unix time. A change of the clock must not make a scan appear old.
        self._last: tuple[float, float | None] = time.monotonic(), None

    @contextmanager
    def scan(self) -> Iterator[None]:
        """Record the scan in the block: failed if the block raises."""
        self.running = running = _Running(time.monotonic(), time.time())
        try:
            yield
        except BaseException:
            self._failures += 1
            raise
        else:
            self._last = time.monotonic(), time.time()
        finally:
            self._duration = time.monotonic() - running.began
            self.running = None

    def status(self, interval: float) -> ScanStatus:
        """Return the status of this moment, for this ``discovery.interval``."""
        running, (last, at) = self.running, self._last
        now = time.monotonic()
        return ScanStatus(
            last_success=at,
            age=now - last,
            failures=self._failures,
            duration=self._duration,
            running=None if running is None else now - running.began,
            interval=interval,
        )


class HangDetector(threading.Thread):
    """The thread that logs that a scan hangs, once, and later that it has ended."""

    def __init__(self, record: ScanRecord) -> None:
        """Watch the scans of this record."""
        super().__init__(name="hang detector", daemon=True)
        self._record = record
        self._logged: _Running | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Check until stopped."""
        while not self._stopping.wait(_CHECK_SECONDS):
            self.check()

    def stop(self) -> None:
        """End the thread soon."""
        self._stopping.set()

    def check(self) -> None:
        """Log what has changed since the last check."""
        running, now = self._record.running, time.monotonic()
        if self._logged is not None and running is not self._logged:
            _log.warning("a scan that hung has ended", seconds=round(now - self._logged.began))
            self._logged = None
        if running is None or running is self._logged or now - running.began < _HANG_SECONDS:
            return
        self._logged = running
        _log.error(
            "a scan hangs: changes on this host are not seen until it ends",
            since=datetime.fromtimestamp(running.at, UTC).isoformat(timespec="seconds"),
            where=_positions(),
        )


def _positions() -> str:
    """Return the position, in our code and in the kernel, of all threads that scan or read.

    A scan may wait for another thread: one that it has started, or a reader that has the lock.
    """
    others = threading.main_thread(), threading.current_thread()
    found = [_position(each) for each in threading.enumerate() if each not in others]
    return "; ".join(filter(None, found))


def _position(thread: threading.Thread) -> str:
    """Return where a thread is; empty if it is nowhere in our code."""
    ours: list[str] = []
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and len(ours) < _PYTHON_FRAMES:
        code = frame.f_code
        if code.co_filename.startswith(_PACKAGE):
            file = code.co_filename.removeprefix(f"{_PACKAGE}/")
            ours.append(f"{file}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    if not ours:
        return ""
    return f"thread {thread.name} in {' < '.join(ours)}, kernel: {_in_kernel(thread.native_id)}"


def _in_kernel(task: int | None) -> str:
    """Return a task's state and the kernel functions that it is in, as far as /proc tells."""
    try:
        files = Path(f"/proc/self/task/{task}")
        state = (files / "stat").read_text().rpartition(") ")[2][:1]
        functions = (files / "wchan").read_text().strip("0\n")
    except OSError:
        return "unknown"
    try:
        # "[<0>] function+0x1a/0x30". Needs CAP_SYS_ADMIN, and CONFIG_STACKTRACE.
        stack = (files / "stack").read_text().splitlines()
    except OSError:
        stack = []
    if stack:
        names = [line.rpartition("] ")[2].partition("+")[0] for line in stack]
        functions = " < ".join(names[:_KERNEL_FRAMES])
    return f"state {state} {functions}".strip()
