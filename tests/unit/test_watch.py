# SPDX-License-Identifier: Apache-2.0
"""The scan thread: which events end a wait, and which do not."""

import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from errno import EAGAIN, EIO, ENOMEM, EPERM
from types import SimpleNamespace
from typing import Self

import pytest
from tests.waiting import wait_for

from xdpscope import agent
from xdpscope.agent import Watch
from xdpscope.config import Config, Discovery
from xdpscope.discovery.model import Snapshot
from xdpscope.errors import KernelError, NotPermitted
from xdpscope.kernel import capabilities

REST = 60.0
CONFIG = Config(discovery=Discovery(interval=REST))


class Looks:
    """In an observer's place: counts them."""

    def __init__(self) -> None:
        self.looked = True
        self.unfinished = 0
        self.snapshot = Snapshot()
        self.postponed = False
        self.count = threading.Semaphore(0)
        self.failure: Exception | None = None
        self.narrowed_by: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def look(self, linger: float, follow_up: float) -> None:
        self.count.release()
        if self.failure is not None:
            raise self.failure

    def narrow(self, *_: object, **__: object) -> None:
        self.narrowed_by = threading.current_thread()

    def interrupt(self) -> None:
        pass


class Tired:
    """A limiter with which each scan is followed by the longest wait."""

    def rest(self, *_: float) -> float:
        return REST


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, looks: Looks) -> None:
    """Have a Watch observe by ``looks``."""
    engine = SimpleNamespace(watches_devices=True)
    monkeypatch.setattr(agent, "Engine", lambda *_, **__: nullcontext(engine))
    monkeypatch.setattr(agent, "Inventory", lambda _: nullcontext())
    monkeypatch.setattr(agent, "Observer", lambda *_: looks)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, host: None, looks: Looks) -> Iterator[Watch]:
    """Yield the thread after its first scan, while it waits."""
    monkeypatch.setattr(agent, "Pace", Tired)
    watch = Watch(CONFIG)
    watch.start()
    try:
        assert looks.count.acquire(timeout=REST / 2)
        yield watch
    finally:
        watch.stop()
        watch.join(REST / 2)
    assert watch.failure is None


def test_a_reload_does(watch: Watch, looks: Looks) -> None:
    watch.reconfigure(replace(CONFIG))
    assert looks.count.acquire(timeout=REST / 2)
    # Who waits for the lock of a scan that hangs must not be who serves.
    assert looks.narrowed_by is watch


def test_a_change_on_the_host_does_not(watch: Watch, looks: Looks) -> None:
    watch.look_soon()
    assert not looks.count.acquire(timeout=0.5)


def test_the_end_does(watch: Watch) -> None:
    began = time.monotonic()
    watch.stop()
    watch.join(REST)
    assert not watch.is_alive() and time.monotonic() - began < REST / 2


@pytest.mark.parametrize("error", [KernelError("", EAGAIN), OSError(ENOMEM, ""), OSError(EIO, "")])
@pytest.mark.usefixtures("host")
def test_a_first_scan_is_repeated_if_its_failure_may_pass(looks: Looks, error: Exception) -> None:
    looks.looked, looks.failure = False, error
    watch = Watch(Config(discovery=Discovery(interval=0.1)))
    watch.start()
    try:
        for _ in range(3):
            assert looks.count.acquire(timeout=10)
        assert watch.scans.status(1).failures >= 2
        looks.failure = None
        wait_for(lambda: watch.scans.status(1).last_success is not None, 10)
    finally:
        watch.stop()
        watch.join(10)
    assert watch.failure is None


@pytest.mark.usefixtures("host")
def test_without_the_capability_the_agent_ends(
    monkeypatch: pytest.MonkeyPatch, looks: Looks
) -> None:
    monkeypatch.setattr(capabilities, "effective", frozenset)
    looks.looked, looks.failure = False, NotPermitted("", EPERM)
    watch = Watch(CONFIG)
    watch.start()
    watch.join(10)
    assert watch.failure is looks.failure
