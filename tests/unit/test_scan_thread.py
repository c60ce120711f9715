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

from xdpscope import scanner
from xdpscope.config import Config, Discovery
from xdpscope.discovery.model import Snapshot
from xdpscope.errors import KernelError, NotPermittedError
from xdpscope.kernel import capabilities
from xdpscope.report import TracerCost
from xdpscope.scanner import ScanThread

REST = 60.0
CONFIG = Config(discovery=Discovery(interval=REST))


class Scans:
    """In an observer's place: counts them."""

    def __init__(self) -> None:
        self.scanned = True
        self.unfinished = 0
        self.snapshot = Snapshot()
        self.postponed = False
        self.count = threading.Semaphore(0)
        self.failure: Exception | None = None
        self.reconfigured_by: threading.Thread | None = None
        self.usual_sample_rate = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def scan(self, retention: float, follow_up: float) -> None:
        self.count.release()
        if self.failure is not None:
            raise self.failure

    def costs(self) -> list[TracerCost]:
        return []

    def reconfigure(self, *_: object, **__: object) -> None:
        self.reconfigured_by = threading.current_thread()

    def interrupt(self) -> None:
        pass


class Tired:
    """A limiter with which each scan is followed by the longest wait."""

    def rest(self, *_: float) -> float:
        return REST


@pytest.fixture
def scans() -> Scans:
    return Scans()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, scans: Scans) -> None:
    """Have a ScanThread observe by ``scans``."""
    engine = SimpleNamespace(watches_devices=True)
    monkeypatch.setattr(scanner, "Engine", lambda *_, **__: nullcontext(engine))
    monkeypatch.setattr(scanner, "Inventory", lambda _: nullcontext())
    monkeypatch.setattr(scanner, "Observer", lambda *_, **__: scans)


@pytest.fixture
def scan_thread(monkeypatch: pytest.MonkeyPatch, host: None, scans: Scans) -> Iterator[ScanThread]:
    """Yield the thread after its first scan, while it waits."""
    monkeypatch.setattr(scanner, "ScanLimiter", Tired)
    scan_thread = ScanThread(CONFIG)
    scan_thread.start()
    try:
        assert scans.count.acquire(timeout=REST / 2)
        yield scan_thread
    finally:
        scan_thread.stop()
        scan_thread.join(REST / 2)
    assert scan_thread.failure is None


def test_a_reload_does(scan_thread: ScanThread, scans: Scans) -> None:
    scan_thread.reconfigure(replace(CONFIG))
    assert scans.count.acquire(timeout=REST / 2)
    # Who waits for the lock of a scan that hangs must not be who serves.
    assert scans.reconfigured_by is scan_thread


def test_a_change_on_the_host_does_not(scan_thread: ScanThread, scans: Scans) -> None:
    scan_thread.scan_soon()
    assert not scans.count.acquire(timeout=0.5)


def test_the_end_does(scan_thread: ScanThread) -> None:
    began = time.monotonic()
    scan_thread.stop()
    scan_thread.join(REST)
    assert not scan_thread.is_alive() and time.monotonic() - began < REST / 2


@pytest.mark.parametrize("error", [KernelError("", EAGAIN), OSError(ENOMEM, ""), OSError(EIO, "")])
@pytest.mark.usefixtures("host")
def test_a_first_scan_is_repeated_if_its_failure_may_pass(scans: Scans, error: Exception) -> None:
    scans.scanned, scans.failure = False, error
    scan_thread = ScanThread(Config(discovery=Discovery(interval=0.1)))
    scan_thread.start()
    try:
        for _ in range(3):
            assert scans.count.acquire(timeout=10)
        assert scan_thread.scans.status(1).failures >= 2
        scans.failure = None
        wait_for(lambda: scan_thread.scans.status(1).last_success is not None, 10)
    finally:
        scan_thread.stop()
        scan_thread.join(10)
    assert scan_thread.failure is None


@pytest.mark.usefixtures("host")
def test_without_the_capability_the_agent_ends(
    monkeypatch: pytest.MonkeyPatch, scans: Scans
) -> None:
    monkeypatch.setattr(capabilities, "effective", frozenset)
    scans.scanned, scans.failure = False, NotPermittedError("", EPERM)
    scan_thread = ScanThread(CONFIG)
    scan_thread.start()
    scan_thread.join(10)
    assert scan_thread.failure is scans.failure
