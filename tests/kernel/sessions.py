# SPDX-License-Identifier: Apache-2.0
"""Running trace and capture as a user does, and packets for them."""

import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from tests.kernel.nursery import Started

KEEP, DROP, REWRITE, ENCAPSULATE, DECAPSULATE, ABORT = range(6)
"""What ``does_as_told`` of sessions.bpf.c does with a packet, by its type of service."""

ETHERNET = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01"


def ipv4(
    payload: bytes,
    *,
    what: int = KEEP,
    number: int = 0,
    protocol: int = 17,
    source: str = "192.168.1.12",
    destination: str = "192.168.1.138",
) -> bytes:
    """Return an IPv4 packet without Ethernet header."""
    return (
        struct.pack("!BBHHHBBH", 0x45, what, 20 + len(payload), number, 0, 64, protocol, 0)
        + IPv4Address(source).packed
        + IPv4Address(destination).packed
        + payload
    )


def udp(payload: bytes, source: int = 5060, destination: int = 5060) -> bytes:
    """Return a UDP datagram."""
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def ethernet(payload: bytes, kind: int = 0x0800) -> bytes:
    """Return a frame of at least 60 bytes."""
    return (ETHERNET + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def instructed(what: int, number: int, size: int = 100) -> bytes:
    """Return a frame of ``size`` bytes or more that ``does_as_told`` treats like that."""
    inner = ipv4(udp(struct.pack("!I", number).ljust(size - 42, b"x")), what=what, number=number)
    if what == DECAPSULATE:
        return ethernet(ipv4(inner, what=what, number=number, protocol=4, source="10.1.1.1"))
    return ethernet(inner)


class Command:
    """A running ``xdpscope`` command."""

    def __init__(self, *arguments: str, stdout: int = subprocess.PIPE) -> None:
        self.process = Started(arguments, _widen, stdout)

    def finish(self, number: int = signal.SIGINT) -> tuple[str, str]:
        """End it as Ctrl-C does; return what it printed to both."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[str, str]:
        """Wait for its end; return what it printed to both."""
        return self.process.communicate(timeout=120)

    def wait_for_note(self, wanted: str) -> None:
        """Wait until it has printed a remark."""
        notes = ""
        while wanted not in notes:
            line = self.process.stderr.readline()
            notes += line
            assert line, f"it ended with {self.process.wait()}: {notes}"


@contextmanager
def running(
    *arguments: str, waits: bool = False, stdout: int = subprocess.PIPE
) -> Iterator[Command]:
    """Run a command until the end of the block, which begins when it sees packets.

    With ``waits`` the block begins at once: there is no program yet.
    """
    command = Command(*arguments, stdout=stdout)
    try:
        if not waits:
            # Links would tell too early: a trial at the start attaches, too.
            command.wait_for_note("; Ctrl-C ends")
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
        command.process.wait()
        for stream in (command.process.stdout, command.process.stderr):
            if stream is not None:
                stream.close()


def _widen() -> None:
    os.environ["COLUMNS"] = "200"
