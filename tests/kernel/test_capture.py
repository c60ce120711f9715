# SPDX-License-Identifier: Apache-2.0
"""``xdpscope capture`` writes every packet once at entry and once at exit, byte for byte."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.kernel import pcapng
from tests.kernel.conftest import kernel
from tests.kernel.lab import Lab, frame, settled_objects
from tests.kernel.namespaces import namespace
from tests.kernel.sessions import (
    ABORT,
    DECAPSULATE,
    DROP,
    ENCAPSULATE,
    KEEP,
    REWRITE,
    Command,
    instructed,
    running,
)

needs_fragments = pytest.mark.skipif(
    kernel() < (5, 18), reason="the program needs multi-buffer XDP (5.18)"
)

ABORTED, DROPPED, PASSED, SENT = 0, 1, 2, 3


def after(what: int, sent: bytes) -> tuple[bytes, int]:
    """What ``does_as_told`` makes of a frame, and its verdict."""
    if what == REWRITE:
        return sent[:30] + bytes((10, 0, 0, 2)) + sent[34:], PASSED
    if what == ENCAPSULATE:
        length = int.from_bytes(sent[16:18], "big") + 20
        outer = bytes((0x45, 0)) + length.to_bytes(2, "big") + bytes(4) + bytes((64, 4, 0, 0))
        return sent[:14] + outer + bytes((10, 0, 0, 1, 10, 0, 0, 2)) + sent[14:], SENT
    if what == DECAPSULATE:
        inner = sent[:14] + sent[34:]
        number = int.from_bytes(inner[18:20], "big")
        return inner, PASSED if number % 100 else DROPPED
    return sent, {KEEP: PASSED, DROP: DROPPED, ABORT: ABORTED}[what]


@needs_fragments
@pytest.mark.every_kernel
@pytest.mark.parametrize("number", [20, pytest.param(200, marks=pytest.mark.nightly)])
def test_each_packet_once_at_entry_and_once_at_exit(lab: Lab, tmp_path: Path, number: int) -> None:
    veth = lab.veth("xst0", mtu=9000)
    lab.attach(lab.load("does_as_told", "sessions"), veth)
    path = tmp_path / "x.pcapng"
    sent = [
        (what, instructed(what, each, 60 + each))
        for each in range(1, number)
        for what in (KEEP, DROP, REWRITE, ENCAPSULATE, DECAPSULATE, ABORT)
    ]
    sent += [
        (what, instructed(what, number, size))
        for number, size in enumerate((4000, 6000, 9000), 1)
        for what in (KEEP, DROP, REWRITE)
    ]
    began = time.time_ns()

    with running("capture", "-w", str(path)) as command:
        veth.send(*(each for _, each in sent))
        time.sleep(1)
        _, errors = command.finish()
    assert command.process.returncode == 0

    file = pcapng.read(path)
    assert file.interfaces == ["xst0:does_as_told()@fentry", "xst0:does_as_told()@fexit"]
    assert [packet.data for packet in file.at("fentry")] == [each for _, each in sent]
    left = [after(what, each) for what, each in sent]
    assert [(packet.data, packet.verdict) for packet in file.at("fexit")] == left
    assert [packet.id for packet in file.at("fentry")] == [p.id for p in file.at("fexit")]
    assert len({packet.id for packet in file.packets}) == len(sent)
    assert all(packet.length == len(packet.data) for packet in file.packets)
    assert all(packet.number(2) == 1 for packet in file.packets)  # inbound
    times = [packet.time for packet in file.packets]
    assert times == sorted(times)
    assert began < times[0]
    assert times[-1] < time.time_ns()
    for point in ("fentry", "fexit"):
        counts = file.statistics[f"xst0:does_as_told()@{point}"]
        assert [counts[code] for code in (4, 5, 6, 7, 8)] == [len(sent), 0, len(sent), 0, len(sent)]
        assert f"{point}: {len(sent):,} captured, 0 lost, {len(sent):,} matched" in errors
    assert any(comment.startswith("tag ") for comment in file.comments[0])
    if shutil.which("tshark"):
        shown = subprocess.run(
            ["tshark", "-r", str(path), "-Y", "frame.verdict.ebpf_xdp == 0",
             "-T", "fields", "-e", "frame.interface_name"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert shown.stdout.split() == ["xst0:does_as_told()@fexit"] * (number - 1)


@pytest.mark.every_kernel
def test_a_program_that_alters_no_packet_has_both_points(lab: Lab, tmp_path: Path) -> None:
    """The kernel copies the packet once; the file has it twice."""
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    path = tmp_path / "x.pcapng"
    frames = [frame(size) for size in (60, 100, 101, 1500)]

    with running("capture", "-w", str(path), "--snaplen", "100") as command:
        veth.send(*frames)
        time.sleep(1)
        _, errors = command.finish()

    file = pcapng.read(path)
    for point in ("fentry", "fexit"):
        assert [packet.data for packet in file.at(point)] == [each[:100] for each in frames]
        assert [packet.length for packet in file.at(point)] == [len(each) for each in frames]
        assert f"{point}: 4 captured, 0 lost, 4 matched" in errors
    assert [packet.id for packet in file.at("fentry")] == [p.id for p in file.at("fexit")]
    assert {packet.verdict for packet in file.at("fexit")} == {DROPPED}
    assert {packet.verdict for packet in file.at("fentry")} == {None}
    entered, left = (file.at(point) for point in ("fentry", "fexit"))
    assert all(a.time < b.time for a, b in zip(entered, left, strict=True))


@pytest.mark.first_kernel
@needs_fragments
@pytest.mark.every_kernel
def test_a_verdict_selects_pairs_with_the_packet_as_it_was_sent(lab: Lab, tmp_path: Path) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("does_as_told", "sessions"), veth)
    path = tmp_path / "x.pcapng"

    with running("capture", "-w", str(path), "--verdict", "drop") as command:
        veth.send(*(instructed(DECAPSULATE, number) for number in range(1, 501)))
        time.sleep(1)
        command.finish()

    file = pcapng.read(path)
    dropped = [instructed(DECAPSULATE, number) for number in range(100, 501, 100)]
    assert [packet.data for packet in file.at("fentry")] == dropped
    assert [p.data for p in file.at("fexit")] == [after(DECAPSULATE, each)[0] for each in dropped]
    assert {packet.verdict for packet in file.packets} == {DROPPED}
    assert [packet.id for packet in file.at("fentry")] == [p.id for p in file.at("fexit")]


@pytest.mark.matrix
@pytest.mark.every_kernel
def test_under_a_flood_captured_and_lost_are_what_matched(lab: Lab, tmp_path: Path) -> None:
    veth = lab.veth("xst0")
    program = lab.load("decide_drop")
    lab.attach(program, veth)
    path = tmp_path / "x.pcapng"
    runs = 50_000

    with running("capture", "-w", str(path), "--emit", "exit") as command:
        command.process.send_signal(signal.SIGSTOP)
        program.test_run(frame(1000), repeat=runs)
        command.process.send_signal(signal.SIGCONT)
        time.sleep(1)
        _, errors = command.finish()

    (line,) = [line for line in errors.splitlines() if "matched" in line]
    captured, lost, matched = (
        int(word.replace(",", "")) for word in line.split(": ")[1].split() if word[0].isdigit()
    )
    assert matched == runs
    assert lost > 0
    assert captured + lost == matched
    file = pcapng.read(path)
    assert len(file.packets) == captured
    counts = file.statistics["lo:decide_drop()@fexit"]
    assert (counts[4], counts[5], counts[8]) == (matched, lost, captured)
    assert sum(packet.number(4) or 0 for packet in file.packets) <= lost


@pytest.mark.matrix
@pytest.mark.one_kernel
def test_files_are_rotated_and_the_last_are_kept(lab: Lab, tmp_path: Path) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass"), veth)
    arguments = ("-w", str(tmp_path / "x.pcapng"), "--rotate", "20k", "--keep", "2")

    with running("capture", *arguments, "--emit", "entry") as command:
        veth.send(*(instructed(KEEP, number) for number in range(300)))
        time.sleep(1)
        command.finish()

    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2
    assert names[0] > "x-00001.pcapng"
    numbers = [
        int.from_bytes(packet.data[42:46], "big")
        for name in names
        for packet in pcapng.read(tmp_path / name).packets
    ]
    assert numbers == list(range(numbers[0], 300))


@pytest.mark.one_kernel
def test_a_pipe_that_closes_ends_it(lab: Lab) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass"), veth)
    before = settled_objects()
    reading, writing = os.pipe()

    with running("capture", "-w", "-", stdout=writing) as command:
        os.close(writing)
        veth.send(instructed(KEEP, 1))
        assert os.read(reading, 4) == b"\x0a\x0d\x0d\x0a"
        os.close(reading)
        veth.send(instructed(KEEP, 2), times=10)
        _, errors = command.wait()
    assert command.process.returncode == 1
    assert "cannot write standard output: Broken pipe" in errors
    assert settled_objects() == before


@pytest.mark.one_kernel
def test_a_full_disk_ends_it_with_a_readable_file(lab: Lab, tmp_path: Path) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass"), veth)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    try:
        path = tmp_path / "x.pcapng"
        with running("capture", "-w", str(path)) as command:
            veth.send(*(instructed(KEEP, number, 1000) for number in range(200)))
            _, errors = command.wait()
        assert command.process.returncode == 1
        assert "No space left on device" in errors
        found = [packet.data for packet in pcapng.read(path).at("fentry")]
        assert found == [instructed(KEEP, number, 1000) for number in range(len(found))]
        assert found
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.matrix
@pytest.mark.one_kernel
def test_after_a_kill_the_file_has_what_is_older_than_a_second(lab: Lab, tmp_path: Path) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass"), veth)
    before = settled_objects()
    path = tmp_path / "x.pcapng"

    with running("capture", "-w", str(path)) as command:
        veth.send(instructed(KEEP, 1), times=50)
        time.sleep(3)
        command.finish(signal.SIGKILL)
    assert len(pcapng.read(path).packets) == 100
    assert settled_objects() == before


@pytest.mark.first_kernel
@needs_fragments
@pytest.mark.every_kernel
def test_the_packets_before_an_event_are_there(lab: Lab, tmp_path: Path) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("does_as_told", "sessions"), veth)
    path = tmp_path / "x.pcapng"
    sent = [instructed(KEEP, number) for number in range(1, 1501)] + [instructed(ABORT, 1501)]

    with running("capture", "-w", str(path), "--last", "1000", "--on", "aborted") as command:
        veth.send(*sent)
        command.wait()

    assert command.process.returncode == 0
    file = pcapng.read(path)
    entered, left = file.at("fentry"), file.at("fexit")
    assert [packet.data for packet in entered] == sent[-1001:]
    assert [packet.data for packet in left] == sent[-1001:]
    assert [packet.verdict for packet in left] == [PASSED] * 1000 + [ABORTED]


@pytest.mark.first_kernel
@pytest.mark.every_kernel
def test_what_goes_away_meanwhile_stops_nothing_else(lab: Lab, tmp_path: Path) -> None:
    """An interface, a namespace, and the programs there are gone: others are captured on."""
    before = settled_objects()
    path = tmp_path / "x.pcapng"
    gone, stays = lab.veth("xst0"), lab.veth("xst1")
    first, second = lab.load("decide_drop"), lab.load("decide_pass")
    lab.attach(first, gone)
    lab.attach(second, stays)

    with running("capture", "-w", str(path), "--program", "decide_*") as command:
        with namespace("xst-gone", first) as there:
            gone.send(frame(60))
            there.send(1, frame(61))
            stays.send(frame(62))
            time.sleep(1.5)
        lab.delete(gone)
        first.close()
        time.sleep(1.5)
        stays.send(frame(63))
        time.sleep(1)
        _, errors = command.finish()

    assert command.process.returncode == 0, errors
    file = pcapng.read(path)
    for point in ("fentry", "fexit"):
        assert sorted(len(packet.data) for packet in file.at(point)) == [60, 61, 62, 63]
    lab.delete(stays)
    second.close()
    assert settled_objects() == before


@pytest.mark.one_kernel
def test_a_device_limits_it(lab: Lab, tmp_path: Path) -> None:
    program = lab.load("decide_pass")
    one, other = lab.veth("xst0"), lab.veth("xst1")
    lab.attach(program, one)
    lab.attach(program, other)
    path = tmp_path / "x.pcapng"

    with running("capture", "-w", str(path), "--interface", "xst1") as command:
        one.send(instructed(KEEP, 1), times=5)
        other.send(instructed(KEEP, 2), times=3)
        time.sleep(1)
        command.finish()
    file = pcapng.read(path)
    assert set(file.interfaces) == {"xst1:decide_pass()@fentry", "xst1:decide_pass()@fexit"}
    assert len(file.packets) == 6


@pytest.mark.one_kernel
def test_wrong_usage_attaches_nothing(tmp_path: Path) -> None:
    for arguments in (["--keep", "3", "-w", "x"], ["--rotate", "1M", "-w", "-"], []):
        command = Command("capture", *arguments)
        command.wait()
        assert command.process.returncode == 2
