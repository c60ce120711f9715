# SPDX-License-Identifier: Apache-2.0
"""Devices whose packets begin with IP."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kernel.lab import Lab

# include/uapi/linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 1, 0x1000
_PROTOCOLS = {4: 0x0800, 6: 0x86DD}
_EXPERIMENTAL = 0x88B5  # IEEE Std 802


@contextmanager
def tun(lab: Lab, name: str, *, only_ip: bool = True) -> Iterator[int]:
    """Yield a tun that is up; what is written to the descriptor arrives there.

    Unless it is ``only_ip``, a header comes before each packet: see ``with_protocol``.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR)
    try:
        flags = _IFF_TUN | (_IFF_NO_PI if only_ip else 0)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        lab.route.link("set", index=lab.index(name), state="up")
        yield fd
    finally:
        os.close(fd)


def with_protocol(packet: bytes) -> bytes:
    """Return a packet with the header that names its protocol: IP, or one that nobody knows."""
    return struct.pack("!HH", 0, _PROTOCOLS.get(packet[0] >> 4, _EXPERIMENTAL)) + packet
