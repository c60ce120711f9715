# SPDX-License-Identifier: Apache-2.0
"""To which flow a frame belongs, by dpkt's idea of every header.

Of the rules that docs and bpf/common/packet.h give this is another implementation: each header is
cut out of the frame and read by the library, which knows where its fields are. The library
never sees more than that one header, since it would believe the lengths that a packet
claims, and go on.
"""

import struct
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple, TypeVar

from dpkt import Packet
from dpkt.ethernet import (
    ETH_TYPE_8021AD,
    ETH_TYPE_8021Q,
    ETH_TYPE_IP,
    ETH_TYPE_IP6,
    ETH_TYPE_MPLS,
    ETH_TYPE_MPLS_MCAST,
    ETH_TYPE_PPPoE,
    Ethernet,
    VLANtag8021Q,
)
from dpkt.icmp import ICMP
from dpkt.icmp6 import ICMP6
from dpkt.ip import (
    IP,
    IP_PROTO_AH,
    IP_PROTO_DSTOPTS,
    IP_PROTO_FRAGMENT,
    IP_PROTO_HOPOPTS,
    IP_PROTO_ICMP,
    IP_PROTO_ICMP6,
    IP_PROTO_ROUTING,
    IP_PROTO_SCTP,
    IP_PROTO_TCP,
    IP_PROTO_UDP,
)
from dpkt.ip6 import IP6, IP6FragmentHeader, IP6OptsHeader
from dpkt.sctp import SCTP
from dpkt.tcp import TCP
from dpkt.udp import UDP

NOT_IP = "not_ip"
TRUNCATED = "truncated"

MOST_LAYER2_HEADERS = 8
"""Tags, labels and the like that are followed, between Ethernet and IP."""
MOST_EXTENSIONS = 6

IP_PROTO_DCCP, IP_PROTO_UDPLITE = 33, 136

_TAGS = (ETH_TYPE_8021Q, ETH_TYPE_8021AD, 0x9100, 0x9200, 0x9300)
_MPLS = (ETH_TYPE_MPLS, ETH_TYPE_MPLS_MCAST)
# RFC 1661, RFC 3032: what PPP calls that for which Ethernet has a type.
_IN_PPP = {0x0021: ETH_TYPE_IP, 0x0057: ETH_TYPE_IP6, 0x0281: ETH_TYPE_MPLS}


class UDPLITE(UDP):
    """RFC 3828: as UDP's, with the checksum's coverage for the length."""


class DCCP(Packet):
    """RFC 4340, 5.1: what the headers of all packets begin with."""

    __hdr__ = (
        ("sport", "H", 0),
        ("dport", "H", 0),
        ("offset", "B", 0),
        ("coverage", "B", 0),
        ("sum", "H", 0),
        ("kind", "B", 0),
        ("sequence", "3s", b""),
    )


class PPPoESession(Packet):
    """RFC 2516, 4, with the protocol of PPP behind it."""

    __hdr__ = (
        ("version_type", "B", 0x11),
        ("code", "B", 0),
        ("session", "H", 0),
        ("len", "H", 0),
        ("protocol", "H", 0),
    )


_WITH_PORTS = {
    IP_PROTO_TCP: TCP,
    IP_PROTO_UDP: UDP,
    IP_PROTO_SCTP: SCTP,
    IP_PROTO_UDPLITE: UDPLITE,
    IP_PROTO_DCCP: DCCP,
}
_ICMP = {4: (IP_PROTO_ICMP, ICMP), 6: (IP_PROTO_ICMP6, ICMP6)}
_OPTIONS_LIKE = (IP_PROTO_HOPOPTS, IP_PROTO_ROUTING, IP_PROTO_DSTOPTS)


class Flow(NamedTuple):
    """What the packets of one flow have in common."""

    protocol: str
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0


H = TypeVar("H", bound=Packet)


class _Truncated(Exception):
    pass


class _NotIp(Exception):
    pass


class _Rest:
    """What of a frame was not yet read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def peek(self, kind: type[H]) -> H:
        """Return the header that comes next, without what belongs to it beyond its fixed part."""
        # Each class goes on to read what follows its header: so its base reads for it.
        header = kind.__new__(kind)
        try:
            Packet.unpack(header, self.data[: kind.__hdr_len__])
        except struct.error:
            raise _Truncated from None
        return header

    def skip(self, size: int) -> None:
        if size > len(self.data):
            raise _Truncated
        self.data = self.data[size:]

    def take_bytes(self, size: int) -> bytes:
        found = self.data[:size]
        self.skip(size)
        return found

    def take(self, kind: type[H]) -> H:
        header = self.peek(kind)
        self.skip(kind.__hdr_len__)
        return header


def flow_of(frame: bytes, *, layer3: bool = False) -> Flow | str:
    """Return the flow of a packet, or NOT_IP or TRUNCATED.

    Args:
        frame: An Ethernet frame.
        layer3: It is none: the packet begins with IP, as on a tun.
    """
    rest = _Rest(frame)
    try:
        return _flow_of(rest, _version(rest) if layer3 else _layer2(rest))
    except _Truncated:
        return TRUNCATED
    except _NotIp:
        return NOT_IP


def _version(rest: _Rest) -> int:
    """Return the type that Ethernet would give an IP packet."""
    if not rest.data:
        raise _Truncated
    return {4: ETH_TYPE_IP, 6: ETH_TYPE_IP6}.get(rest.data[0] >> 4, 0)


def _layer2(rest: _Rest) -> int:
    """Return the type of what follows Ethernet, tags, labels and PPPoE."""
    kind = rest.take(Ethernet).type
    for _ in range(MOST_LAYER2_HEADERS):
        if kind in _TAGS:
            kind = rest.take(VLANtag8021Q).type
        elif kind in _MPLS:
            if int.from_bytes(rest.take_bytes(4), "big") >> 8 & 1:
                return _version(rest)
        elif kind == ETH_TYPE_PPPoE:
            session = rest.take(PPPoESession)
            if (session.version_type, session.code) != (0x11, 0):
                raise _NotIp
            kind = _IN_PPP.get(session.protocol, 0)
    return kind


def _flow_of(rest: _Rest, kind: int) -> Flow:
    if kind == ETH_TYPE_IP:
        return _flow4(rest)
    if kind == ETH_TYPE_IP6:
        return _flow6(rest)
    raise _NotIp


def _flow4(rest: _Rest) -> Flow:
    ip = rest.peek(IP)
    if ip.v != 4 or ip.hl * 4 < IP.__hdr_len__:
        raise _NotIp
    rest.skip(ip.hl * 4)
    return _flow(4, ip, ip.p, rest if ip.offset == 0 else None)


def _flow6(rest: _Rest) -> Flow:
    ip = rest.take(IP6)
    if ip.v != 6:
        raise _NotIp
    protocol, first = ip.nxt, True
    for _ in range(MOST_EXTENSIONS):
        if protocol in _OPTIONS_LIKE or protocol == IP_PROTO_AH:
            # All begin alike; AH has its own unit of length (RFC 4302, 2.2).
            header = rest.peek(IP6OptsHeader)
            units = (header.len + 2) * 4 if protocol == IP_PROTO_AH else (header.len + 1) * 8
            rest.skip(units)
        elif protocol == IP_PROTO_FRAGMENT:
            header = rest.take(IP6FragmentHeader)
            first = header.frag_off == 0
        else:
            break
        protocol = header.nxt
        if not first:
            break
    return _flow(6, ip, protocol, rest if first else None)


def _flow(version: int, ip: IP | IP6, protocol: int, transport: _Rest | None) -> Flow:
    """``transport`` is None in a fragment that is not the first."""
    number, message = _ICMP[version]
    name, ports = str(protocol), (0, 0)
    if protocol in _WITH_PORTS:
        kind = _WITH_PORTS[protocol]
        name = kind.__name__.lower()
        if transport is not None:
            header = transport.take(kind)
            ports = header.sport, header.dport
    elif protocol == number:
        name = "icmp" if version == 4 else "icmpv6"
        if transport is not None:
            header = transport.take(message)
            ports = header.type, header.code
    return Flow(name, address(ip.src), address(ip.dst), *ports)


@lru_cache(1 << 16)
def address(packed: bytes) -> str:
    """As `ipaddress` writes it."""
    return str(ip_address(packed))
