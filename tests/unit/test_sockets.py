# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets: what the kernel says is decoded, and series begin and end as scrapers need it."""

import os
import socket
import struct
from collections.abc import Iterator
from errno import ENOENT

import pytest
from structlog.testing import capture_logs

from xdpscope.config import Outcomes
from xdpscope.counters.clients import READER
from xdpscope.discovery.model import Snapshot
from xdpscope.errors import KernelError
from xdpscope.kernel import xdp_diag
from xdpscope.kernel.xdp_diag import REASONS
from xdpscope.probes import Scan, sockets
from xdpscope.probes.sockets import SocketsProbe
from xdpscope.probes.sockets.owners import SocketOwners
from xdpscope.probes.sockets.report import XdpSocket
from xdpscope.probes.sockets.source import SocketSource

SCAN = Scan(Snapshot())
TOTAL = "xdp_socket_dropped_packets_total"


def opened(inode: int, drops: int = 0, cookie: int = 0, queue: int = 0) -> XdpSocket:
    counts = (drops, 0, 0, drops, 0, 0)
    return XdpSocket(
        inode, cookie or inode, "host", "eth0", queue, 0, counts, 64, 0, 64, 64, zero_copy=False
    )


class Source(SocketSource):
    """What there is, as a test says."""

    def __init__(self) -> None:
        self.sockets: list[XdpSocket] = []
        self.error: KernelError | None = None

    def read(self, snapshot: Snapshot) -> list[XdpSocket]:
        if self.error is not None:
            raise self.error
        return list(self.sockets)


class Shown:
    """A probe, its source, and what a client sees."""

    def __init__(self, retention: float = 3600) -> None:
        self.source = Source()
        self.probe = SocketsProbe(self.source, retention)

    def scan(self, *sockets: XdpSocket) -> None:
        self.source.sockets = list(sockets)
        self.probe.update(SCAN)

    def drops(self, client: str = "prometheus") -> dict[str, float]:
        """By socket, for the reason fill_ring_empty."""
        READER.set(client)
        return {
            sample.labels["socket"]: sample.value
            for family in self.probe.collect()
            for sample in family.samples
            if sample.name == TOTAL and sample.labels["reason"] == "fill_ring_empty"
        }

    def infos(self) -> list[str]:
        return [
            sample.labels["socket"]
            for family in self.probe.collect()
            for sample in family.samples
            if sample.name == "xdp_socket_info"
        ]


@pytest.fixture
def shown() -> Iterator[Shown]:
    yield Shown()
    READER.set("")


def test_socket_older_than_the_agent_shows_its_counts_at_once(shown: Shown) -> None:
    shown.scan(opened(7, drops=5))
    assert shown.drops() == {"7": 5}


def test_new_socket_starts_at_0_until_every_scraper_has_seen_it(shown: Shown) -> None:
    shown.scan()
    assert shown.drops("one") == shown.drops("two") == {}
    shown.scan(opened(7, drops=5))
    assert shown.drops("one") == {"7": 0}
    shown.scan(opened(7, drops=6))
    assert shown.drops("one") == {"7": 0}  # the other one has not seen it
    assert shown.drops("two") == {"7": 0}
    assert shown.drops("one") == shown.drops("two") == {"7": 6}


def test_closed_socket_keeps_its_counts_and_loses_its_info() -> None:
    shown = Shown(retention=3600)
    shown.scan(opened(7, drops=5), opened(8, drops=1))
    shown.scan(opened(8, drops=2))
    assert shown.drops() == {"7": 5, "8": 2}
    assert shown.infos() == ["8"]
    assert [each.inode for each in shown.probe.sockets()] == [8]
    shown = Shown(retention=0)
    shown.scan(opened(7, drops=5))
    shown.scan()
    assert shown.drops() == {}


def test_new_socket_with_the_inode_of_a_closed_one_has_its_series(shown: Shown) -> None:
    shown.scan(opened(7, drops=5, cookie=1))
    shown.scan(opened(7, drops=2, cookie=2))
    assert shown.drops() == {"7": 0}
    assert shown.drops() == {"7": 2}
    assert shown.infos() == ["7"]


def test_socket_that_is_missing_once_goes_on(shown: Shown) -> None:
    shown.scan(opened(7, drops=5))
    shown.scan()
    shown.scan(opened(7, drops=6))
    assert shown.drops() == {"7": 6}
    assert shown.infos() == ["7"]


def test_too_many_sockets_keep_the_known_ones(
    shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "SOCKETS_LIMIT", 2)
    shown.scan(opened(8), opened(9))
    with capture_logs() as logs:
        shown.scan(opened(7), opened(8), opened(9))
        shown.scan(opened(7), opened(8), opened(9))
    assert sorted(shown.infos()) == ["8", "9"]
    assert [log["omitted"] for log in logs] == [1]


def test_switched_off_and_on_again(shown: Shown) -> None:
    shown.scan(opened(7, drops=5))
    shown.probe.reconfigure(Outcomes(enabled=False))
    shown.scan(opened(7, drops=6))
    assert shown.drops() == {}
    shown.probe.reconfigure(Outcomes(enabled=True))
    shown.scan(opened(7, drops=9))
    assert shown.drops() == {"7": 9}


@pytest.mark.parametrize("has_sockets", [True, False])
def test_missing_module_is_logged_once(
    shown: Shown, monkeypatch: pytest.MonkeyPatch, has_sockets: bool
) -> None:
    monkeypatch.setattr(sockets, "has_xdp_sockets", lambda: has_sockets)
    shown.source.error = KernelError("listing AF_XDP sockets failed", ENOENT)
    with capture_logs() as logs:
        shown.scan()
        shown.scan()
    assert len(logs) == has_sockets
    assert all("modprobe xsk_diag" in log["hint"] for log in logs)
    assert all(log["log_level"] == "info" for log in logs)


def test_answer_of_the_kernel_is_decoded() -> None:
    def attribute(type: int, data: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(data), type) + data

    umem = struct.pack("=Q8I", 1 << 20, 3, 256, 4096, 0, 12, 1, 1, 2)
    message = struct.pack("=BBHIQ", 44, 3, 0, 4711, 99) + b"".join(
        (
            attribute(1, struct.pack("=II", 12, 1)),
            attribute(2, struct.pack("=I", 1000)),
            attribute(3, struct.pack("=I", 2048)),
            attribute(5, umem),
            attribute(6, struct.pack("=I", 4096)),
            attribute(7, struct.pack("=I", 1024)),
            attribute(9, struct.pack("=6Q", 1, 2, 3, 4, 5, 6)),
        )
    )
    found = xdp_diag._decode(message)
    assert (found.inode, found.cookie, found.ifindex, found.queue) == (4711, 99, 12, 1)
    assert (found.uid, found.rx_ring, found.tx_ring) == (1000, 2048, 0)
    assert (found.fill_ring, found.completion_ring, found.zero_copy) == (4096, 1024, True)
    assert dict(zip(REASONS, found.drops, strict=True)) == {
        "rx_dropped": 1,
        "rx_invalid": 2,
        "rx_ring_full": 3,
        "fill_ring_empty": 4,
        "tx_invalid": 5,
        "tx_ring_empty": 6,
    }


def test_owner_is_found_and_forgotten() -> None:
    series_index = SocketOwners()
    with socket.socket(socket.AF_UNIX) as held:
        inode = os.fstat(held.fileno()).st_ino
        assert series_index.of([inode, 1])[inode].pid == os.getpid()
        assert series_index.of([inode]).keys() == {inode}
    assert series_index.of([inode]) == {}
