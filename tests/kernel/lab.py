# SPDX-License-Identifier: Apache-2.0
"""Interfaces, programs and packets for the tests, all of them taken away again."""

import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from errno import ENOBUFS
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netns import popns, pushns

from tests.kernel.programs import compiled
from xdpscope.discovery.interfaces import InterfaceSource
from xdpscope.errors import VanishedError
from xdpscope.libbpf import Object, Program

# include/uapi/linux/if_link.h
_FLAG = {"generic": 1 << 1, "native": 1 << 2}

_SO_SNDBUFFORCE = 32  # socket(7); Python has no name for it

VERDICT_BYTE = {"aborted": 0, "drop": 1, "pass": 2, "tx": 3, "redirect": 4, "unknown": 77}
"""What ``decide_by_first_payload_byte`` wants to see."""


def addressed(frame: bytes, *, where: int = 0, what: int = 0) -> bytes:
    """Return the frame with the last two bytes of its source address, which the programs read."""
    return frame[:10] + bytes((where, what)) + frame[12:]


def frame(size: int, payload: bytes = b"") -> bytes:
    """Return an Ethernet frame of ``size`` bytes, of a type (88b5) that no host cares about."""
    head = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + payload
    return head.ljust(size, b"\0")


@dataclass(frozen=True)
class Veth:
    """A pair: programs are attached to ``name``; what is sent on ``peer`` arrives there."""

    name: str
    peer: str
    index: int

    def send(self, *frames: bytes, times: int = 1) -> int:
        """Send the frames, ``times`` over; how many attempts that took.

        A kernel that tells of a full queue (ENOBUFS) has lost the frame: it is sent again.
        """
        attempts = 0
        with self.sender() as sender:
            for _ in range(times):
                for data in frames:
                    attempts += 1
                    while not attempt(sender, data):
                        attempts += 1
        return attempts

    def sender(self) -> socket.socket:
        """Return a socket that sends frames out of the peer."""
        return sender_on(self.peer)

    @contextmanager
    def sending(self, data: bytes) -> Iterator["Traffic"]:
        """Send one frame after the other meanwhile."""
        traffic = Traffic(self, data)
        traffic.start()
        try:
            yield traffic
        finally:
            traffic.stop()

    @property
    def lost(self) -> int:
        """Packets that the pair could not hand over: its queue of 256 was full."""
        counter = Path(f"/sys/class/net/{self.peer}/statistics/tx_dropped")
        return int(counter.read_text())


def sender_on(interface: str) -> socket.socket:
    """Return a socket that sends frames out of an interface of the current namespace."""
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((interface, 0))
    # Larger than all that a pair can hold: else ENOBUFS is a matter of timing.
    sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 1 << 24)
    return sender


def attempt(sender: socket.socket, data: bytes) -> bool:
    """Send one frame; False if the pair's queue was full and it is lost."""
    try:
        sender.send(data)
    except OSError as error:
        if error.errno != ENOBUFS:
            raise
        time.sleep(0.001)
        return False
    return True


class Traffic(threading.Thread):
    """Sends until it is stopped."""

    def __init__(self, veth: Veth, data: bytes) -> None:
        super().__init__(daemon=True)
        self._veth, self._data = veth, data
        self._end = threading.Event()
        self.sent = 0

    def run(self) -> None:
        with self._veth.sender() as sender:
            while not self._end.is_set():
                attempt(sender, self._data)  # one that fails is among what the pair lost
                self.sent += 1
                if self.sent % 20 == 0:
                    time.sleep(0.002)  # an emulated machine has other work, too

    def stop(self) -> None:
        """End the traffic; ``sent`` is final."""
        self._end.set()
        self.join()


class Drizzle(threading.Thread):
    """A frame by each of some sockets, again and again, so slowly that all else goes on.

    The sockets are closed in the end.
    """

    def __init__(self, senders: Iterable[tuple[socket.socket, bytes]]) -> None:
        super().__init__(daemon=True)
        self._senders = list(senders)
        self._end = threading.Event()
        self.sent = 0
        """By each."""

    def run(self) -> None:
        while not self._end.wait(0.005):
            self.sent += 1
            for sender, data in self._senders:
                attempt(sender, data)  # one that fails is among what the pair lost

    def stop(self) -> None:
        """End it; ``sent`` is final."""
        self._end.set()
        if self.is_alive():
            self.join()
        for sender, _ in self._senders:
            sender.close()


class Loaded:
    """Programs of one file, by the names of their functions, and maps of it."""

    def __init__(self, loaded: Object, functions: Iterable[str]) -> None:
        self._object = loaded
        self._programs = {function: loaded.program(function) for function in functions}

    def __getitem__(self, function: str) -> Program:
        return self._programs[function]

    def put(self, name: str, key: int, *values: int | Program) -> None:
        """Set an entry of a map: numbers of 32 bits, or the descriptors of programs."""
        numbers = [v.fileno() if isinstance(v, Program) else v for v in values]
        with self._object.map(name) as found:
            found.update(struct.pack("=I", key), struct.pack(f"={len(numbers)}i", *numbers))

    def take_out(self, name: str, key: int) -> None:
        """Delete an entry of a map."""
        with self._object.map(name) as found:
            found.delete(struct.pack("=I", key))

    def close(self) -> None:
        """Give up programs and maps; again is no error."""
        for program in self._programs.values():
            program.close()
        self._object.close()


class Lab:
    """Makes things in the current network namespace."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.route = IPRoute()
        self._stack.callback(self.route.close)
        self._objects: dict[str, Object] = {}

    def close(self) -> None:
        self._stack.close()

    def veth(self, name: str, mtu: int = 1500, queues: int = 1) -> Veth:
        """Return a pair that is up and on which the kernel itself sends nothing."""
        peer = f"{name}p"
        ends = {"num_tx_queues": queues, "num_rx_queues": queues, "mtu": mtu}
        self.route.link("add", ifname=name, kind="veth", peer={"ifname": peer, **ends}, **ends)
        self._stack.callback(self._delete, name)
        for end in (name, peer):
            # Else it would ask for routers and join groups: packets that nobody counted.
            Path(f"/proc/sys/net/ipv6/conf/{end}/disable_ipv6").write_text("1")
            self.route.link("set", index=self.index(end), state="up")
        return Veth(name, peer, self.index(name))

    def index(self, name: str) -> int:
        """Return the ifindex of an interface."""
        return socket.if_nametoindex(name)

    def is_up(self, name: str) -> bool:
        """Return whether an interface is up and has a carrier."""
        (found,) = self.route.link("get", ifname=name)
        return bool(found.get_attr("IFLA_OPERSTATE") == "UP")

    def _delete(self, name: str) -> None:
        # By name: to look up the index of a device that is gone, the kernel runs modprobe.
        with suppress(NetlinkError):  # a test took it away itself
            self.route.link("del", ifname=name)

    def delete(self, veth: Veth) -> None:
        """Take the pair away at once."""
        self._delete(veth.name)

    def load(self, function: str, source: str = "verdicts", *flags: str) -> Program:
        """Load one program of a source file; each call loads another copy."""
        with Object(compiled(source, *flags)) as loaded:
            loaded.set_autoload(function)
            loaded.load()
            return self._stack.enter_context(loaded.program(function))

    def load_together(self, source: str, *functions: str) -> "Loaded":
        """Load several programs of a source file, which share its maps."""
        with ExitStack() as stack:
            loaded = stack.enter_context(Object(compiled(source)))
            loaded.set_autoload(*functions)
            loaded.load()
            stack.pop_all()
        return self._stack.enter_context(closing(Loaded(loaded, functions)))

    def attach(self, program: Program | None, veth: Veth, mode: str = "native") -> None:
        """Attach a program over netlink, in place of any other; None detaches."""
        fd = program.fileno() if program is not None else -1
        attributes = [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", _FLAG[mode])]
        self.route.link("set", index=veth.index, xdp={"attrs": attributes})

    def attached_program(self, veth: Veth) -> int | None:
        """Return the id of the program that an interface runs."""
        with InterfaceSource() as source:
            for interface in source.read():
                if interface.index == veth.index and interface.programs:
                    return interface.programs[0][1]
        return None

    @contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """Yield a named network namespace, deleted at the end."""
        from pyroute2 import netns

        netns.create(name)
        try:
            yield name
        finally:
            netns.remove(name)

    @contextmanager
    def within(self, name: str) -> Iterator["Lab"]:
        """Yield a lab in another namespace, this thread being there meanwhile."""
        pushns(name)
        lab = Lab()
        try:
            yield lab
        finally:
            lab.close()
            popns()


def function_names(source: str) -> list[str]:
    """Return the programs of a source file."""
    text = (Path(__file__).parent / "programs" / f"{source}.bpf.c").read_text()
    lines = text.splitlines()
    return [
        lines[number + 1].split("(")[0].removeprefix("int ")
        for number, line in enumerate(lines)
        if line.startswith("SEC(") and "license" not in line
    ]


def loaded_programs() -> list[str]:
    """Return the names, cut by the kernel, of all programs."""
    names = []
    for id in Program.ids():
        with suppress(VanishedError), Program.open(id) as program:
            names.append(program.info().name)
    return names


def kernel_objects() -> dict[str, int]:
    """Return how many programs, maps, links and BTF objects the kernel holds; ours, for a leak
    check.
    """
    from xdpscope.libbpf import Link, Map

    return {
        "programs": len(list(Program.ids())),
        "maps": len(list(Map.ids())),
        "links": len(list(Link.ids())),
    }


def settled_objects() -> dict[str, int]:
    """Return what the kernel holds, once it has freed what was given up before: it takes its
    time.
    """
    found, since = kernel_objects(), time.monotonic()
    while time.monotonic() < since + 2:
        time.sleep(0.1)
        if (now := kernel_objects()) != found:
            found, since = now, time.monotonic()
    return found


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
