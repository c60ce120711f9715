# SPDX-License-Identifier: Apache-2.0
"""The packet inside a tunnel is found as it was put there, or not at all."""

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from tests.tools.expressions import expressions
from tests.tools.interpreter import Machine
from tests.tools.packets import made
from tests.tools.reference import Reference
from tests.tools.tunnels import (
    ETHERNET,
    IP,
    Tunnelled,
    frame,
    ipv4,
    ipv6,
    malformed,
    tunnelled,
    udp,
)

from xdpscope.sessions.packet_filter import PacketFilter
from xdpscope.sessions.packet_filter.translate import translate

HERE = Path(__file__).parent
KINDS = {0: None, 1: ETHERNET, 2: IP}

PACKET4 = ipv4(17, udp(53, b"a question to a name server"))
PACKET6 = ipv6(17, udp(53, b"the same over IPv6"))
FRAME = frame(0x0800, PACKET4)


class Found(NamedTuple):
    """What the search returns."""

    kind: str | None
    start: int
    linear: int
    length: int


Search = Callable[..., Found]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Return the product's own search, of a packet whose first part may be shorter than it."""
    library = tmp_path_factory.mktemp("tunnel") / "tunnel.so"
    command = ["clang", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    sources = HERE.parents[1] / "bpf"
    command += [
        "-Wno-unknown-attributes",
        f"-I{sources}",
        f"-I{sources / 'common'}",
        str(HERE / "tunnel.c"),
    ]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).search

    def run(packet: bytes, length: int | None = None, *, layer3: bool = False) -> Found:
        found = (ctypes.c_uint64 * 4)()
        size = ctypes.c_uint64(len(packet) if length is None else length)
        strayed = function(packet, ctypes.c_uint64(len(packet)), size, int(layer3), found)
        assert not strayed
        return Found(KINDS[found[0]], *found[1:])

    return run


def examples() -> list[Tunnelled]:
    return list(tunnelled(PACKET4, PACKET6, FRAME))


@pytest.mark.parametrize("each", examples(), ids=lambda each: each.name)
def test_what_is_inside(search: Search, each: Tunnelled) -> None:
    """Also on a device without Ethernet, with padding behind, and if the rest is in fragments."""
    assert each.inner is not None
    start = len(each.frame) - len(each.inner)
    expected = Found(each.kind, start, len(each.inner), len(each.inner))
    assert search(each.frame) == expected
    assert search(each.frame + bytes(50)) == expected
    if each.frame[12:14] in (b"\x08\0", b"\x86\xdd"):
        expected = expected._replace(start=start - 14)
        assert search(each.frame[14:], layer3=True) == expected
    header = 14 if each.kind == ETHERNET else 20 if each.inner[0] >> 4 == 4 else 40
    for there in range(len(each.frame)):
        found = search(each.frame[:there], len(each.frame))
        if there < start + header:
            assert found.kind is None
        else:
            assert found == (each.kind, start, there - start, len(each.inner))


@pytest.mark.parametrize("each", examples(), ids=lambda each: each.name)
def test_a_packet_that_is_cut_off_has_nothing_inside(search: Search, each: Tunnelled) -> None:
    assert all(search(each.frame[:size]).kind is None for size in range(len(each.frame)))


@pytest.mark.parametrize("each", list(malformed(PACKET4, FRAME)), ids=lambda each: each.name)
def test_what_is_malformed_has_nothing_inside(search: Search, each: Tunnelled) -> None:
    assert search(each.frame).kind is None
    assert search(each.frame[14:], layer3=True).kind is None or each.name in (
        "no IP",
        "IPv4 as IPv6",
    )


def test_no_bytes_lead_out_of_the_packet(search: Search) -> None:
    random = Random(21)
    whole = examples()
    for _ in range(20_000):
        data = bytearray(random.choice(whole).frame)
        for _ in range(random.choice((1, 1, 2, 8))):
            data[random.randrange(12, len(data))] = random.choice((0, 1, 4, 6, 0x45, 255))
        there = random.randrange(len(data) + 1) if random.random() < 0.3 else len(data)
        found = search(bytes(data[:there]), len(data))
        if found.kind is not None:
            assert 0 < found.linear <= found.length
            assert found.start + found.linear <= there
            assert found.start + found.length <= len(data)


def test_scapy_sees_the_same_inside() -> None:
    """The examples are what they are called: another implementation finds the same packets."""
    from scapy.contrib import geneve, gtp, mpls  # noqa: F401 - scapy then knows these
    from scapy.layers.inet import IP as Ip4
    from scapy.layers.inet6 import IPv6 as Ip6
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN  # noqa: F401 - the same

    for each in examples():
        if "two extensions" in each.name:  # scapy takes the second for the packet
            continue
        layer, layers = Ether(each.frame), []
        while layer:
            layers.append(layer)
            layer = layer.payload
        inside = [bytes(layer) for layer in layers[1:] if isinstance(layer, (Ether, Ip4, Ip6))]
        assert each.inner in inside, each.name


def test_an_inner_filter_selects_what_libpcap_selects(search: Search) -> None:
    """Packets of all kinds in tunnels, and libpcap's own result for what was put in there."""
    filters = [PacketFilter.compile(each) for each in expressions()[::6]]
    programs = [
        {kind: (Reference(classic), translate(classic, "copy"))
         for kind, classic in ((ETHERNET, each.ethernet), (IP, each.raw_ip))}
        for each in filters
    ]  # fmt: skip
    random, selected = Random(22), 0
    inner4 = [each[14:] for each in made() if each[12:14] == b"\x08\0" and len(each) >= 34]
    inner6 = [each[14:] for each in made() if each[12:14] == b"\x86\xdd" and len(each) >= 54]
    inner = [each for each in made() if len(each) >= 14]
    for each in [next_one for _ in range(3) for next_one in tunnelled(
        random.choice(inner4), random.choice(inner6), random.choice(inner)
    )]:  # fmt: skip
        assert each.inner is not None
        found = search(each.frame)
        assert found.kind == each.kind
        there = each.frame[found.start :][: found.linear]
        for program in programs:
            reference, instructions = program[each.kind]
            expected = reference.run(each.inner, len(each.inner))
            selected += bool(expected)
            assert Machine(there, found.linear, found.length).run(instructions) == expected
    assert selected > 200
