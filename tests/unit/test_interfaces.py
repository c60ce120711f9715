# SPDX-License-Identifier: Apache-2.0
"""What rtnetlink reports of an interface, and what follows for programs on it."""

import struct

import pytest
from structlog.testing import capture_logs

from xdpscope.discovery import interfaces
from xdpscope.discovery.interfaces import Decoder, Interface
from xdpscope.discovery.model import Attachment, Mode, interface_name
from xdpscope.discovery.namespaces import NamespaceSource
from xdpscope.discovery.uppers import Uppers
from xdpscope.errors import KernelError

XDP, NATIVE = 43, 5


def attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)


def message(index: int, *attributes: bytes) -> bytes:
    return struct.pack("=BxHiII", 0, 1, index, 0, 0) + b"".join(attributes)


def number(value: int) -> bytes:
    return struct.pack("=I", value)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"eth0\0", "eth0"),
        (b"eth0\0left\0over", "eth0"),
        ("größe".encode(), "größe"),
        (b"a\xff", "a\\xff"),
        (b"a\xfe", "a\\xfe"),
        (rb"a\xff", r"a\\xff"),
    ],
)
def test_names(raw: bytes, shown: str) -> None:
    assert interface_name(raw) == shown


def test_netvsc_and_its_virtual_function() -> None:
    """netvsc has no kind of its own; only its bus tells. It receives packets itself as well."""
    vmbus = attribute(57, b"vmbus\0")
    xdp = attribute(XDP, attribute(NATIVE, number(7)))
    decoder = Decoder()
    upper, lower, other = found = [
        decoder.decode(message(2, attribute(3, b"eth0\0"), vmbus, xdp)),
        decoder.decode(message(3, attribute(3, b"eth1\0"), attribute(10, number(2)))),
        decoder.decode(message(4, attribute(3, b"eth2\0"), attribute(57, b"pci\0"))),
    ]
    assert upper == Interface(2, "eth0", ((Mode.NATIVE, 7),), "hv_netvsc")
    assert (lower.master, other.kind) == (2, "")
    uppers = Uppers.of(found)
    assert uppers.names == {"eth1": ("eth0",)}
    assert list(uppers.attachments("host", upper, Mode.NATIVE)) == [
        Attachment("host", "eth0", Mode.NATIVE),
        Attachment("host", "eth1", Mode.NATIVE, via="eth0"),
    ]


def test_the_port_of_a_bridge_does_not_receive_its_packets() -> None:
    bridge = Decoder().decode(message(2, attribute(18, attribute(1, b"bridge\0"))))
    assert bridge.kind == "bridge"
    port = Interface(3, "eth1", (), "veth", master=2)
    uppers = Uppers.of([bridge, port])
    assert uppers.names == {}
    assert [at.via for at in uppers.attachments("host", bridge, Mode.NATIVE)] == [""]


def test_our_own_namespace_never_holds_still(monkeypatch: pytest.MonkeyPatch) -> None:
    with NamespaceSource(everywhere=False) as source:
        before = source.read()
        assert before.seen[0].interfaces
        monkeypatch.setattr(interfaces, "_ATTEMPTS", 0)
        with capture_logs() as log:
            assert source.read() == source.read() == before
        assert [entry["netns"] for entry in log] == ["host"]
        assert "EAGAIN" in log[0]["error"]
    with NamespaceSource(everywhere=False) as source, pytest.raises(KernelError):
        source.read()
