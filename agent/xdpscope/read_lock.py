# SPDX-License-Identifier: Apache-2.0
"""A lock for one scan thread and many readers, who give up when the scan hangs with it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xdpscope.errors import ObserverBusyError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ReadLock"]

# Seconds that a reader waits. Prometheus gives up a scrape after ten.
_PATIENCE = 5.0
# The same for readers after one that gave up: a scrape reads three times, one after the other.
_NO_PATIENCE = 0.1


class ReadLock:
    """A lock. ``with lock`` waits for as long as it takes, ``with lock.reading()`` does not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._given_up = False
        self._lock.release()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            ObserverBusyError: others have held it for some seconds.
        """
        if not self._lock.acquire(timeout=_NO_PATIENCE if self._given_up else _PATIENCE):
            self._given_up = True
            raise ObserverBusyError("a scan is busy for long, and keeps others from reading")
        try:
            self._given_up = False
            yield
        finally:
            self._lock.release()
