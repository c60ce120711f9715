# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets: the metrics equal each socket's own XDP_STATISTICS, to the packet."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import ENOENT
from pathlib import Path

import pytest

from tests.kernel.agent import QUICK, AgentProcess
from tests.kernel.conftest import kernel
from tests.kernel.lab import Lab, Veth, frame
from tests.kernel.nursery import finished
from tests.kernel.xsk import XdpSocket
from tests.waiting import wait_for
from xdpscope.errors import KernelError
from xdpscope.kernel.xdp_diag import REASONS, read_sockets

pytestmark = pytest.mark.every_kernel

SPACE = "xssockets"
ME = {"pid": str(os.getpid()), "comm": Path("/proc/self/comm").read_text().rstrip("\n")}


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    try:
        read_sockets()
    except KernelError as error:
        if error.errno != ENOENT or kernel() >= (6, 12):
            raise
        pytest.skip("Debian builds kernels with CONFIG_XDP_SOCKETS_DIAG since 6.12")
    with AgentProcess(QUICK) as agent:
        yield agent.ready()


def serve(lab: Lab, socket: XdpSocket, name: str) -> Veth:
    """Give a socket all packets of a new interface."""
    veth = lab.veth(name)
    loaded = lab.load_together("sockets", "to_socket")
    socket.bind(veth.index)
    loaded.put("sockets", 0, socket.fileno())
    lab.attach(loaded["to_socket"], veth)
    return veth


@contextmanager
def elsewhere(lab: Lab, times: int) -> Iterator[XdpSocket]:
    """A socket in another namespace, with an empty fill ring, and so many packets for it."""
    with lab.namespace(SPACE), ExitStack() as stack:
        with lab.within(SPACE) as inner:
            socket = stack.enter_context(XdpSocket())
            serve(inner, socket, "xsthere").send(frame(60), times=times)
            stack.enter_context(inner._stack.pop_all())  # what there is outlives this block
        wait_for(lambda: socket.statistics()["fill_ring_empty"] == times)
        yield socket


def drops(agent: AgentProcess, inode: str) -> dict[str, int]:
    """Return what the page has of a socket, by reason; empty if it has no series."""
    return {
        labels["reason"]: int(value)
        for labels, value in agent.samples("xdp_socket_dropped_packets_total")
        if labels["socket"] == inode
    }


def locations(agent: AgentProcess, inode: str) -> list[dict[str, str]]:
    """Return the labels of a socket, but for its own."""
    found = [labels for labels, _ in agent.samples("xdp_socket_info")]
    return [each for each in found if each.pop("socket") == inode]


def expect(agent: AgentProcess, socket: XdpSocket, **expected: int) -> None:
    """Fail unless socket and page agree, and have at least these counts."""
    own = socket.statistics()
    assert expected.items() <= own.items()
    wait_for(lambda: drops(agent, socket.inode) == own)


def test_fill_ring_is_empty(lab: Lab, agent: AgentProcess) -> None:
    with XdpSocket() as socket:
        serve(lab, socket, "xsempty").send(frame(60), times=37)
        wait_for(lambda: socket.statistics()["fill_ring_empty"] == 37)
        expect(agent, socket, fill_ring_empty=37, rx_dropped=37, rx_ring_full=0)
        where = {"netns": "host", "interface": "xsempty", "queue": "0"}
        assert locations(agent, socket.inode) == [where | ME]


def test_rx_ring_is_full(lab: Lab, agent: AgentProcess) -> None:
    with XdpSocket(rx=4) as socket:
        veth = serve(lab, socket, "xsfull")
        socket.fill(32)
        veth.send(frame(60), times=23)
        wait_for(lambda: socket.statistics()["rx_ring_full"] == 19)
        expect(agent, socket, rx_ring_full=19, fill_ring_empty=0)


def test_descriptor_is_invalid(lab: Lab, agent: AgentProcess) -> None:
    with XdpSocket(chunks=16) as socket:
        serve(lab, socket, "xswrong")
        for _ in range(5):
            socket.transmit(1 << 40, 60)  # far behind the memory
        expect(agent, socket, tx_invalid=5, rx_dropped=0)


def test_sockets_of_another_namespace(lab: Lab, agent: AgentProcess) -> None:
    with XdpSocket() as here, elsewhere(lab, times=3) as there:
        serve(lab, here, "xshere").send(frame(60), times=2)
        wait_for(lambda: here.statistics()["fill_ring_empty"] == 2)
        expect(agent, there, fill_ring_empty=3)
        expect(agent, here, fill_ring_empty=2)
        where = {"netns": SPACE, "interface": "xsthere", "queue": "0"}
        assert locations(agent, there.inode) == [where | ME]


def test_closed_socket_keeps_its_last_counts(lab: Lab, agent: AgentProcess) -> None:
    seen: list[dict[str, int]] = []

    def shows(expected: dict[str, int]) -> bool:
        seen.append(drops(agent, inode))
        return seen[-1] == expected

    with XdpSocket() as socket:
        inode = socket.inode
        veth = serve(lab, socket, "xsclosed")
        veth.send(frame(60), times=5)
        wait_for(lambda: socket.statistics()["fill_ring_empty"] == 5)
        own = dict(socket.statistics())
        wait_for(lambda: shows(own))
    # A scraper must see the growth from 0.
    assert next(filter(None, seen)) == dict.fromkeys(REASONS, 0)
    wait_for(lambda: not locations(agent, inode))
    assert drops(agent, inode) == own


def test_sockets_in_list_api_and_page(lab: Lab, agent: AgentProcess) -> None:
    with XdpSocket(rx=8, fill=16) as socket:
        serve(lab, socket, "xslist").send(frame(60), times=4)
        wait_for(lambda: socket.statistics()["fill_ring_empty"] == 4)
        expected = {
            "socket": int(socket.inode),
            "netns": "host",
            "interface": "xslist",
            "queue": 0,
            "pid": os.getpid(),
            "comm": ME["comm"],
            "uid": 0,
            "zero_copy": False,
            "rings": {"rx": 8, "tx": 64, "fill": 16, "completion": 64},
            "dropped": socket.statistics(),
        }
        wait_for(lambda: json.loads(agent.get("/api/v1/programs"))["sockets"] == [expected])
        assert "xslist" in agent.get("/").decode().partition('id="sockets"')[2]
        listed = json.loads(finished("list", "--json").stdout)
        assert listed["sockets"] == [expected]
        text = finished("list").stdout
        (line,) = [each for each in text.splitlines() if each.startswith("xslist ")]
        assert line.split() == ["xslist", "1", f"{ME['comm']}", f"({ME['pid']})"]


def test_interface_is_gone_while_a_socket_is_open(lab: Lab, agent: AgentProcess) -> None:
    with XdpSocket() as older, XdpSocket() as orphan:
        serve(lab, older, "xsolder").send(frame(60), times=2)
        veth = serve(lab, orphan, "xsorphan")
        veth.send(frame(60), times=3)
        wait_for(lambda: orphan.statistics()["fill_ring_empty"] == 3)
        expect(agent, orphan, fill_ring_empty=3)
        last = drops(agent, orphan.inode)
        lab.delete(veth)
        wait_for(lambda: not locations(agent, orphan.inode))
        assert drops(agent, orphan.inode) == last
        # Its own list may end there, but nobody else's.
        with elsewhere(lab, times=1) as there:
            expect(agent, there, fill_ring_empty=1)
