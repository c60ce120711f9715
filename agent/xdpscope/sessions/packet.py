# SPDX-License-Identifier: Apache-2.0
"""What the headers of a packet say, in short, and what a program changed about them. Pure."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

__all__ = ["Packet", "changes", "dissect"]

_TAGS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)
_MPLS = (0x8847, 0x8848)
_IPV4, _IPV6, _ARP, _TEB, _PPPOE = 0x0800, 0x86DD, 0x0806, 0x6558, 0x8864
_ETHER_TYPES = {0x88CC: "LLDP", 0x8863: "PPPoE discovery", 0x88F7: "PTP", 0x88B5: "local"}

_EXTENSIONS = (0, 43, 60)  # hop-by-hop, routing, destination options
_FRAGMENT, _AH = 44, 51
_ICMP, _ICMPV6, _TCP, _UDP, _GRE = 1, 58, 6, 17, 47
_INNER_IP = {4: _IPV4, 41: _IPV6}
_PROTOCOLS = {
    1: "ICMP", 2: "IGMP", 4: "IPIP", 6: "TCP", 17: "UDP", 33: "DCCP", 41: "IPv6-in-IP",
    47: "GRE", 50: "ESP", 51: "AH", 58: "ICMPv6", 89: "OSPF", 103: "PIM", 112: "VRRP",
    115: "L2TP", 132: "SCTP", 136: "UDP-Lite",
}  # fmt: skip
_WITH_PORTS = (6, 17, 33, 132, 136)
_ICMP_TYPES = {
    0: "echo reply", 3: "unreachable", 4: "source quench", 5: "redirect", 8: "echo request",
    11: "time exceeded", 12: "parameter problem",
}  # fmt: skip
_ICMPV6_TYPES = {
    1: "unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem",
    128: "echo request", 129: "echo reply", 133: "router solicitation",
    134: "router advertisement", 135: "neighbor solicitation", 136: "neighbor advertisement",
}  # fmt: skip
_VXLAN, _GENEVE, _GTP_U = 4789, 6081, 2152
_TCP_FLAGS = (
    (0x02, "SYN"), (0x10, "ACK"), (0x01, "FIN"), (0x04, "RST"), (0x08, "PSH"), (0x20, "URG"),
)  # fmt: skip
_DEEPEST = 4  # tunnels inside each other


@dataclass(frozen=True, slots=True)
class Packet:
    """The headers of a packet, as far as they are there and known."""

    macs: tuple[str, str] | None = None  # source, destination
    vlans: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()  # MPLS
    source: str = ""
    destination: str = ""
    source_port: int | None = None
    destination_port: int | None = None
    protocol: str = ""  # empty: the packet is too short to tell
    detail: str = ""  # of ICMP, TCP and ARP
    hops: int | None = None  # time to live, hop limit
    tunnel: str = ""  # such as ``VXLAN 42``
    inner: "Packet | None" = field(default=None)

    def __str__(self) -> str:
        """``192.168.1.12:5060 -> 192.168.1.138:5060 UDP``, with tags and what a tunnel carries."""
        parts = [f"vlan {tag}" for tag in self.vlans] + [f"mpls {label}" for label in self.labels]
        if self.source:
            parts.append(f"{_end(self.source, self.source_port)} ->")
            parts.append(_end(self.destination, self.destination_port))
        elif self.macs is not None:
            parts += [self.macs[0], "->", self.macs[1]]
        parts.append(self.protocol or "truncated")
        if self.detail:
            parts.append(self.detail)
        if self.inner is not None:
            parts.append(f"[{self.tunnel}: {self.inner}]")
        return " ".join(parts)


def _end(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def dissect(data: bytes, *, layer3: bool = False) -> Packet:
    """Return what the headers say of a packet; with ``layer3`` it begins with IP, not Ethernet."""
    return _network(data, 0, _version_type(data, 0), {}, 0) if layer3 else _ethernet(data, 0)


def _version_type(data: bytes, at: int) -> int:
    version = data[at] >> 4 if at < len(data) else 0
    return {4: _IPV4, 6: _IPV6}.get(version, 0)


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")


def _mac(data: bytes) -> str:
    return data.hex(":")


def _ethernet(data: bytes, depth: int) -> Packet:
    if len(data) < 14:
        return Packet()
    found: dict[str, object] = {"macs": (_mac(data[6:12]), _mac(data[:6]))}
    at, kind = 14, _number(data, 12, 2)
    vlans: list[int] = []
    labels: list[int] = []
    while kind in _TAGS and at + 4 <= len(data):
        vlans.append(_number(data, at, 2) & 0xFFF)
        kind, at = _number(data, at + 2, 2), at + 4
    while kind in _MPLS and at + 4 <= len(data):
        label = _number(data, at, 4)
        labels.append(label >> 12)
        at += 4
        if label & 0x100:
            kind = _version_type(data, at)
    if kind == _PPPOE and at + 8 <= len(data):
        kind, at = {0x21: _IPV4, 0x57: _IPV6}.get(_number(data, at + 6, 2), 0), at + 8
    found |= {"vlans": tuple(vlans), "labels": tuple(labels)}
    return _network(data, at, kind, found, depth)


def _network(data: bytes, at: int, kind: int, found: dict[str, object], depth: int) -> Packet:
    if kind == _IPV4 and at + 20 <= len(data):
        return _ipv4(data, at, found, depth)
    if kind == _IPV6 and at + 40 <= len(data):
        return _ipv6(data, at, found, depth)
    if kind == _ARP and at + 28 <= len(data):
        asks = _number(data, at + 6, 2) == 1
        sender, asked = IPv4Address(data[at + 14 : at + 18]), IPv4Address(data[at + 24 : at + 28])
        what = f"who has {asked}" if asks else f"{sender} is at {_mac(data[at + 8 : at + 14])}"
        ends = {"source": str(sender), "destination": str(asked)}
        return _packet(found, **ends, protocol="ARP", detail=what)
    if kind in (_IPV4, _IPV6, _ARP):
        return _packet(found)
    name = _ETHER_TYPES.get(kind) or (f"type 0x{kind:04x}" if kind >= 0x600 else "LLC")
    return _packet(found, protocol=name if kind else "")


def _packet(found: dict[str, object], **more: object) -> Packet:
    return Packet(**{**found, **more})  # type: ignore[arg-type]


def _ipv4(data: bytes, at: int, found: dict[str, object], depth: int) -> Packet:
    header = (data[at] & 0xF) * 4
    found = found | {
        "source": str(IPv4Address(data[at + 12 : at + 16])),
        "destination": str(IPv4Address(data[at + 16 : at + 20])),
        "hops": data[at + 8],
    }
    first = not _number(data, at + 6, 2) & 0x1FFF
    return _transport(data, at + header, data[at + 9], found, first, depth)


def _ipv6(data: bytes, at: int, found: dict[str, object], depth: int) -> Packet:
    found = found | {
        "source": str(IPv6Address(data[at + 8 : at + 24])),
        "destination": str(IPv6Address(data[at + 24 : at + 40])),
        "hops": data[at + 7],
    }
    following, at, first = data[at + 6], at + 40, True
    while following in (*_EXTENSIONS, _FRAGMENT, _AH) and at + 8 <= len(data) and first:
        if following == _FRAGMENT:
            size, first = 8, not _number(data, at + 2, 2) & 0xFFF8
        else:
            size = (data[at + 1] + 2) * 4 if following == _AH else (data[at + 1] + 1) * 8
        following, at = data[at], at + size
    return _transport(data, at, following, found, first, depth)


def _transport(
    data: bytes, at: int, protocol: int, found: dict[str, object], first: bool, depth: int
) -> Packet:
    found["protocol"] = _PROTOCOLS.get(protocol, f"protocol {protocol}")
    if not first:
        return _packet(found, detail="fragment")
    if protocol in _WITH_PORTS and at + 8 <= len(data):
        found |= {
            "source_port": _number(data, at, 2),
            "destination_port": _number(data, at + 2, 2),
        }
        if protocol == _TCP and at + 14 <= len(data):
            flags = data[at + 13]
            found["detail"] = ",".join(name for bit, name in _TCP_FLAGS if flags & bit)
    elif protocol in (_ICMP, _ICMPV6) and at + 2 <= len(data):
        types = _ICMP_TYPES if protocol == _ICMP else _ICMPV6_TYPES
        found["detail"] = types.get(data[at], f"type {data[at]} code {data[at + 1]}")
    if depth < _DEEPEST:
        found |= _tunnel(data, at, protocol, found, depth + 1)
    return _packet(found)


def _tunnel(
    data: bytes, at: int, protocol: int, found: dict[str, object], depth: int
) -> dict[str, object]:
    """Return what a tunnel carries; nothing if there is none."""
    name, kind = "", 0
    if protocol in _INNER_IP and at < len(data):
        name, kind = _PROTOCOLS[protocol], _INNER_IP[protocol]
    elif protocol == _GRE and at + 4 <= len(data):
        flags, kind = _number(data, at, 2), _number(data, at + 2, 2)
        name = "GRE"
        at += 4 + sum(4 for bit in (0x8000, 0x2000, 0x1000) if flags & bit)
        if kind not in (_IPV4, _IPV6, _TEB):
            return {}
    elif protocol == _UDP and at + 16 <= len(data):
        port = found.get("destination_port")
        if port == _VXLAN and data[at + 8] & 0x08:
            name, kind, at = f"VXLAN {_number(data, at + 12, 3)}", _TEB, at + 16
        elif port == _GENEVE and data[at + 8] >> 6 == 0:
            kind = _number(data, at + 10, 2)
            name = f"Geneve {_number(data, at + 12, 3)}"
            at += 16 + (data[at + 8] & 0x3F) * 4
        elif port == _GTP_U and data[at + 8] >> 5 == 1 and data[at + 9] == 0xFF:
            name, options = f"GTP-U {_number(data, at + 12, 4)}", data[at + 8] & 7
            at = _behind_gtp(data, at + 16, options)
            kind = _version_type(data, at)
    if not name or at >= len(data):
        return {}
    inner = _ethernet(data[at:], depth) if kind == _TEB else _network(data, at, kind, {}, depth)
    return {"tunnel": name, "inner": inner}


def _behind_gtp(data: bytes, at: int, options: int) -> int:
    """Return where the packet begins behind the optional part of a GTP-U header."""
    if not options:
        return at
    following, at = data[at + 3] if at + 3 < len(data) else 0, at + 4
    while following and at < len(data) and data[at]:
        size = data[at] * 4
        following, at = data[at + size - 1] if at + size <= len(data) else 0, at + size
    return at


def changes(before: Packet, after: Packet) -> list[str]:
    """Return what a program changed about the headers, in words; empty if nothing."""
    inside = _layers(after)
    if before.source and any(_same_flow(before, each) for each in inside[1:]):
        return [f"encapsulated in {_envelope(inside)}"]
    inside = _layers(before)
    if after.source and any(_same_flow(after, each) for each in inside[1:]):
        return [f"decapsulated from {_envelope(inside)}"]
    found = []
    if before.vlans != after.vlans:
        found.append(f"vlan {_list(before.vlans)} -> {_list(after.vlans)}")
    if before.labels != after.labels:
        found.append(f"mpls {_list(before.labels)} -> {_list(after.labels)}")
    if before.macs and after.macs and before.macs != after.macs:
        found += _pair("mac", before.macs, after.macs)
    ends = [(_end(p.source, p.source_port), _end(p.destination, p.destination_port))
            for p in (before, after)]  # fmt: skip
    if ends[0] != ends[1]:
        found += _pair("", *ends)
    for name, old, new in (
        ("protocol", before.protocol, after.protocol),
        ("", before.detail, after.detail),
        ("ttl", before.hops, after.hops),
    ):
        if old != new:
            found.append(f"{name} {old or 'none'} -> {new or 'none'}".strip())
    if before.inner is not None and after.inner is not None:
        found += [f"inner {each}" for each in changes(before.inner, after.inner)]
    return found


def _pair(what: str, before: tuple[str, str], after: tuple[str, str]) -> list[str]:
    if before == after[::-1]:
        return [f"{what or 'source and destination'} swapped"]
    names = [f"{what} source".strip(), f"{what} destination".strip()]
    return [
        f"{name} {old or 'none'} -> {new or 'none'}"
        for name, old, new in zip(names, before, after, strict=True)
        if old != new
    ]


def _layers(packet: Packet) -> list[Packet]:
    found = [packet]
    while found[-1].inner is not None:
        found.append(found[-1].inner)
    return found


def _envelope(layers: list[Packet]) -> str:
    return ", ".join(
        f"{outer.tunnel} {outer.source} -> {outer.destination}" for outer, _ in pairwise(layers)
    )


def _same_flow(one: Packet, other: Packet) -> bool:
    def flow(packet: Packet) -> tuple[object, ...]:
        return (packet.source, packet.destination, packet.source_port, packet.destination_port,
                packet.protocol)  # fmt: skip

    return flow(one) == flow(other)


def _list(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers)) or "none"
