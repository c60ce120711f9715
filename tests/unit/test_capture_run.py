# SPDX-License-Identifier: Apache-2.0
"""The loop of ``xdpscope capture``: files, rotation, errors, the flight recorder.

Records come from a program that a test run feeds; nothing is traced.
"""

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.kernel import pcapng
from tests.unit.test_pcapng import ABORTED, DROP, PASS, Source, source  # noqa: F401 - a fixture

from xdpscope.errors import XdpscopeError
from xdpscope.sessions import capture, events
from xdpscope.sessions.session import Device
from xdpscope.sessions.tracers import Plan

NAMES = ["eth7:main()@fentry", "eth7:main()@fexit"]


class FakeSession:
    """Stands for a session whose records come from ``source``."""

    def __init__(self, rings: object) -> None:
        self.stopped = False
        self.tracers = SimpleNamespace(rings=rings, plan=Plan(snaplen=96), losses=lambda: {})

    def target(self, number: int) -> object:
        return SimpleNamespace(program=SimpleNamespace(function="main", id=12, tag="0" * 16))

    def device(self, inode: int, index: int) -> Device:
        return Device("host", f"eth{index}")

    def stop(self) -> None:
        self.stopped = True


def both(source: Source, number: int, verdict: int = PASS) -> None:  # noqa: F811
    """Put a packet's entry and exit into a ring."""
    for point in (0, 1):
        while not source.put(2 * number + point, point=point, id=number, flags=point,
                             verdict=verdict):  # fmt: skip
            time.sleep(0.005)


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=action)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def run(source: Source, path: str, **options: object) -> tuple[FakeSession, list[str]]:  # noqa: F811
    notes: list[str] = []
    session = FakeSession(source.rings)
    rotating = "rotate_at" in options
    files = capture.Files(path, rotating=rotating, keep=int(options.pop("keep", 0)))  # type: ignore[call-overload]
    capture.run(session, files, note=notes.append, **options)  # type: ignore[arg-type]
    return session, notes


def test_count_counts_a_packet_once(source: Source, tmp_path: Path) -> None:  # noqa: F811
    for number in range(6):
        both(source, number)
    path = tmp_path / "x.pcapng"
    session, notes = run(source, str(path), count=4, seconds=30)
    file = pcapng.read(path)
    assert file.interfaces == NAMES
    assert [packet.id for packet in file.packets] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert session.stopped
    assert notes == [f"4 packets written to {path}"]
    assert path.stat().st_mode & 0o077 == 0


def test_files_are_rotated(source: Source, tmp_path: Path) -> None:  # noqa: F811
    with meanwhile(lambda: [both(source, number) for number in range(200)] and None):
        run(source, str(tmp_path / "x.pcapng"), rotate_at=4000, keep=3, seconds=3)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 3
    assert paths[0].name > "x-00003.pcapng"
    files = [pcapng.read(path) for path in paths]
    ids = [packet.id for file in files for packet in file.packets]
    assert ids == sorted(ids)
    assert ids[-1] == 199
    assert ids.count(190) == 2
    assert all(file.interfaces == NAMES for file in files)
    assert all(file.statistics.keys() == set(NAMES) for file in files)
    assert files[-1].statistics[NAMES[0]][8] == 200


def test_a_file_that_cannot_grow_ends_with_a_whole_block(
    source: Source,  # noqa: F811
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.pcapng"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for number in range(10):
        both(source, number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1501, limits[1]))
    try:
        with pytest.raises(XdpscopeError, match="File too large"):
            run(source, str(path), seconds=30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    packets = pcapng.read(path).packets
    assert [packet.id for packet in packets] == [number // 2 for number in range(len(packets))]
    assert packets


def test_a_directory_that_is_not_there_is_named(source: Source, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(XdpscopeError, match=r"cannot write .*/none/x: No such file"):
        run(source, str(tmp_path / "none" / "x"), seconds=30)


def recorder(event: str, last: int = 3) -> capture.Recorder:
    return capture.Recorder(last, events.parse(event))


def test_the_packets_before_an_event_are_written(source: Source, tmp_path: Path) -> None:  # noqa: F811
    for number in range(10):
        both(source, number)
    both(source, 10, verdict=ABORTED)
    path = tmp_path / "x.pcapng"
    _, notes = run(source, str(path), recorder=recorder("aborted"), seconds=30)
    file = pcapng.read(path)
    assert [packet.id for packet in file.packets] == [7, 7, 8, 8, 9, 9, 10, 10]
    assert notes == ["event: aborted", f"4 packets written to {path}"]


def test_a_signal_is_an_event(source: Source, tmp_path: Path) -> None:  # noqa: F811
    for number in range(10):
        both(source, number)
    path = tmp_path / "x.pcapng"

    def later() -> None:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGUSR1)

    with meanwhile(later):
        run(source, str(path), recorder=recorder("SIGUSR1"), seconds=30)
    assert [packet.id for packet in pcapng.read(path).at("fentry")] == [6, 7, 8, 9]


def test_without_an_event_nothing_is_written(source: Source, tmp_path: Path) -> None:  # noqa: F811
    for number in range(10):
        both(source, number)
    path = tmp_path / "x.pcapng"
    _, notes = run(source, str(path), recorder=recorder("tx"), seconds=0.5)
    assert pcapng.read(path).packets == []
    assert notes == [f"no event came: no packet is in {path}"]


@pytest.mark.parametrize("text", ["drop>5/s", "drop-ratio>20%"])
def test_a_rate_is_an_event(source: Source, tmp_path: Path, text: str) -> None:  # noqa: F811
    for number in range(9):
        both(source, number, verdict=DROP)
    path = tmp_path / "x.pcapng"
    began = time.monotonic()
    run(source, str(path), recorder=recorder(text), seconds=30)
    assert 1 <= time.monotonic() - began < 20
    assert len(pcapng.read(path).at("fexit")) == 4


@pytest.mark.parametrize("text", ["dropped", "drop>", "drop>x/s", "drop-ratio>100%", ""])
def test_events_that_do_not_exist(text: str) -> None:
    with pytest.raises(ValueError, match="none of these"):
        events.parse(text)


def test_rates_are_of_the_last_second() -> None:
    scan_thread = events.Trigger(events.parse("drop>10/s"), 0.0)
    assert not scan_thread.happened([0, 9, 0, 0, 0, 0], 1.0)
    assert not scan_thread.happened([0, 20, 0, 0, 0, 0], 1.5)
    assert not scan_thread.happened([0, 24, 0, 0, 0, 0], 2.5)
    assert scan_thread.happened([0, 40, 0, 0, 0, 0], 3.5)
