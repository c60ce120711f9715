# SPDX-License-Identifier: Apache-2.0
"""Interfaces and the XDP programs attached to them, over rtnetlink(7).

The agent needs a few of some sixty attributes, of every interface, every few seconds. A general
decoder takes thirty times as long as this module. On a host with hundreds of interfaces that was
most of the idle agent's cost (docs/decisions/0004). An interface whose message has not changed is
not decoded again.
"""

import ctypes
import fcntl
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EAGAIN
from typing import Self

from xdpscope.discovery.model import Mode, interface_name
from xdpscope.errors import KernelError
from xdpscope.kernel import netns

# include/uapi/linux/netlink.h
_HEADER = struct.Struct("=LHHLL")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_NUMBER = struct.Struct("=L")
_ERROR = struct.Struct("=i")
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

# include/uapi/linux/rtnetlink.h
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_RTEXT_FILTER_SKIP_STATS = 1 << 3  # omit the counters, which are most of an answer (4.6)

# include/uapi/linux/if_link.h
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK, _IFLA_XDP = 3, 10, 18, 29, 43
_IFLA_PARENT_DEV_BUS_NAME = 57  # 5.14
_IFLA_INFO_KIND = 1
# The attribute within IFLA_XDP that carries each mode's program id (4.19).
_MODES = {5: Mode.NATIVE, 6: Mode.GENERIC, 7: Mode.OFFLOAD}

BOND, NETVSC = "bond", "hv_netvsc"
"""Kinds that pass a program on to other interfaces; see uppers.py."""

# netvsc has no kind of its own; no other network device is on this bus.
_BUS_OF_NETVSC = "vmbus"

# include/uapi/linux/sockios.h, ethtool.h, if.h
_SIOCETHTOOL, _ETHTOOL_GDRVINFO, _ETHTOOL_GFLAGS = 0x8946, 0x03, 0x25
_DRVINFO_SIZE, _DRVINFO_DRIVER = 196, slice(4, 36)  # struct ethtool_drvinfo
_FLAGS_SIZE, _STRIPS_VLAN = 8, 1 << 8  # struct ethtool_value, ETH_FLAG_RXVLAN
_IFREQ = struct.Struct("16sP16x")  # struct ifreq: name, data

_ATTEMPTS = 10
_READ_SIZE = 1 << 17  # more than the kernel puts into one answer


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface and the id of the program it runs in each mode."""

    index: int
    name: str
    programs: tuple[tuple[Mode, int], ...]
    kind: str = ""  # the kernel's name of a virtual device's type, or NETVSC
    master: int = 0  # ifindex of the bond, bridge, … that it is a part of
    # Only of one that runs a program, or may do so for a bond:
    driver: str = ""  # as ethtool(8) shows it; empty if unknown
    strips_vlan: bool = False  # takes VLAN tags out of packets before its program sees them


class Decoder:
    """Decodes the kernel's messages about interfaces, and remembers recent ones."""

    def __init__(self) -> None:
        # Reused for each dump: the kernel would have to page new memory in each time.
        self.room = memoryview(bytearray(_READ_SIZE))
        self._known: dict[bytes, Interface] = {}
        self._used: dict[bytes, Interface] = {}

    def decode(self, message: bytes, opened: socket.socket | None = None) -> Interface:
        """Return the interface that a message describes; it begins with ``struct ifinfomsg``.

        Args:
            message: The message.
            opened: A socket of the interface's namespace, to ask for its driver.
        """
        found = self._known.get(message)
        if found is None:
            found = _interface(memoryview(message), opened)
        self._used[message] = found
        return found

    def forget_unused(self) -> None:
        """Forget the messages that were not decoded since the last call."""
        self._known, self._used = self._used, {}


class InterfaceSource:
    """The interfaces of one network namespace: the namespace of the thread that opens this.

    The namespace lives as long as this is open.
    """

    def __init__(self, decoder: Decoder | None = None) -> None:
        """Open a socket.

        Args:
            decoder: Whoever reads again and again keeps one.
        """
        self._decoder = decoder or Decoder()
        self._socket = _opened()
        self._sequence = 0
        self._cookie = netns.cookie_of(self._socket) if netns.has_cookies() else None

    def close(self) -> None:
        """Close the netlink socket."""
        self._socket.close()

    @property
    def namespace_cookie(self) -> int | None:
        """Return the cookie of the namespace; None where inode numbers identify namespaces."""
        return self._cookie

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> list[Interface]:
        """Return all interfaces, in one state.

        A dump that changes interrupted may lack some, or have one twice. It is repeated.

        Raises:
            KernelError: the kernel refused, or each dump was interrupted (EAGAIN).
        """
        if self._socket.fileno() < 0:
            self._socket = _opened()
        try:
            for _ in range(_ATTEMPTS):
                found = self._dump()
                if found is not None:
                    return found
        except (KernelError, OSError):
            # The kernel still has the rest of that dump to send, and starts no other until then.
            self._socket.close()
            raise
        raise KernelError("interfaces change faster than they can be listed", EAGAIN)

    def _dump(self) -> list[Interface] | None:
        """Return one dump; None if changes interrupted it."""
        self._sequence += 1
        mask = _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + _NUMBER.pack(_RTEXT_FILTER_SKIP_STATS)
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + mask
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, _RTM_GETLINK, flags, self._sequence, 0) + body)
        found: list[Interface] = []
        consistent = True
        while True:
            for kind, flags, message in self._messages():
                consistent &= not flags & _NLM_F_DUMP_INTR
                if kind == _RTM_NEWLINK:
                    found.append(self._decoder.decode(bytes(message), self._socket))
                elif kind == _NLMSG_ERROR:
                    errno = -_ERROR.unpack_from(message)[0]
                    raise KernelError("listing interfaces failed", errno)
                elif kind == _NLMSG_DONE:
                    return found if consistent else None

    def _messages(self) -> Iterator[tuple[int, int, memoryview]]:
        """Yield (type, flags, body) of the answers to the last request in one read."""
        room = self._decoder.room
        data = room[: self._socket.recv_into(room)]
        while len(data) >= _HEADER.size:
            size, kind, flags, sequence, _ = _HEADER.unpack_from(data)
            if sequence == self._sequence:
                yield kind, flags, data[_HEADER.size : size]
            data = data[_aligned(size) :]


def _opened() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)


def _aligned(size: int) -> int:
    return size + 3 & ~3


def _attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : size]
        data = data[_aligned(max(size, _ATTRIBUTE.size)) :]


def _text(value: memoryview) -> str:
    return bytes(value).partition(b"\0")[0].decode(errors="replace")


def _driver(opened: socket.socket, name: bytes) -> str:
    """Return the name of an interface's driver; empty if it is not known.

    For a driver that does not answer, the kernel does (net/ethtool/ioctl.c: ethtool_get_drvinfo).
    """
    return _text(_ethtool(opened, name, _ETHTOOL_GDRVINFO, _DRVINFO_SIZE)[_DRVINFO_DRIVER])


def _strips_vlan(opened: socket.socket, name: bytes) -> bool:
    """Return whether an interface has the feature ``rx-vlan-offload`` switched on."""
    return bool(
        _NUMBER.unpack_from(_ethtool(opened, name, _ETHTOOL_GFLAGS, _FLAGS_SIZE), 4)[0]
        & _STRIPS_VLAN
    )


def _ethtool(opened: socket.socket, name: bytes, command: int, size: int) -> memoryview:
    """Return the answer to a command of ethtool(8), which begins with it; zeroes if there is none.

    Any socket will do: the ioctl goes to the device of that name in the socket's namespace.
    """
    answer = bytearray(size)
    _NUMBER.pack_into(answer, 0, command)
    room = (ctypes.c_char * size).from_buffer(answer)
    try:
        fcntl.ioctl(opened, _SIOCETHTOOL, _IFREQ.pack(name, ctypes.addressof(room)))
    except OSError:
        return memoryview(bytes(size))
    return memoryview(answer)


def _interface(message: memoryview, opened: socket.socket | None = None) -> Interface:
    index: int = _LINK.unpack_from(message)[2]
    name, kind, master, raw = "", "", 0, b""
    programs: tuple[tuple[Mode, int], ...] = ()
    for type, value in _attributes(message[_LINK.size :]):
        if type == _IFLA_IFNAME:
            raw = bytes(value).partition(b"\0")[0]
            name = interface_name(raw)
        elif type == _IFLA_MASTER:
            master = _NUMBER.unpack(value)[0]
        elif type == _IFLA_LINKINFO:
            kind = _text(dict(_attributes(value)).get(_IFLA_INFO_KIND, value[:0]))
        elif type == _IFLA_PARENT_DEV_BUS_NAME and _text(value) == _BUS_OF_NETVSC:
            kind = NETVSC
        elif type == _IFLA_XDP:
            programs = tuple(
                (_MODES[number], _NUMBER.unpack(id)[0])
                for number, id in _attributes(value)
                if number in _MODES
            )
    runs = programs or master  # a bond runs its program on its lower devices
    if not runs or opened is None:
        return Interface(index, name, programs, kind, master)
    driver, strips_vlan = _driver(opened, raw), _strips_vlan(opened, raw)
    return Interface(index, name, programs, kind, master, driver, strips_vlan)
