# SPDX-License-Identifier: Apache-2.0
"""Select flows of the table. The tests use the kernel's keys, without a loop over flows."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from xdpscope.program_types.xdp import VERDICTS

Network: TypeAlias = IPv4Network | IPv6Network

Order = Literal["rate", "packets", "bytes"]

ORDERS: tuple[Order, ...] = get_args(Order)
"""The columns by which flows can be sorted."""

PROTOCOLS = {(4, 1): "icmp", (6, 58): "icmpv6"} | {
    (version, number): name
    for version in (4, 6)
    for number, name in ((6, "tcp"), (17, "udp"), (33, "dccp"), (132, "sctp"), (136, "udplite"))
}
"""The name by IP version and protocol number. Other protocols have their number as name."""


@dataclass(frozen=True, slots=True)
class FlowQuery:
    """The conditions of a query for flows. None admits every flow."""

    limit: int | None = None  # the largest number of flows
    sort: Order = "rate"  # the largest first
    program: str | None = None  # id, tag or glob of the entry function
    interface: str | None = None  # glob
    netns: str | None = None  # glob
    verdict: str | None = None  # one of VERDICTS
    protocol: str | None = None  # one of PROTOCOLS' names, or a number
    source: Network | None = None
    destination: Network | None = None
    port: int | None = None  # source port or destination port

    def matches(self, version: int, keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which flows the query admits, as an array of booleans.

        Args:
            version: The IP version of all these flows.
            keys: ``struct flow4_key`` or ``struct flow6_key``, shape (flows,).
        """
        wanted = np.ones(len(keys), bool)
        if self.verdict is not None:
            wanted &= keys["verdict"] == VERDICTS.index(self.verdict)
        if self.protocol is not None:
            wanted &= keys["protocol"] == _protocol_number(version, self.protocol)
        for side, network in (("source", self.source), ("destination", self.destination)):
            if network is not None:
                wanted &= _within(network, version, keys[side])
        if self.port is not None:
            ports = octets(keys["ports"]).view(">u2")
            wanted &= (ports == self.port).any(axis=1)
        return wanted


def _protocol_number(version: int, name: str) -> int:
    """Return the number in a key; -1 if no key of this IP version has that protocol."""
    if name.isdecimal():
        return int(name)
    numbers = (number for (of, number), each in PROTOCOLS.items() if (of, each) == (version, name))
    return next(numbers, -1)


def _within(network: Network, version: int, addresses: NDArray[Any]) -> NDArray[np.bool_]:
    if network.version != version:
        return np.zeros(len(addresses), bool)
    # Any octet after the prefix matches, so compare only the octets of the prefix.
    prefix = -(-network.prefixlen // 8)
    first, mask = (
        np.frombuffer(address.packed[:prefix], np.uint8)
        for address in (network.network_address, network.netmask)
    )
    found: NDArray[np.bool_] = ((octets(addresses)[:, :prefix] & mask) == first).all(axis=1)
    return found


def octets(column: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the octets of a field, in the order of the packet; shape (flows, octets)."""
    size = column.dtype.itemsize * int(np.prod(column.shape[1:]))
    return np.ascontiguousarray(column).view(np.uint8).reshape(len(column), size)
