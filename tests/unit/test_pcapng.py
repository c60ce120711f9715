# SPDX-License-Identifier: Apache-2.0
"""Records of rings become pcapng that tshark reads. Needs BPF maps and test runs, no tracing."""

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from errno import EPERM
from pathlib import Path

import pytest
from tests.kernel import pcapng as pcapng_reader
from tests.kernel.programs import compiled

from xdpscope.errors import KernelError
from xdpscope.libbpf import Drained, Object, PacketRings, PcapngWriter, Program, Record
from xdpscope.libbpf.capture import RECORD_SIZE
from xdpscope.sessions import pcapng

SIZE = 60  # of each packet in records.bpf.c
RINGS = 3
ABORTED, DROP, PASS = 0, 1, 2

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is missing")


class Source:
    """Rings, and a program that fills them."""

    def __init__(self, program: Program, rings: PacketRings) -> None:
        self._program = program
        self.rings = rings
        self.sent: list[Record] = []

    def put(self, time: int, *, ring: int = 0, point: int = 0, id: int = 0, lost: int = 0,
            flags: int = 0, verdict: int = 0, ifindex: int = 7) -> bool:  # fmt: skip
        data = struct.pack("!QI", time, id).ljust(SIZE, b"\xaa")
        header = struct.pack(
            "=QQQIIIIIIIIHBBxxxx", time, id, 0, 1, ifindex, 9, 3, verdict, 2 * SIZE, SIZE, lost,
            ring, point, flags,
        )  # fmt: skip
        assert len(header) == RECORD_SIZE
        return self._program.test_run(header + data)[0] == PASS


@pytest.fixture
def source() -> Iterator[Source]:
    with ExitStack() as stack:
        try:
            rings = stack.enter_context(PacketRings(RINGS, 4096))
            loaded = stack.enter_context(Object(compiled("records")))
            loaded.load()
        except KernelError as error:
            if error.errno != EPERM:
                raise
            pytest.skip(f"this host does not allow BPF: {error.summary}")
        with loaded.map("rings") as outer:
            for number, each in enumerate(rings.maps):
                outer.update(struct.pack("=I", number), struct.pack("=i", each.fileno()))
        yield Source(stack.enter_context(loaded.program("record_packet")), rings)


def test_records_come_in_the_order_of_their_times(source: Source) -> None:
    for time, ring in ((10, 2), (30, 2), (20, 0), (15, 1), (40, 0), (35, 1)):
        assert source.put(time, ring=ring)
    found = source.rings.read()
    assert [record.time for record in found] == [10, 15, 20, 30, 35, 40]
    assert all(len(record.data) == SIZE for record in found)
    assert source.rings.read() == []


def test_a_record_of_the_future_waits(source: Source) -> None:
    source.put(1 << 62)
    assert source.rings.read() == []
    assert len(source.rings.read(all=True)) == 1


def test_a_ring_goes_round(source: Source) -> None:
    """Many times as much as it holds; what finds no room is refused, and nothing else is lost."""
    came = []
    put = []
    for number in range(1000):
        while not source.put(number):
            came += [record.time for record in source.rings.read()]
        put.append(number)
    came += [record.time for record in source.rings.read()]
    assert came == put


def drained(writer: PcapngWriter, source: Source) -> list[str]:
    """Write all that is in the rings; the names of the interfaces."""
    names: list[str] = []
    while (why := writer.drain(source.rings)) is not Drained.ALL:
        assert why is Drained.UNKNOWN
        record = writer.unknown
        name = f"eth{record.ifindex}:main()@{('fentry', 'fexit')[record.point]}"
        writer.put(pcapng.interface(name, pcapng.ETHERNET, 65535, comments=["program 12"]))
        writer.add_interface(record, len(names))
        names.append(name)
    return names


@needs_tshark
def test_tshark_reads_what_is_written(source: Source, tmp_path: Path) -> None:
    source.put(1_000, id=1, flags=0)
    source.put(2_000, ring=1, id=1, point=1, flags=1, verdict=1, lost=5)
    source.put(3_000, id=2, flags=0, ifindex=8)
    source.put(4_000, id=3, flags=2)
    path = tmp_path / "x.pcapng"
    with path.open("wb") as file, PcapngWriter() as writer:
        writer.open(file.fileno())
        writer.put(pcapng.section("xdpscope", "Linux"))
        names = drained(writer, source)
        for number in range(len(names)):
            writer.put(pcapng.statistics(number, 0, 1, matched=7, lost=5, written=2))
        writer.flush()
        assert writer.size == writer.whole == path.stat().st_size
    assert names == ["eth7:main()@fentry", "eth7:main()@fexit", "eth8:main()@fentry"]

    shown = subprocess.run(
        ["tshark", "-r", str(path), "-T", "json", "-x"], check=True, capture_output=True
    )
    packets = [each["_source"]["layers"] for each in json.loads(shown.stdout)]
    frames = [each["frame"] for each in packets]
    assert [each["frame.interface_id_tree"]["frame.interface_name"] for each in frames] == [
        names[0], names[1], names[2], names[0],
    ]  # fmt: skip
    assert [each["frame.packet_id"] for each in frames] == ["1", "1", "2", "3"]
    assert [each.get("frame.drop_count") for each in frames] == [None, "5", None, None]
    assert [each.get("frame.interface_queue") for each in frames] == ["3", "3", "3", None]
    assert [each["frame.len"] for each in frames] == [str(2 * SIZE)] * 4
    assert [each["frame.cap_len"] for each in frames] == [str(SIZE)] * 4
    directions = [each["frame.packet_flags_tree"]["frame.packet_flags_direction"]
                  for each in frames]  # fmt: skip
    assert [int(each, 0) for each in directions] == [1, 1, 1, 2]
    verdicts = [each.get("frame.verdict_tree", {}).get("frame.verdict.ebpf_xdp") for each in frames]
    assert verdicts == [None, str(DROP), None, None]
    raw = [bytes.fromhex(each["frame_raw"][0]) for each in packets]
    assert [struct.unpack_from("!QI", each) for each in raw] == [
        (1_000, 1), (2_000, 1), (3_000, 2), (4_000, 3),
    ]  # fmt: skip


def test_a_limit_counts_one_point(source: Source) -> None:
    for number in range(10):
        source.put(number, point=number % 2, id=number // 2)
    with PcapngWriter(limit=2, counted_point=1) as writer:
        fd = os.open(os.devnull, os.O_WRONLY)
        writer.open(fd)
        for point in (0, 1):
            record = Record(*(0, 0, 0, 1, 7, 9, 3, 0, 0, 0, 0, 0, point, 0, b""))
            writer.add_interface(record, point)
        assert writer.drain(source.rings) is Drained.LIMIT
        os.close(fd)
        assert writer.packets == 2
    assert source.rings.read()[0].id == 2


def test_whole_blocks_are_found_after_a_short_write(source: Source, tmp_path: Path) -> None:
    block = pcapng.interface("eth0", pcapng.ETHERNET, 96)
    path = tmp_path / "x"
    with path.open("wb") as file, PcapngWriter() as writer:
        writer.open(file.fileno())
        writer.put(block * 3)
        writer.flush()
        assert writer.whole == 3 * len(block)
        writer.put(block)
        assert writer.whole == 3 * len(block)


def test_the_last_records_are_kept_until_an_event(source: Source, tmp_path: Path) -> None:
    """``aborted`` is the event: the five packets before it are written, and it."""
    path = tmp_path / "x"
    with path.open("wb") as file, PcapngWriter() as writer:
        writer.open(file.fileno())
        writer.put(pcapng.section("xdpscope", "Linux"))
        writer.put(pcapng.interface("eth7:main()@fexit", pcapng.ETHERNET, SIZE))
        writer.add_interface(Record(*(0, 0, 0, 1, 7, 9, 3, 0, 0, 0, 0, 0, 1, 0, b"")), 0)
        writer.keep(6, events=1 << ABORTED)
        for number in range(20):
            source.put(number, point=1, id=number, flags=1, verdict=PASS)
            assert writer.drain(source.rings) is Drained.ALL
        source.put(20, point=1, id=20, flags=1, verdict=ABORTED)
        source.put(21, point=1, id=21, flags=1, verdict=PASS)
        assert writer.drain(source.rings) is Drained.EVENT
        assert writer.verdicts == [1, 0, 20, 0, 0, 0]
        writer.flush()
        assert pcapng_reader.read(path).packets == []
        writer.release()
        assert writer.drain(source.rings) is Drained.ALL
        writer.flush()
    assert [packet.id for packet in pcapng_reader.read(path).packets] == list(range(15, 22))
