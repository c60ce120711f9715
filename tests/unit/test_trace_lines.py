# SPDX-License-Identifier: Apache-2.0
"""What trace prints of a packet."""

import json
import re
from ipaddress import ip_address
from struct import pack

import pytest

from xdpscope.libbpf import Record
from xdpscope.log import printable
from xdpscope.sessions.packet import changes, dissect
from xdpscope.sessions.session import Device
from xdpscope.sessions.trace import Line, Pairs, as_json, as_text, duration

MACS = bytes.fromhex("020000000002020000000001")


def ether(payload: bytes, kind: int = 0x0800, tags: bytes = b"") -> bytes:
    return MACS + tags + pack("!H", kind) + payload


def ip4(
    payload: bytes, protocol: int = 17, ends: tuple[str, str] = ("10.0.0.1", "10.0.0.2")
) -> bytes:
    addresses = b"".join(ip_address(each).packed for each in ends)
    head = pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    return head + addresses + payload


def ip6(payload: bytes, protocol: int = 17) -> bytes:
    addresses = ip_address("2001:db8::1").packed + ip_address("2001:db8::2").packed
    return pack("!IHBB", 6 << 28, len(payload), protocol, 64) + addresses + payload


def udp(payload: bytes, ports: tuple[int, int] = (1000, 2000)) -> bytes:
    return pack("!HHHH", *ports, 8 + len(payload), 0) + payload


UDP = udp(b"hello")
FLOW = "10.0.0.1:1000 -> 10.0.0.2:2000 UDP"


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (ether(ip4(UDP)), FLOW),
        (ether(ip6(UDP), 0x86DD), "[2001:db8::1]:1000 -> [2001:db8::2]:2000 UDP"),
        (ether(ip4(b"\x08\0\0\0" + bytes(8), 1)), "10.0.0.1 -> 10.0.0.2 ICMP echo request"),
        (
            ether(ip6(b"\x87\0\0\0", 58), 0x86DD),
            "2001:db8::1 -> 2001:db8::2 ICMPv6 neighbor solicitation",
        ),
        (
            ether(ip4(pack("!HHIIBB", 80, 90, 0, 0, 0x50, 0x12) + bytes(6), 6)),
            "10.0.0.1:80 -> 10.0.0.2:90 TCP SYN,ACK",
        ),
        (ether(ip4(UDP), tags=pack("!HH", 0x8100, 0x2005)), f"vlan 5 {FLOW}"),
        (ether(pack("!I", 77 << 12 | 0x100) + ip4(UDP), 0x8847), f"mpls 77 {FLOW}"),
        (ether(b"\0" * 46, 0x88B5), "02:00:00:00:00:01 -> 02:00:00:00:00:02 local"),
        (ether(b"\x45\0"), "02:00:00:00:00:01 -> 02:00:00:00:00:02 truncated"),
        (b"\x02", "truncated"),
        (
            ether(ip4(ip4(UDP), 4, ("1.1.1.1", "2.2.2.2"))),
            f"1.1.1.1 -> 2.2.2.2 IPIP [IPIP: {FLOW}]",
        ),
        (
            ether(ip4(udp(b"\x08\0\0\0\0\0\x2a\0" + ether(ip4(UDP)), (9, 4789)))),
            f"10.0.0.1:9 -> 10.0.0.2:4789 UDP [VXLAN 42: {FLOW}]",
        ),
        (
            ether(ip4(udp(b"\x01\0\x65\x58\0\0\x2a\0" + bytes(4) + ether(ip4(UDP)), (9, 6081)))),
            f"10.0.0.1:9 -> 10.0.0.2:6081 UDP [Geneve 42: {FLOW}]",
        ),
        (
            ether(ip4(udp(b"\x30\xff\0\0\0\0\0\x2a" + ip4(UDP), (9, 2152)))),
            f"10.0.0.1:9 -> 10.0.0.2:2152 UDP [GTP-U 42: {FLOW}]",
        ),
        (
            ether(ip4(b"\x20\0\x08\0\0\0\0\1" + ip4(UDP), 47)),
            f"10.0.0.1 -> 10.0.0.2 GRE [GRE: {FLOW}]",
        ),
    ],
)
def test_headers_in_short(frame: bytes, text: str) -> None:
    assert str(dissect(frame)) == text


def test_a_packet_cut_anywhere_is_no_error() -> None:
    inner = ether(ip4(udp(b"\x08\0\0\0\0\0\x2a\0" + ether(ip6(UDP), 0x86DD), (9, 4789))))
    for size in range(len(inner)):
        assert printable(str(dissect(inner[:size])))


def test_a_packet_that_begins_with_ip() -> None:
    assert str(dissect(ip6(UDP), layer3=True)) == "[2001:db8::1]:1000 -> [2001:db8::2]:2000 UDP"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (ether(ip4(UDP)), ether(ip4(UDP)), []),
        (ether(ip4(UDP)), ether(ip4(UDP), tags=pack("!HH", 0x8100, 7)), ["vlan none -> 7"]),
        (
            ether(ip4(UDP)),
            ether(ip4(UDP, ends=("10.0.0.2", "10.0.0.1"))),
            [
                "source 10.0.0.1:1000 -> 10.0.0.2:1000",
                "destination 10.0.0.2:2000 -> 10.0.0.1:2000",
            ],
        ),
        (
            ether(ip4(UDP)),
            MACS[6:] + MACS[:6] + ether(ip4(UDP))[12:],
            ["mac swapped"],
        ),
        (
            ether(ip4(UDP)),
            ether(ip4(ip4(UDP), 4, ("1.1.1.1", "2.2.2.2"))),
            ["encapsulated in IPIP 1.1.1.1 -> 2.2.2.2"],
        ),
        (
            ether(ip4(ip4(UDP), 4, ("1.1.1.1", "2.2.2.2"))),
            ether(ip4(UDP)),
            ["decapsulated from IPIP 1.1.1.1 -> 2.2.2.2"],
        ),
    ],
)
def test_what_a_program_changed(before: bytes, after: bytes, words: list[str]) -> None:
    assert changes(dissect(before), dissect(after)) == words


def record(point: int, data: bytes, *, id: int = 1, flags: int = 0, verdict: int = 2) -> Record:
    return Record(
        time=5, id=id, inside=850, target=1, ifindex=2, netns=3, queue=4, verdict=verdict,
        length=len(data), captured=len(data), lost=0, cpu=6, point=point, flags=flags, data=data,
    )  # fmt: skip


def line(entry: Record | None, leaving: Record | None, netns: str = "host") -> Line:
    return Line(entry, leaving, Device(netns, "eth0"), "xdp_main", 12, 1_700_000_000_123_456_789)


KNOWN = 1 | 8  # the verdict, and the time inside
SENT = record(0, ether(ip4(UDP)))
LEFT = record(1, ether(ip4(UDP)), flags=KNOWN)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (line(SENT, None), f"eth0 {FLOW} 47 xdp_main (fentry)"),
        (line(None, LEFT, "blue"), f"eth0 blue {FLOW} 47 xdp_main (fexit: XDP_PASS) 850 ns"),
        (line(SENT, LEFT), f"eth0 {FLOW} 47 xdp_main (fentry) (fexit: XDP_PASS) 850 ns"),
        (
            line(record(0, SENT.data, flags=KNOWN, verdict=1), None),
            f"eth0 {FLOW} 47 xdp_main (fentry) (then fexit: XDP_DROP) 850 ns",
        ),
        (
            line(SENT, record(1, LEFT.data, flags=KNOWN, verdict=77)),
            f"eth0 {FLOW} 47 xdp_main (fentry) (fexit: 77) 850 ns",
        ),
    ],
)
def test_lines_for_people(shown: Line, text: str) -> None:
    at, _, rest = as_text(shown).partition(" ")
    assert at.endswith(".123456")
    assert rest == text


def test_a_line_that_is_too_wide_is_two() -> None:
    first, second = as_text(line(SENT, LEFT), width=60).split("\n")
    assert first.endswith("UDP 47")
    assert second == "    xdp_main (fentry) (fexit: XDP_PASS) 850 ns"


def test_no_line_is_wider_than_the_terminal() -> None:
    """Words stay whole, whatever the program changed; colours take no column."""
    encapsulated = line(SENT, record(1, ether(ip4(ip4(UDP), 4)), flags=KNOWN, verdict=3))
    texts = [as_text(encapsulated, colours=colours, width=40) for colours in (False, True)]
    plain, coloured = (re.sub(r"\x1b\[[0-9;]*m", "", text) for text in texts)
    assert plain == coloured
    assert max(map(len, plain.splitlines())) <= 40
    assert plain.split() == as_text(encapsulated).split()
    assert plain.splitlines()[1].startswith("        ")


def test_names_cannot_forge_a_line() -> None:
    forged = Line(SENT, None, Device("host", "eth0\n\x1b[2J"), "xdp\nmain", 12, 0)
    assert len(as_text(forged).splitlines()) == 1
    assert "\x1b" not in as_text(forged)


def test_lines_for_machines() -> None:
    value = json.loads(as_json(line(SENT, LEFT)))
    assert value["version"] == 1
    assert value["time"] == "2023-11-14T22:13:20.123456789Z"
    assert value["verdict"] == "XDP_PASS"
    assert value["inside_ns"] == 850
    assert value["entry"]["source_port"] == 1000
    assert value["exit"]["length"] == 47
    assert value["changes"] == []


def test_pairs_come_together_whatever_lies_between() -> None:
    entries = [record(0, b"", id=id) for id in (1, 2)]
    exits = [record(1, b"", id=id) for id in (2, 3, 1)]
    pairs = Pairs(both=True)
    found = list(pairs.add([*entries, *exits]))
    assert [(a and a.id, b and b.id) for a, b in found] == [(2, 2), (None, 3), (1, 1)]
    assert list(pairs.rest()) == []


@pytest.mark.parametrize(
    ("ns", "text"), [(0, "0 ns"), (999, "999 ns"), (1230, "1.23 us"), (5 * 10**6, "5 ms")]
)
def test_durations(ns: int, text: str) -> None:
    assert duration(ns) == text
