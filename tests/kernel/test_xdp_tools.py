# SPDX-License-Identifier: Apache-2.0
"""Programs by others, as they come: all that Debian's xdp-tools and libxdp1 attach.

Alone on its interface each arrives as a component that libxdp puts in the place of its
dispatcher's entry function; then it is the component that decides, and is counted.
"""

import ctypes
import mmap
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.conftest import Counts, expect, reasons
from tests.kernel.lab import Lab, Veth
from tests.kernel.observing import Observer
from tests.waiting import wait_for
from xdpscope.libbpf import Btf, Map

pytestmark = [
    pytest.mark.one_kernel,
    pytest.mark.skipif(
        shutil.which("xdp-filter") is None, reason="xdp-filter is missing: install xdp-tools"
    ),
]


def udp(port: int, size: int) -> bytes:
    """Return an Ethernet frame of ``size`` bytes, IPv4 and UDP to ``port``."""
    return ip(socket.IPPROTO_UDP, struct.pack("!HHHH", 40000, port, size - 34, 0), size)


def ip(protocol: int, payload: bytes, size: int) -> bytes:
    """Return an Ethernet frame of ``size`` bytes and IPv4."""
    ethernet = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01" + b"\x08\0"
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    head = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0, 64, protocol, 0) + addresses
    return (ethernet + head + payload).ljust(size, b"\0")


def xdp_filter(*arguments: str) -> None:
    subprocess.run(["xdp-filter", *arguments], check=True, capture_output=True, timeout=60)


@contextmanager
def filtering(veth: Veth, mode: str, *rule: str) -> Iterator[None]:
    try:
        xdp_filter("load", veth.name, "--mode", mode)
        xdp_filter(*rule)
        yield
    finally:
        xdp_filter("unload", "--all")


@pytest.mark.parametrize("mode", ["native", "skb"])
def test_xdp_filter(lab: Lab, observer: Observer, mode: str) -> None:
    veth = lab.veth("xst0")
    with filtering(veth, mode, "port", "9999", "--mode", "dst", "--proto", "udp"):
        observer.scan(0)
        veth.send(udp(9999, 60), udp(9999, 1500), times=25)
        veth.send(udp(53, 100), times=40)

        roles = {s.part.role: s.program.function for s in observer.statuses()}
        name = roles["component"]
        assert reasons(observer) == {"xdp_dispatcher": "busy", name: ""}
        expect(
            observer,
            {
                (name, "xst0", "drop"): (50, 25 * 1560),
                (name, "xst0", "pass"): (40, 4000),
            },
        )


def test_it_can_be_loaded_and_unloaded_under_observation(lab: Lab, observer: Observer) -> None:
    veth = lab.veth("xst0")
    for _ in range(5):
        observer.scan(0)
        xdp_filter("load", veth.name)
        observer.scan(0)
        veth.send(udp(53, 100))
        xdp_filter("unload", "--all")
    observer.scan(0)
    assert not any(status.attachments for status in observer.statuses())


@contextmanager
def running(lab: Lab, entrance: Veth, *command: str) -> Iterator[None]:
    """Yield a command of xdp-tools that attaches programs, and detaches them when it is
    interrupted.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(lambda: process.poll() is not None or lab.attached_program(entrance) is not None)
        if process.poll() is not None:
            said, _ = process.communicate()
            # Of tracepoints, which it attaches to as well; they come and go with kernels.
            assert "failed to find kernel BTF type ID" in said, said
            pytest.skip(f"this {command[0]} wants a tracepoint that this kernel does not have")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said


TCP, UDP = ip(socket.IPPROTO_TCP, b"", 100), udp(53, 60)
ALL, BYTES = 12, 7 * 100 + 5 * 60
"""Seven TCP and five UDP packets, and their bytes."""

# Of each command of xdp-bench, what its programs do with them. What is sent on arrives at
# `decide_drop`, behind the exits.
BENCH: dict[str, Counts] = {
    "drop xst0": {("xdp_basic_prog", "xst0", "drop"): (ALL, BYTES)},
    "pass --xdp-mode skb xst0": {("xdp_basic_prog", "xst0", "pass"): (ALL, BYTES)},
    "tx xst0": {("xdp_basic_prog", "xst0", "tx"): (ALL, BYTES)},
    "redirect xst0 xst1": {
        ("xdp_redirect_basic_prog", "xst0", "redirect"): (ALL, BYTES),
        ("decide_drop", "xst1p", "drop"): (ALL, BYTES),
    },
    "redirect-map --load-egress xst0 xst1": {
        ("redir_devmap_native", "xst0", "redirect"): (ALL, BYTES),
        ("xdp_redirect_devmap_egress", "xst1", "pass"): (ALL, BYTES),
        ("decide_drop", "xst1p", "drop"): (ALL, BYTES),
    },
    # TCP goes to the first configured CPU, UDP to the second: there is none.
    "redirect-cpu --cpu 0 --program-mode l4-proto --remote-action drop xst0": {
        ("cpumap_l4_proto", "xst0", "redirect"): (7, 700),
        ("cpumap_l4_proto", "xst0", "aborted"): (5, 300),
        ("cpumap_drop", "xst0", "drop"): (7, 700),
    },
    "redirect-multi --load-egress xst0 xst1 xst2": {
        ("redir_multi_native", "xst0", "redirect"): (ALL, BYTES),
        ("xdp_devmap_prog", "xst1", "pass"): (ALL, BYTES),
        ("xdp_devmap_prog", "xst2", "pass"): (ALL, BYTES),
        ("decide_drop", "xst1p", "drop"): (ALL, BYTES),
        ("decide_drop", "xst2p", "drop"): (ALL, BYTES),
    },
}


def in_place(observer: Observer, counts: Counts) -> bool:
    """Return whether the programs that are to count are where that is, and traced.

    A cpumap's program is attached nowhere; it counts as traced once an entry has it.
    """
    observer.scan(0)
    traced = [each for each in observer.statuses() if each.reason is None]
    there = {(each.program.function, at.interface) for each in traced for at in each.attachments}
    there |= {("cpumap_drop", "xst0") for each in traced if each.program.function == "cpumap_drop"}
    return {(program, where) for program, where, _ in counts} <= there


@pytest.mark.parametrize("arguments", BENCH)
def test_xdp_bench(lab: Lab, observer: Observer, arguments: str) -> None:
    """Of the package xdp-tools."""
    with Btf.of_kernel() as btf:
        if "multi" in arguments and not btf.has_function("dev_map_enqueue_multi"):
            pytest.skip("nothing is sent to several devices at once: Linux 5.14")
    entrance, *exits = (lab.veth(name) for name in ("xst0", "xst1", "xst2"))
    arrival = lab.load("decide_drop")
    for veth in exits:
        # A pair takes redirected packets if what is at its other end could be run there.
        lab.attach(arrival, Veth(veth.peer, veth.name, lab.index(veth.peer)))
    with running(lab, entrance, "xdp-bench", *arguments.split()):
        # It attaches first, and fills its maps then: of them only entries with programs show when.
        wait_for(lambda: in_place(observer, BENCH[arguments]))
        time.sleep(1)
        entrance.send(TCP, times=7)
        entrance.send(UDP, times=5)
        expect(observer, BENCH[arguments])


def test_xdpdumps_own_program(lab: Lab, observer: Observer) -> None:
    """Of the package xdp-tools, where there is no program: it passes all on, and captures it."""
    veth = lab.veth("xst0")
    with running(lab, veth, "xdpdump", "-i", "xst0", "--load-xdp-program", "-w", "/dev/null"):
        observer.scan(0)
        veth.send(UDP, times=5)
        expect(observer, {("xdpdump", "xst0", "pass"): (5, 300)})


# include/linux/socket.h, include/uapi/linux/if_xdp.h, include/uapi/linux/bpf.h
AF_XDP, SOL_XDP = 44, 283
XDP_RX_RING, XDP_UMEM_REG, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_STATISTICS = (
    2,
    4,
    5,
    6,
    7,
)
XDP_COPY = 1 << 1
XSKMAP = 17


@contextmanager
def receiving(veth: Veth) -> Iterator[socket.socket]:
    """Yield an AF_XDP socket on the only queue; nobody gives it room for packets."""
    chunk, chunks = 4096, 16
    with (
        mmap.mmap(-1, chunk * chunks) as memory,
        socket.socket(AF_XDP, socket.SOCK_RAW) as receiver,
    ):
        held = ctypes.c_char.from_buffer(memory)
        try:
            area = struct.pack("=QQII", ctypes.addressof(held), chunk * chunks, chunk, 0)
        finally:
            del held
        receiver.setsockopt(SOL_XDP, XDP_UMEM_REG, area)
        for ring in (XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING):
            receiver.setsockopt(SOL_XDP, ring, chunks)
        address = struct.pack("=HHIII", AF_XDP, XDP_COPY, veth.index, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.bind(receiver.fileno(), address, len(address)) == 0, ctypes.get_errno()
        yield receiver


def sockets_of(observer: Observer, function: str) -> Map:
    """Return the map of sockets that a program redirects to."""
    program = next(s.program for s in observer.statuses() if s.program.function == function)
    for id in program.map_ids:
        found = Map.open(id)
        if found.info.type == XSKMAP:
            return found
        found.close()
    raise AssertionError(f"{function} has no map of sockets")


def test_the_program_of_every_af_xdp_socket(lab: Lab, observer: Observer) -> None:
    """Of the package libxdp1: what its queue has a socket for goes there, all else passes."""
    veth = lab.veth("xst0")
    (path,) = Path("/usr/lib").glob("*/bpf/xsk_def_xdp_prog.o")
    subprocess.run(["xdp-loader", "load", veth.name, path], check=True, timeout=60)
    try:
        observer.scan(0)
        veth.send(UDP, times=5)
        expected = {("xsk_def_prog", "xst0", "pass"): (5, 300)}
        expect(observer, expected)
        with receiving(veth) as receiver, sockets_of(observer, "xsk_def_prog") as sockets:
            sockets.update(bytes(4), struct.pack("=i", receiver.fileno()))
            veth.send(TCP, times=7)
            expected["xsk_def_prog", "xst0", "redirect"] = 7, 700
            expect(observer, expected)
            # `rx_dropped` of struct xdp_statistics.
            (dropped,) = struct.unpack_from("=Q", receiver.getsockopt(SOL_XDP, XDP_STATISTICS, 48))
            assert dropped == 7, "each came to the socket"
            sockets.delete(bytes(4))
            veth.send(UDP, times=2)
            expected["xsk_def_prog", "xst0", "pass"] = 7, 420
            expect(observer, expected)
    finally:
        subprocess.run(["xdp-loader", "unload", veth.name, "--all"], check=True, timeout=60)
