# SPDX-License-Identifier: Apache-2.0
"""Running trace and capture as a user does, and packets for them."""

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from xdpscope.libbpf import Link

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


def told(what: int, number: int, size: int = 100) -> bytes:
    """Return a frame of ``size`` bytes or more that ``does_as_told`` treats like that."""
    inner = ipv4(udp(struct.pack("!I", number).ljust(size - 42, b"x")), what=what, number=number)
    if what == DECAPSULATE:
        return ethernet(ipv4(inner, what=what, number=number, protocol=4, source="10.1.1.1"))
    return ethernet(inner)


class Command:
    """A running ``xdpscope`` command."""

    def __init__(self, *arguments: str, stdout: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xdpscope", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=stdout == subprocess.PIPE,
            env={**os.environ, "COLUMNS": "200"},
        )

    def finish(self, number: int = signal.SIGINT) -> tuple[str, str]:
        """End it as Ctrl-C does; return what it printed to both."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[str, str]:
        """Wait for its end; return what it printed to both."""
        output, errors = self.process.communicate(timeout=120)
        if isinstance(errors, bytes):
            errors = errors.decode()
        return output or "", errors


def tracing_links() -> set[int]:
    """Return the ids of all links."""
    return set(Link.ids())


def wait_for_links(command: Command, before: set[int], count: int) -> None:
    """Wait until a command has attached so many tracers."""
    end = time.monotonic() + 120
    while len(tracing_links() - before) < count:
        if command.process.poll() is not None:
            _, errors = command.wait()
            raise AssertionError(f"it ended with {command.process.returncode}: {errors}")
        if time.monotonic() > end:
            command.process.kill()
            raise AssertionError(f"it attaches nothing: {command.wait()}")
        time.sleep(0.05)


def wait_until_tracing(command: Command) -> None:
    """Wait until a command says that it sees packets.

    Links would tell too early: a trial at the start attaches, too.
    """
    assert command.process.stderr is not None
    said = ""
    while "; Ctrl-C ends" not in said:
        line = command.process.stderr.readline()
        said += line.decode() if isinstance(line, bytes) else line
        assert line, f"it ended with {command.process.wait()}: {said}"


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
            wait_until_tracing(command)
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
        command.process.wait()
        for stream in (command.process.stdout, command.process.stderr):
            if stream is not None:
                stream.close()
