# SPDX-License-Identifier: Apache-2.0
"""Packets that begin with IP: what a tun receives, read as what it is, and nothing else."""

import os

import pytest

from tests.kernel.flows import Expected, expect_flows, mac_verdict, observing, on_one_cpu
from tests.kernel.lab import Lab, Veth
from tests.kernel.mixture import samples
from tests.kernel.tun import tun
from tests.reference import Flow, flow_of
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes

pytestmark = pytest.mark.every_kernel

PROGRAMS = ("decide_by_source_mac", "write_and_decide")
"""Packets of the first are read where they leave it, those of the other where they come in."""

FORGED = bytes.fromhex("45000034000000004011000008004500003c0000000040060000c6336407000000000000")
"""A packet from 8.0.69.0 that, taken for an Ethernet frame, is one of another flow."""

LONG = FORGED + bytes(100)
"""The same, so long that it could take the short way."""


@pytest.mark.parametrize("program", PROGRAMS)
def test_packets_of_a_tun_begin_with_ip(lab: Lab, program: str) -> None:
    """Nor can a sender have them taken for other flows, whatever they look like."""
    loaded = lab.load(program, "flows")
    packets = [FORGED, LONG]
    for sample in samples()[:60]:
        if not isinstance(sample.flow, str):
            at = next(
                at for at in range(14, 60) if flow_of(sample.frame[at:], layer3=True) == sample.flow
            )
            packets.append(sample.frame[at:])
    packets = [packet for packet in packets if len(packet) > 14]
    with (
        tun(lab, "xst9") as fd,
        Engine(FlowSizes(sets=1024, sample_rate=1)) as engine,
        observing(engine) as observer,
    ):
        lab.attach(loaded, Veth("xst9", "", lab.index("xst9")), "generic")
        observer.scan(0)
        expected = Expected()
        for _ in range(2):
            for packet in packets:
                os.write(fd, packet)
        for packet in packets:
            expected.add(program, "xst9", mac_verdict(packet), packet, 2, layer3=True)
        forged = {flow for *_, flow in expected.sums if isinstance(flow, Flow)}
        assert "8.0.69.0" in {flow.source for flow in forged}
        expect_flows(observer, expected.sums)


@pytest.mark.first_kernel
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_on_both_kinds_of_devices(lab: Lab, program: str) -> None:
    """Of a tun's first packet there may be no flow, but never a wrong one."""
    loaded = lab.load(program, "flows")
    ethernet = next(s.frame for s in samples() if isinstance(s.flow, Flow) and s.frame[12] == 8)
    with (
        tun(lab, "xst9") as fd,
        Engine(FlowSizes(sets=1024, sample_rate=1)) as engine,
        observing(engine) as observer,
        on_one_cpu(),
    ):
        veth = lab.veth("xst0")
        lab.attach(loaded, veth, "generic")
        lab.attach(loaded, Veth("xst9", "", lab.index("xst9")), "generic")
        observer.scan(0)
        expected, taken = Expected(), 3
        veth.send(ethernet, times=3)
        for _ in range(taken):
            os.write(fd, LONG)
            veth.send(ethernet)
        expected.add(program, "xst0", mac_verdict(ethernet), ethernet, 3 + taken)
        expected.add(program, "xst9", mac_verdict(LONG), LONG, taken, layer3=True)
        sums = expected.sums
        if program == "write_and_decide":
            (key,) = [key for key in sums if key[1] == "xst9"]
            packets, size = sums[key]
            sums[key] = packets - 1, size - len(LONG)
            sums[*key[:3], "sampled_out"] = 1, len(LONG)
        expect_flows(observer, sums)
