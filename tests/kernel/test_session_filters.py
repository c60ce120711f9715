# SPDX-License-Identifier: Apache-2.0
"""Filters of trace and capture: what is in a tunnel, and tags that a device strips."""

import fcntl
import os
import socket
import struct
import time
from contextlib import ExitStack
from ctypes import addressof, c_char
from pathlib import Path

import pytest

from tests.kernel import pcapng
from tests.kernel.lab import Lab, Veth
from tests.kernel.sessions import Command, running
from tests.kernel.tun import tun, with_protocol
from tests.tools.packets import made
from tests.tools.reference import Reference
from tests.tools.tunnels import Tunnelled, frame, ipv4, ipv6, malformed, tunnelled, udp
from xdpscope.sessions.packet_filter import PacketFilter


def inside(port: int) -> list[Tunnelled]:
    """Return one packet of each tunnel, with a UDP packet to a port inside."""
    datagram = udp(port, b"inside")
    packet4, packet6 = ipv4(17, datagram), ipv6(17, datagram)
    return list(tunnelled(packet4, packet6, frame(0x0800, packet4)))


@pytest.mark.every_kernel
def test_what_is_in_a_tunnel_selects(lab: Lab, tmp_path: Path) -> None:
    """With a filter for the whole packet, both must match."""
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass"), veth)
    wanted, others = inside(53), inside(54)
    packet = ipv4(17, udp(53, b"inside"))
    broken = list(malformed(packet, frame(0x0800, packet)))
    cut = [each.frame[: len(each.frame) - size] for each in wanted for size in (1, 20)]
    one, both = tmp_path / "one.pcapng", tmp_path / "both.pcapng"

    with (
        running("capture", "-w", str(one), "--inner", "udp port 53", "--emit", "entry") as first,
        running("capture", "-w", str(both), "--inner", "udp port 53", "ip6") as second,
    ):
        for number, each in enumerate(wanted):
            veth.send(each.frame, others[number].frame)
        veth.send(*(each.frame for each in broken), *cut, frame(0x0800, packet))
        time.sleep(1)
        first.finish()
        second.finish()

    assert [each.data for each in pcapng.read(one).packets] == [each.frame for each in wanted]
    over6 = [each.frame for each in wanted if each.frame[12:14] == b"\x86\xdd"]
    assert len(over6) > 10
    assert [each.data for each in pcapng.read(both).at("fentry")] == over6
    assert [each.data for each in pcapng.read(both).at("fexit")] == over6


@pytest.mark.first_kernel
@pytest.mark.every_kernel
@pytest.mark.parametrize(
    ("program", "source", "emit"),
    [
        ("decide_pass", "verdicts", "both"),
        pytest.param("decide_pass", "verdicts", "exit", marks=pytest.mark.nightly),
        ("write_and_decide", "flows", "both"),
    ],
)
def test_a_filter_reads_packets_of_each_device_as_they_begin(
    lab: Lab, tmp_path: Path, program: str, source: str, emit: str
) -> None:
    """With Ethernet, with IP, or with neither; and Ethernet may look like IP."""
    filters = ("tcp or udp port 53", "not udp")
    frames = [frame for frame in made()[::9] if len(frame) > 33]
    frames += [bytes([first]) + frame[1:] for frame in frames[::3] for first in (0x45, 0x6F, 0x44)]
    packets = [frame[14:] for frame in frames]
    packets += [bytes([first]) + packet[1:] for packet in packets[::3] for first in (0x15, 0x80)]
    veth, path = lab.veth("xst0"), tmp_path / "x.pcapng"
    loaded = lab.load(program, source)
    point = "fexit" if emit == "exit" else "fentry"
    with ExitStack() as stack:
        fd = stack.enter_context(tun(lab, "xst9", only_ip=False))
        lab.attach(loaded, veth, "generic")
        lab.attach(loaded, Veth("xst9", "", lab.index("xst9")), "generic")
        commands = [
            stack.enter_context(
                running("capture", "-w", str(path.with_suffix(f".{number}")), "--emit", emit, each)
            )
            for number, each in enumerate(filters)
        ]
        veth.send(*frames)
        for packet in packets:
            os.write(fd, with_protocol(packet))
        time.sleep(1)
        for command in commands:
            command.finish()
    for number, each in enumerate(filters):
        found = PacketFilter.compile(each)
        expected = [
            data
            for classic, sent in ((found.ethernet, frames), (found.raw_ip, packets))
            for data in sent
            if Reference(classic).run(data, len(data))
        ]
        assert 10 < len(expected) < len(frames) + len(packets) - 10
        captured = pcapng.read(path.with_suffix(f".{number}")).at(point)
        assert [packet.data for packet in captured] == expected, each


def ethtool_flags(interface: str, clear: int = 0) -> int:
    """Return the flags of ``ethtool -k`` after some are cleared."""
    siocethtool, get, change = 0x8946, 0x25, 0x26
    value = bytearray(struct.pack("=II", get, 0))
    room = (c_char * len(value)).from_buffer(value)
    request = struct.pack("16sP16x", interface.encode(), addressof(room))
    with socket.socket() as opened:
        fcntl.ioctl(opened, siocethtool, request)
        flags: int = struct.unpack("=II", value)[1]
        if clear:
            value[:] = struct.pack("=II", change, flags & ~clear)
            fcntl.ioctl(opened, siocethtool, request)
            return ethtool_flags(interface)
    return flags


@pytest.mark.one_kernel
def test_a_filter_for_tags_warns_of_devices_that_strip_them(lab: Lab) -> None:
    """Once for each that is selected, and that has the feature switched on."""
    rxvlan = 1 << 8
    program = lab.load("decide_pass")
    for name in ("xst0", "xst1", "xst2"):
        lab.attach(program, lab.veth(name))
        assert ethtool_flags(name) & rxvlan
    assert not ethtool_flags("xst1", clear=rxvlan) & rxvlan

    command = Command("trace", "--interface", "xst[01]", "--seconds", "3", "vlan 5")
    _, errors = command.wait()
    assert errors.count("strips VLAN tags") == 1
    assert "warning: xst0 strips VLAN tags" in errors
    command = Command("trace", "--seconds", "1", "--inner", "vlan 5", "udp")
    assert "strips VLAN tags" not in command.wait()[1]
