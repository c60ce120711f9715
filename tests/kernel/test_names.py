# SPDX-License-Identifier: Apache-2.0
"""Interfaces whose names are not text, from the kernel to the page."""

import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.conftest import expect
from tests.kernel.lab import Lab, Veth, frame
from tests.kernel.observing import Observer
from tests.waiting import wait_for

pytestmark = pytest.mark.every_kernel

_SIOCSIFNAME = 0x8923  # include/uapi/linux/sockios.h


@contextmanager
def named(lab: Lab, number: int, raw: bytes) -> Iterator[Veth]:
    """Yield a pair whose end for programs has a name of any bytes."""
    veth = lab.veth(f"xst{number}")
    lab.route.link("set", index=veth.index, state="down")
    request = struct.pack("=16s16s", veth.name.encode(), raw)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFNAME, request)
    lab.route.link("set", index=veth.index, state="up")
    try:
        yield veth
    finally:
        lab.route.link("del", index=veth.index)


def test_names_that_differ_in_bytes_that_are_not_utf8(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_drop")
    with (
        named(lab, 0, b"xst\xff") as first,
        named(lab, 1, b"xst\xfe") as second,
        named(lab, 2, rb"xst\xff") as third,
    ):
        for veth in (first, second, third):
            lab.attach(program, veth)
        observer.scan(0)
        for times, veth in ((1, first), (2, second), (4, third)):
            veth.send(frame(60), times=times)
        expected = {
            ("decide_drop", r"xst\xff", "drop"): (1, 60),
            ("decide_drop", r"xst\xfe", "drop"): (2, 120),
            ("decide_drop", r"xst\\xff", "drop"): (4, 240),
        }
        expect(observer, expected)
        assert {at.interface for s in observer.statuses() for at in s.attachments} == {
            interface for _, interface, _ in expected
        }


@pytest.mark.matrix
def test_the_page_keeps_such_names_apart(lab: Lab) -> None:
    program = lab.load("decide_drop")
    with (
        named(lab, 0, b"xst\xff") as first,
        named(lab, 1, b"xst\xfe") as second,
        AgentProcess(f"{QUICK}interfaces: {{exclude: ['xst?xfd']}}\n") as agent,
    ):
        for veth in (first, second):
            lab.attach(program, veth)
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        wait_for(lambda: agent.value("xdp_program_attachment_info") == 2)
        for times, veth in ((1, first), (2, second)):
            veth.send(frame(60), times=times)
        wait_for(lambda: agent.value("xdp_packets_total") == 3)
        for times, name in ((1, r"xst\xff"), (2, r"xst\xfe")):
            assert agent.value("xdp_packets_total", interface=name, verdict="drop") == times
        assert agent.stop() == 0
