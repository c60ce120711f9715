# SPDX-License-Identifier: Apache-2.0
"""The lock between a scan and its readers: nobody waits for more than one step of another."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from xdpscope import read_lock
from xdpscope.errors import KernelError, ObserverBusyError
from xdpscope.read_lock import ReadLock, Work

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


def test_a_thread_that_waits_comes_before_one_that_takes_the_lock_again() -> None:
    lock, order = ReadLock(), []

    def reader() -> None:
        with lock.reading():
            order.append("reader")

    thread = threading.Thread(target=reader)
    with lock:
        thread.start()
        time.sleep(0.2)
    with lock:
        order.append("again")
    thread.join()
    assert order == ["reader", "again"]


def test_a_reader_that_gives_up_is_not_handed_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_lock, "_PATIENCE", 0.1)
    lock = ReadLock()

    def reader() -> None:
        with pytest.raises(ObserverBusyError), lock.reading():
            pass

    thread = threading.Thread(target=reader)
    with lock:
        thread.start()
        thread.join()
    with lock.reading():
        pass


def test_many_threads_exclude_each_other() -> None:
    lock, inside, most = ReadLock(), 0, 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(200):
            with lock.reading():
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


class Log:
    """Jobs that note their steps."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def job(self, name: str, steps: int = 3) -> Generator[None, None, str]:
        for number in range(steps):
            self.steps.append(f"{name}{number}")
            yield
        return name


def test_a_job_that_was_left_is_ended_by_the_next_thread() -> None:
    log, lock = Log(), ReadLock()
    work = Work(lock)
    turns = 0

    @contextmanager
    def once() -> Iterator[None]:
        nonlocal turns
        turns += 1
        if turns == 2:
            raise ObserverBusyError("as if the lock could not be had again")
        with lock:
            yield

    with pytest.raises(ObserverBusyError):
        work.do(lambda: log.job("a"), once)
    assert log.steps == ["a0"]
    assert work.do(lambda: log.job("b")) == "b"
    assert log.steps == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_who_began_a_job_gets_its_result_or_error_whoever_ends_it() -> None:
    log, work = Log(), Work(ReadLock())
    begun, ended = threading.Event(), threading.Event()
    found: list[str] = []

    def failing() -> Generator[None, None, str]:
        begun.set()
        yield
        # This thread may be the one that began the job, or the one that waits for the next job.
        raise KernelError("no", 12)

    def first() -> None:
        try:
            work.do(failing)
        except KernelError as error:
            found.append(str(error.errno))
        ended.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(10)
    assert work.do(lambda: log.job("b")) == "b"
    assert ended.wait(10)
    thread.join()
    assert found == ["12"]


def test_jobs_of_many_threads_are_done_one_after_the_other() -> None:
    log, work = Log(), Work(ReadLock())
    found: list[str] = []

    def many(name: str) -> None:
        for _ in range(50):
            found.append(work.do(lambda: log.job(name)))

    threads = [threading.Thread(target=many, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted("abcd" * 50)
    steps = log.steps
    assert all(
        steps[at + number] == f"{steps[at][0]}{number}"
        for at in range(0, len(steps), 3)
        for number in range(3)
    )


def test_the_lock_is_free_between_steps() -> None:
    lock = ReadLock()
    work, read = Work(lock), []

    def reader() -> None:
        with lock.reading():
            read.append(len(steps))

    steps: list[int] = []

    def job() -> Generator[None, None, None]:
        for number in range(3):
            steps.append(number)
            if number == 0:
                thread.start()
                time.sleep(0.2)
            yield

    thread = threading.Thread(target=reader)
    work.do(job)
    thread.join()
    assert read == [1]
