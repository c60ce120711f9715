# SPDX-License-Identifier: Apache-2.0
"""Packets that the filters of ``tests.tools.expressions`` are about, one kind of each."""

import struct
from collections.abc import Iterator

_HOSTS4 = {name: bytes(map(int, name.split("."))) for name in (
    "10.0.0.1", "10.0.0.2", "10.0.0.3", "192.168.1.1", "172.16.5.6", "224.0.0.5", "255.255.255.255",
)}  # fmt: skip
_LINK_LOCAL = bytes.fromhex("fe80") + bytes(13) + b"\1"
_GLOBAL = bytes.fromhex("20010db8") + bytes(11) + b"\2"
_ALL_NODES = bytes.fromhex("ff02") + bytes(13) + b"\1"
_OSPF = bytes.fromhex("ff02") + bytes(13) + b"\5"
_PORTS = ((1000, 80), (80, 50000), (443, 65535), (53, 53), (40000, 179), (123, 123), (500, 500))
_PORTS += ((68, 67), (1024, 33440), (0, 20), (36412, 2905), (150, 36412), (5000, 4789))


# Frames of IEEE 802.2: STP, IPX, NetBEUI, ISO, SNAP (AppleTalk), numbered and unnumbered ones.
_LLC = """424203 e0e003 f0f003 fefe0381 fefe0382 fefe0383 fefe038300000000000f aaaa0300000008009b
    aaaa0308000780f3 020200 02020100 02020500 0202af"""


def _mac(last: int) -> bytes:
    return bytes((2, 0, 0, 0, 0, last))


def ethernet(kind: int, payload: bytes, source: bytes = _mac(2), target: bytes = _mac(1)) -> bytes:
    """Return a frame with an Ethernet type, or with a length."""
    return target + source + kind.to_bytes(2, "big") + payload


def _ip(
    protocol: int, payload: bytes, source: str = "10.0.0.1", target: str = "10.0.0.2",
    options: bytes = b"", fragment: int = 0, ttl: int = 64, tos: int = 0,
) -> bytes:  # fmt: skip
    length = 20 + len(options)
    return struct.pack(
        "!BBHHHBBH4s4s", 0x40 | length // 4, tos, length + len(payload), 7, fragment, ttl,
        protocol, 0, _HOSTS4[source], _HOSTS4[target],
    ) + options + payload  # fmt: skip


def _ip6(
    protocol: int, payload: bytes, source: bytes = _LINK_LOCAL, target: bytes = _GLOBAL,
    flow: int = 0,
) -> bytes:  # fmt: skip
    return (
        struct.pack("!IHBB16s16s", 6 << 28 | flow, len(payload), protocol, 255, source, target)
        + payload
    )


def _tcp(
    source: int, target: int, flags: int = 2, payload: bytes = b"", options: bytes = b""
) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    header = struct.pack("!HHIIBBHHH", source, target, 1 << 31, 0, offset, flags, 512, 0, 0)
    return header + options + payload


def _udp(source: int, target: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHHH", source, target, 8 + len(payload), 0) + payload


def _transports() -> Iterator[tuple[int, bytes]]:
    for number, (source, target) in enumerate(_PORTS):
        yield 6, _tcp(source, target, flags=1 << number % 8)
        yield (
            6,
            _tcp(
                target,
                source,
                flags=0x12,
                payload=b"GET / HTTP/1.0",
                options=bytes(4 * (number % 4)),
            ),
        )
        yield 17, _udp(source, target, bytes(number * 11))
        yield 132, struct.pack("!HHII", source, target, 0, 0)
    yield 17, _udp(9, 53, bytes.fromhex("12345678ff00"))
    yield 17, _udp(9, 99, bytes.fromhex("8000ff"))
    for protocol in (0, 2, 9, 43, 44, 47, 50, 51, 58, 89, 103, 112, 255):
        yield protocol, bytes.fromhex("8000000000000000") + bytes(30)
    yield 51, struct.pack("!BBHII", 6, 4, 0, 1, 1) + bytes(12) + _tcp(1, 80)


def _internet() -> Iterator[bytes]:
    names = list(_HOSTS4)
    for number, (protocol, payload) in enumerate(_transports()):
        source, target = names[number % 5], names[(number * 3 + 1) % len(names)]
        options = b"\1" * (4 * (number % 3))
        yield ethernet(
            0x0800,
            _ip(protocol, payload, source, target, options, ttl=number * 9 % 256, tos=number),
        )
        ends = (_LINK_LOCAL, _GLOBAL)[number % 2], (_GLOBAL, _ALL_NODES, _OSPF)[number % 3]
        yield ethernet(0x86DD, _ip6(protocol, payload, *ends, flow=number % 4))
    yield ethernet(0x0800, _ip(6, _tcp(1, 80), "10.0.0.1", "10.0.0.1"))
    yield ethernet(0x0800, _ip(6, _tcp(1, 80), "10.0.0.1", "10.0.0.3"))
    yield ethernet(0x0800, _ip(17, _udp(1, 53), fragment=0x2000))
    yield ethernet(0x0800, _ip(17, bytes(30), fragment=0x2004))
    yield ethernet(0x0800, _ip(17, _udp(53, 1, bytes(1400)), fragment=0x4000))
    for kind in (0, 3, 8, 11, 13):
        yield ethernet(0x0800, _ip(1, bytes((kind, 3)) + bytes(20)))
    for kind in (1, 128, 129, 133, 134, 135, 136):
        yield ethernet(0x86DD, _ip6(58, bytes((kind, 0)) + bytes(20)))
    fragment = bytes((6, 0, 0, 1)) + bytes(4)
    yield ethernet(0x86DD, _ip6(44, fragment + _tcp(1, 80)))


def _link_layer() -> Iterator[bytes]:
    inner = _ip(6, _tcp(5, 80))
    for kind in (0x6001, 0x6002, 0x6003, 0x6004, 0x809B, 0x80F3, 0x8137, 0x88CC, 0x8863):
        yield ethernet(kind, bytes(40))
    addresses = _mac(2) + _HOSTS4["10.0.0.2"] + bytes(6) + _HOSTS4["10.0.0.1"]
    for kind, operation in ((0x0806, 1), (0x0806, 2), (0x8035, 3)):
        arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + addresses
        yield ethernet(kind, arp, target=b"\xff" * 6)
    yield ethernet(
        0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + addresses[10:] + addresses[:10]
    )
    for llc in _LLC.split():
        body = bytes.fromhex(llc).ljust(46, b"\2")
        yield ethernet(len(body), body, target=bytes.fromhex("01005e000012"))
    yield ethernet(0x0800, inner, source=_mac(3), target=_mac(2))
    for tags in (((0x8100, 100),), ((0x8100, 100), (0x8100, 200)), ((0x88A8, 300), (0x8100, 1))):
        for kind, payload in ((0x0800, inner), (0x86DD, _ip6(17, _udp(3, 4)))):
            body, following = payload, kind
            for tag, identity in reversed(tags):
                body, following = struct.pack("!HH", identity, following) + body, tag
            yield ethernet(following, body)
    for labels in ((100000,), (100000, 1024), (16,)):
        stack = b"".join(
            struct.pack("!I", label << 12 | (at == len(labels) - 1) << 8 | 9)
            for at, label in enumerate(labels)
        )
        yield ethernet(0x8847, stack + inner)
    for session in (0x27, 1):
        header = struct.pack("!BBHHH", 0x11, 0, session, 2 + len(inner), 0x0021)
        yield ethernet(0x8864, header + inner)
        yield ethernet(0x8864, header + _ip(6, _tcp(5, 443)))


def _tunnels() -> Iterator[bytes]:
    inner = ethernet(0x0800, _ip(6, _tcp(5, 80)))
    for identity in (0x123, 5):
        geneve = struct.pack("!BBHI", 0, 0, 0x6558, identity << 8) + inner
        yield ethernet(0x0800, _ip(17, _udp(7, 6081, geneve)))
        yield ethernet(0x86DD, _ip6(17, _udp(7, 6081, geneve)))
    yield ethernet(0x0800, _ip(17, _udp(7, 4789, struct.pack("!II", 8 << 24, 5 << 8) + inner)))
    yield ethernet(0x0800, _ip(47, struct.pack("!HH", 0, 0x0800) + inner[14:]))


def made() -> list[bytes]:
    """Return all of them, as long as Ethernet's shortest frame or not, and most of them cut too."""
    found = [*_internet(), *_link_layer(), *_tunnels()]
    found += [frame.ljust(60, b"\0") for frame in found[::3]]
    found += [frame[: 15 + 7 * number % 60] for number, frame in enumerate(found[::4])]
    return found
