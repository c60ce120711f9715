# SPDX-License-Identifier: Apache-2.0
"""Programs by others: xdp-filter of Debian's xdp-tools, as it comes.

Alone on its interface it arrives as a component that libxdp puts in the place of its
dispatcher's entry function; then it is the component that decides, and is counted.
"""

import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kernel.conftest import expect, reasons
from tests.kernel.lab import Lab, Veth
from xdpscope.observer import Observer

pytestmark = pytest.mark.skipif(
    shutil.which("xdp-filter") is None, reason="xdp-filter is missing: install xdp-tools"
)


def udp(port: int, size: int) -> bytes:
    """An Ethernet frame of ``size`` bytes, IPv4 and UDP to ``port``."""
    ethernet = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01" + b"\x08\0"
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0, 64, 17, 0) + addresses
    return (ethernet + ip + struct.pack("!HHHH", 40000, port, size - 34, 0)).ljust(size, b"\0")


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
        observer.look(0)
        veth.send(udp(9999, 60), udp(9999, 1500), times=25)
        veth.send(udp(53, 100), times=40)

        roles = {s.part.role: s.program.function for s in observer.standings()}
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
        observer.look(0)
        xdp_filter("load", veth.name)
        observer.look(0)
        veth.send(udp(53, 100))
        xdp_filter("unload", "--all")
    observer.look(0)
    assert not any(standing.attachments for standing in observer.standings())
