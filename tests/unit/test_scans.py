# SPDX-License-Identifier: Apache-2.0
"""Scans that fail, hang or keep the lock: what the agent still says, and when it is not healthy."""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from tests.unit.served import Served
from tests.waiting import wait_for

from xdpscope import read_lock, scans
from xdpscope.attach.reason import Selection
from xdpscope.config import Config
from xdpscope.errors import KernelError
from xdpscope.kernel import netns
from xdpscope.observer import Observer
from xdpscope.probes import RunningProbes
from xdpscope.probes.flows import FlowsProbe
from xdpscope.probes.latency import LatencyProbe
from xdpscope.probes.verdicts import VerdictsProbe
from xdpscope.scans import HangDetector, ScanRecord, ScanStatus
from xdpscope.source import AgentSource
from xdpscope.web.limits import Limits

if TYPE_CHECKING:
    from pathlib import Path

QUICK = 1.0
"""Seconds that readers wait for the lock here."""


@pytest.mark.parametrize(
    ("age", "interval", "overdue"),
    [(59, 0.5, False), (61, 5, True), (61, 7, False), (71, 7, True), (35_000, 3600, False)],
)
def test_a_scan_is_overdue_after_a_minute_and_ten_intervals(
    age: float, interval: float, overdue: bool
) -> None:
    assert ScanStatus(1.0, age, 0, 1.0, None, interval).overdue is overdue


def test_a_failed_scan_is_counted_and_no_success() -> None:
    record = ScanRecord()
    assert record.status(5).last_success is None
    began = time.time()
    with record.scan():
        assert record.status(5).running is not None
    first = record.status(5)
    assert first.last_success is not None and began <= first.last_success <= time.time()
    with suppress(KernelError), record.scan():
        raise KernelError("no", 12)
    second = record.status(5)
    assert (second.failures, second.last_success, second.running) == (1, first.last_success, None)
    assert second.age > first.age


def test_a_scan_that_hangs_is_logged_once_with_its_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens a FIFO, which the kernel keeps waiting for somebody who writes."""
    monkeypatch.setattr(scans, "_HANG_SECONDS", 0.2)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    record = ScanRecord()

    def scan() -> None:
        with suppress(OSError), record.scan():
            netns.enter(str(fifo), 0)

    thread = threading.Thread(target=scan, name="scan", daemon=True)
    detector = HangDetector(record)
    with capture_logs() as log:
        thread.start()
        detector.check()
        assert log == []
        time.sleep(0.3)
        for _ in range(3):
            detector.check()
        (entry,) = log
        assert entry["log_level"] == "error"
        assert "thread scan in kernel/netns.py:" in entry["where"]
        assert " enter, kernel: " in entry["where"]
        assert entry["since"].startswith("20")
        with fifo.open("w"):
            thread.join(10)
        for _ in range(3):
            detector.check()
        assert [each["event"] for each in log[1:]] == ["a scan that hung has ended"]
        # The next one is another.
        with record.scan():
            time.sleep(0.3)
            detector.check()
        assert len(log) == 3


class Watched:
    """In a scan thread's place: an observer whose lock a scan may hold."""

    def __init__(self) -> None:
        self.config = Config()
        self.scans = ScanRecord()
        engine = MagicMock(watches_devices=True, flow_sizes=None)
        engine.overflow.return_value = {}
        self.probes = RunningProbes([VerdictsProbe(), FlowsProbe(), LatencyProbe()])
        self.observer = Observer(engine, MagicMock(), Selection(), self.probes)


def metrics(served: Served) -> dict[tuple[str, str], float]:
    status, _, body = served.get("/metrics")
    assert status == 200
    return {
        (sample.name, sample.labels.get("collector", "")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_a_scan_that_hangs_with_the_lock_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_lock, "_PATIENCE", QUICK)
    scan_thread: Any = Watched()
    with scan_thread.scans.scan():
        pass
    served = Served(AgentSource(scan_thread), Limits())  # type: ignore[arg-type]
    success, last = "xdpscope_collector_success", "xdpscope_scan_last_success_timestamp_seconds"
    try:
        before = metrics(served)
        assert before[success, "verdicts"] == 1 and before[last, ""] > 1e9
        assert before["process_start_time_seconds", ""] > 1e9
        with scan_thread.observer._reader.lock:
            with capture_logs() as log:
                began = time.monotonic()
                during = metrics(served)
                assert time.monotonic() - began < 2, "each collector has waited for itself"
                metrics(served)
            # Once of each collector, and not with each scrape.
            failed = sorted(entry["collector"] for entry in log)
            assert failed == ["flows", "latency", "programs", "verdicts"]
            assert during[success, "verdicts"] == during[success, "programs"] == 0
            assert during[success, "scans"] == during[success, "agent"] == 1
            assert during[last, ""] == before[last, ""]

            page = served.get("/")[2].decode()
            assert re.search(r"Last scan</dt><dd>\d+ s ago</dd>", page)
            assert "keeps programs and flows from being read" in page
            assert "No XDP program is loaded" not in page
            assert served.get("/api/v1/programs")[0] == served.get("/api/v1/flows")[0] == 503
            assert served.get("/healthz")[0] == 200

            scan_thread.scans._last = time.monotonic() - 61, time.time() - 61
            status, _, body = served.get("/healthz")
            assert (status, body[:31]) == (503, b"last successful scan: 61 s ago,")
            assert "61 s ago, which is too old" in served.get("/")[2].decode()
        assert metrics(served)[success, "verdicts"] == 1
        assert served.get("/api/v1/programs")[0] == 200
        with scan_thread.scans.scan():
            pass
        assert served.get("/healthz")[0] == 200
    finally:
        served.stop()


def test_readers_wait_for_a_scan_that_does_not_hang() -> None:
    lock = read_lock.ReadLock()
    read = threading.Event()

    def reader() -> None:
        with lock.reading():
            read.set()

    with lock:
        thread = threading.Thread(target=reader, daemon=True)
        thread.start()
        time.sleep(0.5)
        assert not read.is_set()
    wait_for(read.is_set, 5)
