# SPDX-License-Identifier: Apache-2.0
"""Packets in tunnels: one of each kind that ``--inner`` opens, and malformed ones."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

ETHERNET, IP = "ethernet", "ip"

_MACS = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01"
_V4 = bytes((192, 0, 2, 1, 192, 0, 2, 2))
_V6 = bytes.fromhex("20010db8") + bytes(11) + b"\1" + bytes.fromhex("20010db8") + bytes(11) + b"\2"


class Tunnelled(NamedTuple):
    """A frame, and the packet inside: None if there is none."""

    name: str
    frame: bytes
    inner: bytes | None
    kind: str = ETHERNET


def frame(kind: int, payload: bytes, tags: bytes = b"") -> bytes:
    """Return an Ethernet frame; ``tags`` come before the Ethernet type."""
    return _MACS + tags + kind.to_bytes(2, "big") + payload


def ipv4(protocol: int, payload: bytes, options: bytes = b"", fragment: int = 0) -> bytes:
    """Return an IPv4 packet."""
    size = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), 7, fragment, 64, protocol, 0
    )
    return head + _V4 + options + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    """Return an IPv6 packet."""
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + _V6 + payload


def udp(target: int, payload: bytes, source: int = 40000) -> bytes:
    """Return a UDP datagram."""
    return struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload


def _extension(following: int, words: int) -> bytes:
    return bytes((following, words)) + bytes(6 + 8 * words)


def vxlan(inner: bytes) -> bytes:
    """Return a frame behind a header of VXLAN."""
    return struct.pack("!II", 8 << 24, 42 << 8) + inner


def _geneve(inner: bytes, kind: int = 0x6558, options: bytes = b"") -> bytes:
    return struct.pack("!BBHI", len(options) // 4, 0, kind, 42 << 8) + options + inner


def _gre(inner: bytes, kind: int, flags: int = 0) -> bytes:
    present = sum(bool(flags & bit) for bit in (0x8000, 0x2000, 0x1000))
    return struct.pack("!HH", flags, kind) + bytes(range(4 * present)) + inner


def _gtpu(inner: bytes, flags: int = 0x30, more: bytes = b"", message: int = 255) -> bytes:
    size = len(more) + len(inner)
    return struct.pack("!BBHI", flags, message, size, 99) + more + inner


def tunnelled(packet4: bytes, packet6: bytes, ethernet: bytes) -> Iterator[Tunnelled]:
    """Yield the packets inside each tunnel, all three: IPv4, IPv6 and Ethernet."""

    def over4(name: str, protocol: int, payload: bytes, inner: bytes, kind: str) -> Tunnelled:
        return Tunnelled(f"{name} over IPv4", frame(0x0800, ipv4(protocol, payload)), inner, kind)

    def over6(name: str, protocol: int, payload: bytes, inner: bytes, kind: str) -> Tunnelled:
        return Tunnelled(f"{name} over IPv6", frame(0x86DD, ipv6(protocol, payload)), inner, kind)

    option = bytes.fromhex("0102030100000001")
    for over in (over4, over6):
        for port in (4789, 8472):
            yield over(f"VXLAN to {port}", 17, udp(port, vxlan(ethernet)), ethernet, ETHERNET)
        for options in (b"", option, option * 7):
            yield over(
                f"Geneve, {len(options)} bytes of options", 17,
                udp(6081, _geneve(ethernet, options=options)), ethernet, ETHERNET,
            )  # fmt: skip
        for version, kind, inner in ((4, 0x0800, packet4), (6, 0x86DD, packet6)):
            yield over(f"Geneve with IPv{version}", 17, udp(6081, _geneve(inner, kind)), inner, IP)
            yield over(f"IPv{version} alone", 4 if version == 4 else 41, inner, inner, IP)
            for flags in (0, 0x2000, 0x8000, 0xB000):
                gre = _gre(inner, kind, flags)
                yield over(f"GRE {flags:#x} with IPv{version}", 47, gre, inner, IP)
            yield over(f"GTP-U with IPv{version}", 17, udp(2152, _gtpu(inner)), inner, IP)
        for flags in (0, 0x2000, 0x3000):
            gre = _gre(ethernet, 0x6558, flags)
            yield over(f"GRE {flags:#x} with Ethernet", 47, gre, ethernet, ETHERNET)
        for name, flags, more in (
            ("a sequence number", 0x32, "00010000"),
            ("one extension", 0x34, "00010085 01001000"),
            ("two extensions", 0x36, "000100c0 01000085 01001000"),
        ):
            datagram = udp(2152, _gtpu(packet4, flags, bytes.fromhex(more)))
            yield over(f"GTP-U, {name}", 17, datagram, packet4, IP)
    tag = bytes.fromhex("88a80005 81000007")
    yield Tunnelled("4in4 behind two tags", frame(0x0800, ipv4(4, packet4), tag), packet4, IP)
    label = bytes.fromhex("00064140")
    yield Tunnelled("4in4 behind MPLS", frame(0x8847, label + ipv4(4, packet4)), packet4, IP)
    options = ipv4(4, packet4, options=b"\1" * 8)
    yield Tunnelled("4in4, options", frame(0x0800, options), packet4, IP)
    headers = _extension(60, 0) + _extension(44, 1) + bytes((41, 0, 0, 0)) + bytes(4)
    yield Tunnelled("6in6, extensions", frame(0x86DD, ipv6(0, headers + packet6)), packet6, IP)


def malformed(packet: bytes, ethernet: bytes) -> Iterator[Tunnelled]:
    """Yield frames that look like tunnels, and are none or are broken."""

    def over4(name: str, protocol: int, payload: bytes, **more: int) -> Tunnelled:
        return Tunnelled(name, frame(0x0800, ipv4(protocol, payload, **more)), None)  # type: ignore[arg-type]

    def over_udp(name: str, port: int, payload: bytes) -> Tunnelled:
        return over4(name, 17, udp(port, payload))

    yield over_udp("VXLAN without an identifier", 4789, bytes(8) + ethernet)
    yield over_udp("VXLAN from the port", 4790, vxlan(ethernet))
    yield over_udp("VXLAN with nothing inside", 4789, vxlan(b""))
    yield over_udp("VXLAN with half a header inside", 4789, vxlan(ethernet[:13]))
    yield over_udp("Geneve of another version", 6081, b"\x40" + _geneve(ethernet)[1:])
    yield over_udp("Geneve with too many options", 6081, b"\x3f" + _geneve(ethernet)[1:])
    yield over_udp("Geneve with ARP", 6081, _geneve(ethernet[14:], 0x0806))
    yield over_udp("Geneve with IPv6 that is IPv4", 6081, _geneve(packet, 0x86DD))
    yield over4("GRE of version 1", 47, _gre(packet, 0x0800, 1))
    yield over4("GRE with routing", 47, _gre(packet, 0x0800, 0x4000))
    yield over4("GRE with PPP", 47, _gre(packet, 0x880B))
    yield over4("GRE with a key that is cut off", 47, struct.pack("!HH", 0x2000, 0x0800) + b"\0")
    yield over4("6in4 that is 4in4", 41, packet)
    yield over4("4in4 that is cut off", 4, packet[:19])
    yield over4("a first fragment", 4, packet, fragment=0x2000)
    yield over4("a later fragment", 4, packet, fragment=0x0010)
    yield over_udp("GTP-U of version 2", 2152, _gtpu(packet, 0x50))
    yield over_udp("GTP'", 2152, _gtpu(packet, 0x20))
    yield over_udp("GTP-U, an echo request", 2152, _gtpu(packet, message=1))
    yield over_udp("GTP-U, an extension of length 0", 2152, _gtpu(packet, 0x34, b"\0\0\0\x85\0"))
    many = b"\0\0\0\x85" + bytes.fromhex("01000085") * 4 + bytes.fromhex("01000000")
    yield over_udp("GTP-U, five extensions", 2152, _gtpu(packet, 0x34, many))
    yield over_udp("GTP-U that is longer than UDP", 2152, _gtpu(packet)[:-1])
    for size in (-1, 7, 2000):
        datagram = udp(2152, _gtpu(packet))
        length = (len(datagram) + size if size < 0 else size).to_bytes(2, "big")
        yield over4(f"UDP of length {size}", 17, datagram[:4] + length + datagram[6:])
    outer = ipv4(4, packet)
    for total in (0, 19, 39, len(outer) + 1):
        cut = outer[:2] + total.to_bytes(2, "big") + outer[4:]
        yield Tunnelled(f"IPv4 of length {total}", frame(0x0800, cut), None)
    yield Tunnelled("a short IPv4 header", frame(0x0800, b"\x44" + outer[1:]), None)
    fragment = bytes((4, 0, 0, 1)) + bytes(4)
    yield Tunnelled("an IPv6 fragment", frame(0x86DD, ipv6(44, fragment + packet)), None)
    jumbo = ipv6(4, packet)
    yield Tunnelled("IPv6 of length 0", frame(0x86DD, jumbo[:4] + bytes(2) + jumbo[6:]), None)
    yield Tunnelled("no tunnel", frame(0x0800, packet), None)
    yield Tunnelled("no IP", frame(0x0806, outer), None)
    yield Tunnelled("IPv4 as IPv6", frame(0x86DD, outer), None)
