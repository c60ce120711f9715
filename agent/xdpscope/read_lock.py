# SPDX-License-Identifier: Apache-2.0
"""Provide a lock for one scan thread and many readers, and do work in short steps under it."""

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
    # A generator that yields where other threads may take the lock, and returns a result.
    Steps: TypeAlias = Generator[None, None, T]

__all__ = ["ReadLock", "Work"]

# Seconds that a reader waits. Prometheus aborts a scrape after ten.
_PATIENCE = 5.0
# The limit in seconds for readers after one reader gave up. A scrape reads three times in sequence.
_NO_PATIENCE = 0.1
# Seconds for which the scan leaves a job to a waiting reader, before it takes steps again.
_TO_READERS = 0.1


class ReadLock:
    """Lock for one thread at a time.

    ``with lock`` waits without a limit. ``with lock.reading()`` waits for a limited time.

    A release hands the lock to the thread that has waited longest. A thread that takes the lock
    again and again therefore delays each other thread by at most one turn.
    """

    def __init__(self) -> None:
        self._state = threading.Lock()  # guards _held and _waiting
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
        return True  # the releasing thread has just handed the lock over

    def _release(self) -> None:
        with self._state:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False

    @property
    def wanted(self) -> bool:
        """Return whether another thread waits."""
        return bool(self._waiting)

    def __enter__(self) -> None:
        self._acquire()

    def __exit__(self, *_: object) -> None:
        self._given_up = False
        self._release()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the lock as a reader.

        Raises:
            ObserverBusyError: other threads have held the lock for some seconds.
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
    """Hold the steps of one piece of work, and its result."""

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
        """Return the result of the work, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._result[0]


class Work:
    """Do long jobs on data that a lock guards, one job at a time, and hold the lock per step.

    A thread that requests a job takes its steps itself. Before that, it takes the steps of the jobs
    that other threads requested earlier. No thread therefore waits for more than one step of
    another thread. A thread that gives up leaves no job unfinished. The scan leaves its steps to a
    waiting reader. The reader then does not wait again after each step.
    """

    def __init__(self, lock: ReadLock) -> None:
        """Create an empty queue of jobs."""
        self._lock = lock
        self._jobs: deque[_Job[Any]] = deque()  # in the order of requests; the first has begun

    def do(
        self,
        begin: Callable[[], Steps[T]],
        hold: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> T:
        """Do a job. Return its result, or raise its error.

        Args:
            begin: Returns the steps of the job. It is called with the lock held, when the job is
                the first in the queue.
            hold: Returns a context that holds the lock for a reader. None: the caller is the scan.
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
