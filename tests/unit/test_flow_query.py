# SPDX-License-Identifier: Apache-2.0
"""A query finds the flows that a loop over them in plain words finds."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xdpscope import bpf
from xdpscope.libbpf import Object
from xdpscope.probes.flows.query import PROTOCOLS, FlowQuery, Network
from xdpscope.program_types.xdp import VERDICTS

Packet = tuple[str, str, int, int, int, str]
"""Source, destination, ports, protocol, verdict."""

with Object(bpf.path_of("flows")) as _loaded:
    KEYS = {4: _loaded.btf.struct("flow4_key"), 6: _loaded.btf.struct("flow6_key")}

ADDRESSES = {
    4: ["0.0.0.0", "10.0.0.1", "10.0.0.129", "10.1.0.1", "192.0.2.1", "255.255.255.255"],
    6: ["::", "::ffff:10.0.0.1", "2001:db8::1", "2001:db8:0:1::1", "fe80::1"],
}
PORTS = [0, 1, 53, 256, 443, 65535]
NUMBERS = [0, 1, 6, 17, 47, 58, 255]


def packets(version: int) -> st.SearchStrategy[Packet]:
    address = st.sampled_from(ADDRESSES[version])
    port, number = st.sampled_from(PORTS), st.sampled_from(NUMBERS)
    return st.tuples(address, address, port, port, number, st.sampled_from(VERDICTS))


def networks() -> st.SearchStrategy[Network]:
    def network(address: str, length: int) -> Network:
        longest = ip_address(address).max_prefixlen
        return ip_network(f"{address}/{min(length, longest)}", strict=False)

    return st.builds(network, st.sampled_from(ADDRESSES[4] + ADDRESSES[6]), st.integers(0, 128))


QUERIES = st.builds(
    FlowQuery,
    verdict=st.none() | st.sampled_from(VERDICTS),
    protocol=st.none() | st.sampled_from([*PROTOCOLS.values(), "1", "17", "47"]),
    source=st.none() | networks(),
    destination=st.none() | networks(),
    port=st.none() | st.sampled_from(PORTS),
)


def admits(query: FlowQuery, version: int, packet: Packet) -> bool:
    source, destination, source_port, destination_port, number, verdict = packet
    protocols = {str(number), PROTOCOLS.get((version, number))}
    return (
        query.verdict in (None, verdict)
        and (query.protocol is None or query.protocol in protocols)
        and (query.source is None or ip_address(source) in query.source)
        and (query.destination is None or ip_address(destination) in query.destination)
        and query.port in (None, source_port, destination_port)
    )


@given(st.data(), st.sampled_from([4, 6]), QUERIES)
def test_a_query_admits_what_its_words_say(
    data: st.DataObject, version: int, query: FlowQuery
) -> None:
    sent = data.draw(st.lists(packets(version), max_size=20))
    keys = np.zeros(len(sent), KEYS[version])
    for key, packet in zip(keys, sent, strict=True):
        for side, text in zip(("source", "destination"), packet[:2], strict=True):
            octets = np.frombuffer(ip_address(text).packed, "u1")
            key[side] = octets.view("u4")[0] if version == 4 else octets
        key["ports"] = np.array(packet[2:4], ">u2").view("u2")
        key["protocol"], key["verdict"] = packet[4], VERDICTS.index(packet[5])
    assert query.matches(version, keys).tolist() == [admits(query, version, p) for p in sent]
