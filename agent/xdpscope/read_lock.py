# SPDX-License-Identifier: Apache-2.0
"""A lock for one scan thread and many readers, and work that holds it in short steps only."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from xdpscope.errors import ObserverBusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

T = TypeVar("T")

if TYPE_CHECKING:
    # Yields wherever others may have the lock, and returns a result.
    Steps: TypeAlias = Generator[None, None, T]

__all__ = ["ReadLock", "Work"]

# Seconds that a reader waits. Prometheus gives up a scrape after ten.
_PATIENCE = 5.0
# The same limit for readers after one that gave up: a scrape reads three times in sequence.
_NO_PATIENCE = 0.1
# Seconds for which the scan leaves a job to a reader before it takes steps again.
_TO_READERS = 0.1


class ReadLock:
    """A lock. ``with lock`` waits for as long as it takes, ``with lock.reading()`` does not.

    Whoever releases it hands it to the thread that has waited longest. A thread that takes the lock
    again and again therefore keeps nobody waiting for more than one turn.
    """

    def __init__(self) -> None:
        self._state = threading.Lock()  # guards the two below
        self._held = False
        self._waiting: deque[threading.Lock] = deque()  # each is locked until its thread's turn
        self._given_up = False

    def _acquire(self, timeout: float = -1) -> bool:
        with self._state:
            if not self._held:
                self._held = True
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=timeout):
            return True
        with self._state:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return False
        return True  # it was handed over just now

    def _release(self) -> None:
        with self._state:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False

    @property
    def wanted(self) -> bool:
        """Whether another thread waits."""
        return bool(self._waiting)

    def __enter__(self) -> None:
        self._acquire()

    def __exit__(self, *_: object) -> None:
        self._given_up = False
        self._release()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            ObserverBusyError: others have held it for some seconds.
        """
        if not self._acquire(_NO_PATIENCE if self._given_up else _PATIENCE):
            self._given_up = True
            raise ObserverBusyError("a scan is busy for long, and keeps others from reading")
        try:
            self._given_up = False
            yield
        finally:
            self._release()


class _Job(Generic[T]):
    """Work that is to be done."""

    def __init__(self, begin: Callable[[], Steps[T]]) -> None:
        self.ended = threading.Event()
        self._begin = begin
        self._steps: Steps[T] | None = None
        self._result: list[T] = []
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.ended.is_set()

    def step(self) -> None:
        try:
            if self._steps is None:
                self._steps = self._begin()
            next(self._steps)
        except StopIteration as end:
            self._result = [end.value]
            self.ended.set()
        except BaseException as error:  # noqa: BLE001 - raised again in ``result``
            self._error = error
            self.ended.set()

    def result(self) -> T:
        """Return what the work returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result[0]


class Work:
    """Long work on what a lock guards: one job at a time, and the lock is held for a step only.

    A thread that needs a job done takes its steps itself, after those of the jobs that others have
    asked for before. So nobody waits for more than a step of another thread, and a thread that
    gives up leaves nothing half done. The scan leaves its steps to a reader that waits: the reader
    then need not wait again after each of them.
    """

    def __init__(self, lock: ReadLock) -> None:
        """Have nothing to do yet."""
        self._lock = lock
        self._jobs: deque[_Job[Any]] = deque()  # in the order of asking; the first is under way

    def do(
        self,
        begin: Callable[[], Steps[T]],
        hold: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> T:
        """Have a job done; return its result, or raise what it raised.

        Args:
            begin: Returns the steps of the job. Called when its turn has come, with the lock held.
            hold: Holds the lock, for a reader; the lock itself, for the scan, if not given.
        """
        mine = _Job(begin)
        first: _Job[Any] = mine
        waits = left = False
        while not mine.done:
            if left:
                first.ended.wait(_TO_READERS)
            with hold() if hold is not None else self._lock:
                if not waits:
                    waits = True
                    self._jobs.append(mine)
                if mine.done:
                    break
                first = self._jobs[0]
                first.step()
                if first.done:
                    self._jobs.popleft()
                left = hold is None and self._lock.wanted
        return mine.result()
