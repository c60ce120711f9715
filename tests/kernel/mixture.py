# SPDX-License-Identifier: Apache-2.0
"""Frames of thousands of flows, made by scapy, each with the flow that it was made for.

So each flow has two independent sources: the fields given to scapy, and the fields that
`tests.reference` reads. Making the frames takes seconds, and a minute on an emulated machine:
``python -m tests.kernel.programs`` makes them beforehand.
"""

import json
import logging
import random
from collections.abc import Callable
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.kernel.programs import REPOSITORY
from tests.reference import NOT_IP, TRUNCATED, Flow

if TYPE_CHECKING:
    from scapy.packet import Packet

OUTPUT = REPOSITORY / "build" / "test-programs" / "mixture.json"

FLOWS = 3000


class Sample(NamedTuple):
    """A frame and what it was made to be."""

    frame: bytes
    flow: Flow | str


@cache
def samples() -> list[Sample]:
    """Return all frames, of more than FLOWS flows; made if this file is newer than they are."""
    if not OUTPUT.exists() or OUTPUT.stat().st_mtime < Path(__file__).stat().st_mtime:
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger("scapy").setLevel(logging.ERROR)
        made = [(frame.hex(), flow) for frame, flow in _Maker().make()]
        temporary = OUTPUT.with_suffix(".partial")
        temporary.write_text(json.dumps(made))
        temporary.replace(OUTPUT)
    return [
        Sample(bytes.fromhex(frame), flow if isinstance(flow, str) else Flow(*flow))
        for frame, flow in json.loads(OUTPUT.read_text())
    ]


class _Maker:
    def __init__(self) -> None:
        self._random = random.Random(20)
        self._layer2: dict[bytes, int] = {}  # how long it is, by frame

    def make(self) -> list[Sample]:
        made = [self._flow(number) for number in range(FLOWS + 200)]
        flows = [sample for sample in made if not isinstance(sample.flow, str)]
        made += [self._cut(self._random.choice(flows)) for _ in range(300)]
        made += [Sample(self._ethernet(bytes(packet)), NOT_IP) for packet in self._not_ip()]
        return made

    def _flow(self, number: int) -> Sample:
        version = 4 if number % 2 else 6
        make = self._ipv4 if version == 4 else self._ipv6
        packet, flow = make()
        return Sample(self._ethernet(packet, 0x0800 if version == 4 else 0x86DD), flow)

    def _ethernet(self, packet: bytes, kind: int | None = None) -> bytes:
        """Behind tags, labels and PPPoE; the kind of ``packet`` is that, or what it begins with."""
        from scapy.contrib.mpls import MPLS
        from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
        from scapy.layers.ppp import PPP, PPPoE

        if kind is None:
            return packet
        tags = self._random.choice(
            [[], [], [], [Dot1Q], [Dot1AD], [Dot1AD, Dot1Q], [Dot1Q, Dot1Q], [Dot1AD, Dot1Q, Dot1Q]]
        )
        # The last byte is what decide_by_source_mac goes by.
        source = f"02:00:00:00:00:{self._random.choice([0, 1, 2, 3, 4, 77]):02x}"
        frame = Ether(dst="02:00:00:00:00:02", src=source)
        for tag in tags:
            frame = frame / tag(
                vlan=self._random.randrange(1, 4095), prio=self._random.randrange(8)
            )
        if self._random.randrange(8) == 0:
            frame.lastlayer().type = self._random.choice([0x9100, 0x9200, 0x9300])
            frame = frame / Dot1Q(vlan=self._random.randrange(1, 4095))
        match self._random.choice(["", "", "", "", "mpls", "pppoe"]):
            case "mpls":
                frame.lastlayer().type = self._random.choice([0x8847, 0x8848])
                labels = self._random.randrange(1, 4)
                for number in range(labels):
                    label = self._random.randrange(16, 1 << 20)
                    frame = frame / MPLS(label=label, s=number == labels - 1, ttl=9)
            case "pppoe":
                frame.lastlayer().type = 0x8864
                protocol = 0x0021 if kind == 0x0800 else 0x0057
                session = self._random.randrange(1, 65536)
                frame = frame / PPPoE(sessionid=session, len=len(packet) + 2)
                frame = frame / PPP(proto=protocol)
            case _:
                frame.lastlayer().type = kind
        made = bytes(frame) + packet
        self._layer2[made] = len(made) - len(packet)
        return made

    def _ports(self) -> tuple[int, int]:
        return self._random.randrange(1, 65536), self._random.randrange(1, 65536)

    def _payload(self) -> bytes:
        return self._random.randbytes(self._random.choice([0, 1, 18, 100, 300, 1200]))

    def _transport(self, version: int) -> tuple["Packet", int, str, tuple[int, int]]:
        """Return a transport header with payload; its protocol's number and name, and ports."""
        from scapy.layers.inet import ICMP, TCP, UDP
        from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6Unknown
        from scapy.layers.l2 import GRE
        from scapy.layers.sctp import SCTP
        from scapy.packet import Raw

        source, destination = self._ports()
        rest = Raw(self._payload())

        def tcp() -> tuple["Packet", int, str, tuple[int, int]]:
            options = self._random.choice([[], [("MSS", 1460), ("SAckOK", b"")]])
            header = TCP(sport=source, dport=destination, flags="S", options=options)
            return header, 6, "tcp", (source, destination)

        def udp() -> tuple["Packet", int, str, tuple[int, int]]:
            return UDP(sport=source, dport=destination), 17, "udp", (source, destination)

        def sctp() -> tuple["Packet", int, str, tuple[int, int]]:
            return SCTP(sport=source, dport=destination), 132, "sctp", (source, destination)

        def udplite() -> tuple["Packet", int, str, tuple[int, int]]:
            header = UDP(sport=source, dport=destination, len=8)
            return header, 136, "udplite", (source, destination)

        def dccp() -> tuple["Packet", int, str, tuple[int, int]]:
            ports = source.to_bytes(2, "big") + destination.to_bytes(2, "big")
            return Raw(ports + bytes(12)), 33, "dccp", (source, destination)

        def icmp() -> tuple["Packet", int, str, tuple[int, int]]:
            kind, code = self._random.randrange(20), self._random.randrange(16)
            return ICMP(type=kind, code=code), 1, "icmp", (kind, code)

        def icmpv6() -> tuple["Packet", int, str, tuple[int, int]]:
            kind, code = self._random.randrange(1, 256), self._random.randrange(8)
            return self._random.choice(
                [
                    (ICMPv6EchoRequest(), 58, "icmpv6", (128, 0)),
                    (ICMPv6ND_NS(), 58, "icmpv6", (135, 0)),
                    (ICMPv6Unknown(type=kind, code=code), 58, "icmpv6", (kind, code)),
                ]
            )

        def gre() -> tuple["Packet", int, str, tuple[int, int]]:
            return GRE(), 47, "47", (0, 0)

        def others() -> tuple["Packet", int, str, tuple[int, int]]:
            # ESP, none at all, EIGRP, and the other version's ICMP
            number = self._random.choice([50, 59, 88, 58 if version == 4 else 1])
            return Raw(b"\1\2"), number, str(number), (0, 0)

        kinds = [
            tcp,
            tcp,
            udp,
            udp,
            sctp,
            udplite,
            dccp,
            icmp if version == 4 else icmpv6,
            gre,
            others,
        ]
        header, number, name, ports = self._random.choice(kinds)()
        return header / rest, number, name, ports

    def _ipv4(self) -> tuple[bytes, Flow]:
        from scapy.layers.inet import IP, IPOption_NOP, IPOption_RR, IPOption_Timestamp

        source, destination = (str(IPv4Address(self._random.randbytes(4))) for _ in range(2))
        options = self._random.choice(
            [[], [], [], [IPOption_NOP()], [IPOption_RR(length=39)], [IPOption_Timestamp()]]
        )
        transport, number, name, ports = self._transport(4)
        ip = IP(src=source, dst=destination, proto=number, options=options)
        fragment = self._random.choice(["whole"] * 5 + ["first", "later", "last"])
        if fragment != "whole":
            ip.flags = 0 if fragment == "last" else "MF"
            ip.frag = 0 if fragment == "first" else self._random.randrange(1, 8192)
        if fragment in ("later", "last"):
            transport, ports = transport.payload, (0, 0)
        return bytes(ip / transport), Flow(name, source, destination, *ports)

    def _ipv6(self) -> tuple[bytes, Flow]:
        from scapy.layers.inet6 import IPv6
        from scapy.packet import Raw

        source, destination = (str(IPv6Address(self._random.randbytes(16))) for _ in range(2))
        transport, number, name, ports = self._transport(6)
        kinds = [0, 43, 44, 51, 60]
        chain = self._random.choices(kinds, k=self._random.choice([0, 0, 0, 0, 1, 1, 2, 3, 6, 7]))
        later = bool(chain) and chain[-1] == 44 and len(chain) <= 6 and self._random.random() < 0.5
        headers = b""
        for at, kind in enumerate(chain):
            following = [*chain, number][at + 1]
            last = at == len(chain) - 1
            headers += self._extension(kind, following, later and last)
        if later:
            ports, transport = (0, 0), transport.payload
        if len(chain) == 7:  # one more than is followed
            name, ports = str(chain[6]), (0, 0)
        ip = IPv6(src=source, dst=destination, nh=(chain or [number])[0])
        return bytes(ip / Raw(headers + bytes(transport))), Flow(name, source, destination, *ports)

    def _extension(self, kind: int, following: int, later: bool) -> bytes:
        from scapy.layers.inet6 import (
            IPv6ExtHdrDestOpt,
            IPv6ExtHdrFragment,
            IPv6ExtHdrHopByHop,
            IPv6ExtHdrRouting,
            PadN,
        )
        from scapy.layers.ipsec import AH

        padding = PadN(optdata=bytes(self._random.randrange(30)))
        made: dict[int, Callable[[], Packet]] = {
            0: lambda: IPv6ExtHdrHopByHop(nh=following, options=[padding]),
            43: lambda: IPv6ExtHdrRouting(
                nh=following, addresses=["::1"] * self._random.choice([0, 2])
            ),
            44: lambda: IPv6ExtHdrFragment(nh=following, m=1, offset=later * 185),
            51: lambda: AH(nh=following, payloadlen=4, icv=bytes(12)),
            60: lambda: IPv6ExtHdrDestOpt(nh=following, options=[padding]),
        }
        return bytes(made[kind]())

    def _cut(self, sample: Sample) -> Sample:
        """Somewhere before the ports: neither family has room for them in so few bytes."""
        shortest = self._layer2[sample.frame] + 1
        version = 6 if ":" in sample.flow.source else 4
        longest = shortest + (38 if version == 6 else 18)
        return Sample(sample.frame[: self._random.randrange(15, longest + 1)], TRUNCATED)

    def _not_ip(self) -> list["Packet"]:
        from scapy.layers.inet import IP, UDP
        from scapy.layers.inet6 import IPv6
        from scapy.layers.l2 import ARP, LLC, SNAP, STP, Dot1Q, Dot3, Ether
        from scapy.layers.ppp import PPP, PPPoE
        from scapy.packet import Raw

        def ethernet(**fields: int) -> "Packet":
            return Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01", **fields)

        nine = ethernet()
        for number in range(9):  # one more than is followed
            nine = nine / Dot1Q(vlan=1 + number)
        return [
            ethernet() / ARP(),
            ethernet() / Dot1Q(vlan=5) / ARP(),
            Dot3(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / LLC() / STP(),
            Dot3(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / LLC() / SNAP() / IP(),
            ethernet() / PPPoE() / PPP(proto=0xC021) / Raw(bytes(50)),
            ethernet() / PPPoE(code=9) / Raw(bytes(50)),
            ethernet(type=0x8847) / Raw(bytes(50)),
            ethernet(type=0x88CC) / Raw(bytes(1)),
            ethernet(type=0x9100) / Raw(bytes(50)),
            nine / IP() / UDP(),
            ethernet(type=0x0800) / IPv6() / UDP(),
            ethernet(type=0x86DD) / IP() / UDP() / Raw(bytes(20)),
            ethernet() / IP(version=5) / UDP(),
            ethernet() / IP(ihl=4) / UDP(),
            ethernet() / IP(ihl=0) / UDP(),
            ethernet() / IPv6(version=4) / UDP(),
        ] * 10
