# SPDX-License-Identifier: Apache-2.0
"""Sets the scene where tracing works, be that this host or a virtual machine, and keeps it going.

It cleans nothing up: it is run where all it makes goes with it, in a virtual machine or in
namespaces that end with their first process.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from . import plan

PATIENCE = 90.0
"""Seconds for one step, in an emulated machine that has others beside it."""

# One target for both sides (see Both): their counts are then of one moment.
PROMETHEUS_YML = f"""\
global:
  scrape_interval: 3s
  scrape_timeout: 3s
scrape_configs:
  - job_name: xdpscope
    static_configs: [{{targets: ["127.0.0.1:{plan.TRAFFIC}"]}}]
    relabel_configs:
      - {{target_label: instance, replacement: "127.0.0.1:{plan.AGENT}"}}
"""


class SceneError(Exception):
    """The scene cannot be set; the message says where it stopped."""


class Actor:
    """A process of the scene, with its output kept for the day it fails."""

    def __init__(self, directory: Path, name: str, *command: str) -> None:
        self.name = name
        self._log = directory / f"{name}.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def check(self) -> None:
        """Raise SceneError if it has ended."""
        if self.process.poll() is not None:
            last = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
            raise SceneError(f"{self.name} ended with {self.process.returncode}:\n{last}")


def say(message: str) -> None:
    """One line of progress."""
    sys.stdout.write(f"demo: {message}\n")  # in one piece, whoever else writes
    sys.stdout.flush()


def ip(command: str) -> None:
    """Run iproute2."""
    _run("ip", *command.split())


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SceneError(f"{' '.join(command)} failed: {result.stderr or result.stdout}")


def fetch(url: str) -> str:
    """Return a page, or nothing as long as nobody serves it."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
    except (OSError, urllib.error.URLError):
        return ""


def wait_for(what: str, url: str, wanted: str, *actors: Actor) -> None:
    """Until the page has a line with all words wanted."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for actor in actors:
            actor.check()
        if any(all(word in line for word in wanted.split()) for line in fetch(url).splitlines()):
            return
        time.sleep(0.3)
    raise SceneError(f"{what}: not within {PATIENCE:g} seconds")


def relay(listener: socket.socket, port: int) -> None:
    """Hand connections of an inherited socket, of another namespace, on to a port here."""

    def copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve(client: socket.socket) -> None:
        try:
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                back = threading.Thread(target=copy, args=(server, client), daemon=True)
                back.start()
                copy(client, server)
                back.join()
        except OSError:
            pass

    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()


class Both(BaseHTTPRequestHandler):
    """The agent's page and the sender's counts, both of a moment without traffic.

    Prometheus could not compare two targets: it reads them at different times.
    """

    def do_GET(self) -> None:
        try:
            sent = self._ask("/hold")
            page = self._settled()
        finally:
            self._ask("/go")
        self._answer(page + sent)

    def do_POST(self) -> None:
        self._answer(self._ask(self.path))

    @staticmethod
    def _settled() -> str:
        """Return the agent's page once no packet is under way any more."""
        page, before = fetch(f"http://127.0.0.1:{plan.AGENT}/metrics"), ""
        for _ in range(5):
            counts = "".join(
                line for line in page.splitlines() if line.startswith("xdp_packets_total")
            )
            if counts == before:
                break
            before = counts
            time.sleep(0.05)
            page = fetch(f"http://127.0.0.1:{plan.AGENT}/metrics")
        return page

    @staticmethod
    def _ask(path: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{plan.SENDER}{path}", method="POST")
        with urllib.request.urlopen(request, timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def _answer(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: whoever asked asks again."""


def start_servers(directory: Path) -> tuple[Actor, Actor]:
    """Return the agent, and Prometheus with a configuration of its own."""
    say("starting the agent (xdpscope run), and Prometheus, which reads it every 3 s")
    agent = Actor(
        *(directory, "agent", sys.executable, "-m", "xdpscope"),
        *("run", "--listen", f"127.0.0.1:{plan.AGENT}"),
    )
    (directory / "prometheus.yml").write_text(PROMETHEUS_YML)
    prometheus = Actor(
        *(directory, "prometheus", "prometheus", f"--config.file={directory}/prometheus.yml"),
        *(f"--storage.tsdb.path={directory}/data", "--log.level=warn"),
        f"--web.listen-address=127.0.0.1:{plan.PROMETHEUS}",
    )
    return agent, prometheus


def join(sender: subprocess.Popen[str]) -> None:
    """A veth pair between here and the namespace of the sender."""
    say(f"a veth pair: {plan.INTERFACE} here, {plan.PEER} in a network namespace of the sender")
    assert sender.stdout is not None
    if sender.stdout.readline().strip() != "ready":
        raise SceneError("the sender ended")
    ip("link set lo up")
    ip(
        f"link add {plan.INTERFACE} address {plan.INTERFACE_MAC} type veth"
        f" peer name {plan.PEER} address {plan.PEER_MAC}"
    )
    ip(f"link set {plan.PEER} netns {sender.pid}")
    plan.quiet(plan.INTERFACE)
    ip(f"link set {plan.INTERFACE} up")
    ip(f"address add {plan.EDGE}/24 dev {plan.INTERFACE}")
    for address in (plan.FRIEND, plan.STRANGER):
        ip(f"neighbour add {address} lladdr {plan.PEER_MAC} dev {plan.INTERFACE} nud permanent")


def load_filter() -> None:
    """Debian's xdp-filter, with a rule of each kind."""
    say(
        f"xdp-filter load {plan.INTERFACE}, with two rules:"
        f" drop UDP to port {plan.CLOSED_PORT}, drop what comes from {plan.STRANGER}"
    )
    _run("xdp-filter", "load", plan.INTERFACE)
    _run("xdp-filter", "port", str(plan.CLOSED_PORT), "-m", "dst", "-p", "udp")
    _run("xdp-filter", "ip", plan.STRANGER, "-m", "src")


def play(directory: Path) -> None:
    """Set the scene, then watch over it."""
    control = socket.create_server(("127.0.0.1", plan.SENDER))
    command = [sys.executable, "-m", "tests.demo.traffic", f"--socket={control.fileno()}"]
    sender = subprocess.Popen(
        ["unshare", "--net", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[control.fileno()],
    )
    actors = start_servers(directory)
    join(sender)
    agent = f"http://127.0.0.1:{plan.AGENT}"
    wait_for("the agent", f"{agent}/readyz", "", *actors)
    load_filter()
    attached = f'xdp_program_attachment_info interface="{plan.INTERFACE}"'
    wait_for("discovery of the filter", f"{agent}/metrics", attached, *actors)
    wait_for(
        "tracing of the filter", f"{agent}/metrics", 'xdp_program_traced{ reason="" 1', *actors
    )
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind((plan.EDGE, plan.OPEN_PORT))  # never read, but its port is open
    say("traffic starts")
    assert sender.stdin is not None
    sender.stdin.write("go\n")
    sender.stdin.flush()
    threading.Thread(
        target=_Server(("127.0.0.1", plan.TRAFFIC), Both).serve_forever, daemon=True
    ).start()
    while sender.poll() is None:
        for actor in actors:
            actor.check()
        time.sleep(0.5)
    raise SceneError("the sender ended")


def main() -> int:
    """Set the scene and keep it going until this process is killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo.scene", description=__doc__)
    parser.add_argument(
        *("--relay", "-r"),
        action="append",
        default=[],
        metavar="FD:PORT",
        help="hand connections of an inherited listening socket on to a port here; repeatable",
    )
    for pair in parser.parse_args().relay:
        descriptor, _, port = pair.partition(":")
        listener = socket.socket(fileno=int(descriptor))
        threading.Thread(target=relay, args=(listener, int(port)), daemon=True).start()
    try:
        with tempfile.TemporaryDirectory(prefix="xdpscope-demo-") as directory:
            play(Path(directory))
    except SceneError as error:
        say(str(error))
    return 1


if __name__ == "__main__":
    sys.exit(main())
