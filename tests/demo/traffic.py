# SPDX-License-Identifier: Apache-2.0
"""Sends packets at steady rates, and says exactly how many: the yardstick of what the agent counts.

Runs in a network namespace of its own, but answers on a socket it was given, which belongs to the
namespace of the scene. `POST /hold` pauses the traffic and answers with the numbers so far, as
Prometheus reads them; `POST /go` continues it. `POST /stop` ends it and answers with the final
numbers.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from . import plan

if TYPE_CHECKING:
    from collections.abc import Callable

TICK = 0.02


@dataclass
class Stream:
    """Packets of one kind."""

    name: str
    fate: str
    """What the filter must do with them: pass or drop."""
    rate: int
    """Packets a second."""
    send: Callable[[], object]
    sent: int = 0


@dataclass
class Traffic:
    """All streams, until they are stopped."""

    streams: list[Stream]
    stopping: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    held: bool = False
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Keep every stream at its rate; a pause of the machine is not made up for."""
        last = time.monotonic()
        credit = dict.fromkeys((stream.name for stream in self.streams), 0.0)
        while not self.stopping.wait(TICK):
            now = time.monotonic()
            with self._sending:
                for stream in () if self.held else self.streams:
                    credit[stream.name] += stream.rate * min(now - last, 10 * TICK)
                    while credit[stream.name] >= 1:
                        stream.send()
                        stream.sent += 1
                        credit[stream.name] -= 1
            last = now
        self.stopped.set()

    def hold(self) -> str:
        """Pause; return what was sent so far, as Prometheus reads it."""
        with self._sending:
            self.held = True
            return self.exposition()

    def go(self) -> str:
        """Continue."""
        self.held = False
        return ""

    def stop(self) -> dict[str, int]:
        """Return the packets sent in all, by fate; none comes after it."""
        self.stopping.set()
        self.stopped.wait()
        return {
            fate: sum(stream.sent for stream in self.streams if stream.fate == fate)
            for fate in ("pass", "drop")
        }

    def exposition(self) -> str:
        """For Prometheus."""
        lines = [f"# TYPE {plan.SENT} counter"]
        lines += [
            f'{plan.SENT}{{stream="{each.name}",fate="{each.fate}"}} {each.sent}'
            for each in self.streams
        ]
        return "\n".join([*lines, ""])


def streams() -> list[Stream]:
    """Return what is sent: two kinds that the filter lets through, and two that its rules drop."""
    friend = _udp(plan.FRIEND)
    stranger = _udp(plan.STRANGER)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    payload = b"xdpscope".ljust(64, b".")
    echo = _echo_request()
    open_port, closed_port = (plan.EDGE, plan.OPEN_PORT), (plan.EDGE, plan.CLOSED_PORT)
    return [
        Stream("udp", "pass", 120, lambda: friend.sendto(payload, open_port)),
        Stream("icmp", "pass", 20, lambda: raw.sendto(echo, (plan.EDGE, 0))),
        Stream("udp to the closed port", "drop", 50, lambda: friend.sendto(payload, closed_port)),
        Stream("udp from the stranger", "drop", 30, lambda: stranger.sendto(payload, open_port)),
    ]


def _udp(source: str) -> socket.socket:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind((source, 0))
    return sender


def _echo_request() -> bytes:
    """ICMP type 8, with the checksum of RFC 1071."""
    data = b"xdpscope".ljust(56, b".")
    words = struct.unpack(f"!{(8 + len(data)) // 2}H", struct.pack("!BBHHH", 8, 0, 0, 1, 1) + data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBHHH", 8, 0, ~total & 0xFFFF, 1, 1) + data


class _Control(BaseHTTPRequestHandler):
    traffic: Traffic

    def do_POST(self) -> None:
        does: dict[str, Callable[[], str]] = {
            "/hold": self.traffic.hold,
            "/go": self.traffic.go,
            "/stop": lambda: json.dumps(self.traffic.stop()),
        }
        body = does[self.path]().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: whoever asked did not wait for the answer, and asks again."""


def main() -> int:
    """Set up this end of the pair when it has arrived, and send until stopped."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo.traffic", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="descriptor to listen on")
    listener = socket.socket(fileno=parser.parse_args().socket)
    print("ready", flush=True)
    sys.stdin.readline()  # the interface is here

    plan.quiet(plan.PEER)
    for command in (
        f"link set {plan.PEER} up",
        f"address add {plan.FRIEND}/24 dev {plan.PEER}",
        f"address add {plan.STRANGER}/24 dev {plan.PEER}",
        f"neighbour add {plan.EDGE} lladdr {plan.INTERFACE_MAC} dev {plan.PEER} nud permanent",
    ):
        subprocess.run(["ip", *command.split()], check=True)

    _Control.traffic = traffic = Traffic(streams())
    server = _Server(("", 0), _Control, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    threading.Thread(target=server.serve_forever, daemon=True).start()
    traffic.run()
    threading.Event().wait()  # the last numbers stay readable
    return 0


if __name__ == "__main__":
    sys.exit(main())
