# SPDX-License-Identifier: Apache-2.0
"""Network namespaces of a test, and what is counted in them."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyroute2 import netns as named

from tests.kernel.lab import Lab, frame
from tests.kernel.observing import Observer
from tests.waiting import wait_for
from xdpscope.discovery.interfaces import InterfaceSource
from xdpscope.kernel import netns
from xdpscope.libbpf import Program
from xdpscope.program_types.xdp import VERDICTS

Counts = dict[tuple[str, str], int]
"""(network namespace, interface) to packets."""

DROP = VERDICTS.index("drop")
UNSHARE = ["unshare", "--net", "sleep", "1000"]


@contextmanager
def inside(path: str) -> Iterator[Lab]:
    """Yield a lab in the namespace that a path leads to, this thread being there meanwhile."""
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        netns.enter(path, Path(path).stat().st_ino)
        lab = Lab()
        try:
            yield lab
        finally:
            lab.close()
            way = f"/proc/self/fd/{home.fileno()}"
            netns.enter(way, Path(way).stat().st_ino)


def in_service(lab: Lab, program: Program) -> Program:
    """Attached here, too: before Linux 5.13 nothing is traced that is attached nowhere."""
    lab.attach(program, lab.veth("here0"))
    return program


def path_of(name: str) -> str:
    return f"/run/netns/{name}"


def inode_of(name: str) -> int:
    return Path(path_of(name)).stat().st_ino


class Namespace:
    """A namespace of this test, with a pair in it that has the same names in each."""

    def __init__(self, path: str, program: Program, mode: str = "native") -> None:
        self.inode = Path(path).stat().st_ino
        with inside(path) as lab:
            self.veth = lab.veth("eth0")
            lab.attach(program, self.veth, mode)
            self._sender = self.veth.sender()
            lab._stack.pop_all()  # the pair goes with the namespace
            lab.route.close()

    def send(self, times: int, data: bytes = frame(60)) -> None:
        for _ in range(times):
            self._sender.send(data)

    def close(self) -> None:
        """Release the namespace: this socket is in it, and would hold it."""
        self._sender.close()


@contextmanager
def namespace(name: str, program: Program) -> Iterator[Namespace]:
    """One with a name."""
    named.create(name)
    with ExitStack() as stack:
        stack.callback(remove, name)
        found = Namespace(path_of(name), program)
        stack.callback(found.close)
        yield found


@contextmanager
def namespace_numbered(inode: int, name: str, program: Program) -> Iterator[Namespace]:
    """One with the inode number of one that is gone: the kernel frees it after the interfaces."""
    for _ in range(50):
        with namespace(name, program) as found:
            if found.inode == inode:
                yield found
                return
    raise AssertionError(f"no namespace was given number {inode} again")


def remove(name: str) -> None:
    if Path(path_of(name)).exists():
        named.remove(name)


class Tether:
    """A pair with one end in a namespace: the other is there as long as that is."""

    def __init__(self, lab: Lab, path: str, name: str = "xstether") -> None:
        lab.route.link("add", ifname=name, kind="veth", peer={"ifname": f"{name}p"})
        peer = lab.index(f"{name}p")
        with Path(path).open("rb") as target:
            lab.route.link("set", index=peer, net_ns_fd=target.fileno())
        self._name = name

    def wait_until_gone(self) -> None:
        wait_for(lambda: self._name not in interfaces_here(), patience=60)


def interfaces_here() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def counted(observer: Observer) -> Counts:
    """Return dropped packets by location, of all programs; without zeros."""
    found: Counts = {}
    for count in observer.counts():
        packets = count.tally.packets
        assert sum(packets) == packets[DROP]
        assert sum(count.tally.bytes) == 60 * packets[DROP]
        if packets[DROP]:
            found[count.location] = found.get(count.location, 0) + packets[DROP]
    return found


def expect(observer: Observer, expected: Counts) -> None:
    """Fail unless exactly this is counted; the kernel may put off the work for a packet."""
    end = time.monotonic() + 10
    while counted(observer) != expected and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.02)
    assert counted(observer) == expected


def has_cookies() -> bool:
    """Return whether this kernel tells namespaces apart that have the same inode number (5.14)."""
    with InterfaceSource() as source:
        return source.namespace_cookie is not None


def locations(observer: Observer) -> dict[str, set[tuple[str, str]]]:
    return {
        status.program.function: {(at.netns, at.interface) for at in status.attachments}
        for status in observer.statuses()
    }
