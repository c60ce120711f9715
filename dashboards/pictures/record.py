# SPDX-License-Identifier: Apache-2.0
"""Records what the pictures show: programs of several roles at work, the agent, and Prometheus.

Leaves Prometheus' data in build/recordings/INSTANCE. For a virtual machine, whose end takes all
else away; ``--start`` sets its clock, so that recordings of several machines are of one time.

    python -m tests.vm.run --timeout 900 -- \\
        python -m dashboards.pictures.record --instance edge-1 --start 1790000000
"""

import argparse
import math
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pyroute2.netns import popns, pushns
from tests.kernel.agent import AgentProcess, traced
from tests.kernel.lab import Lab, Veth, addressed, attempt, frame
from tests.kernel.test_chains import LINKS, append
from tests.kernel.test_xdp_tools import xdp_filter
from tests.waiting import wait_for

from xdpscope.libbpf import run_time_stats

REPOSITORY = Path(__file__).resolve().parents[2]
DROP, PASS, TX = 1, 2, 3
PROMETHEUS = "http://127.0.0.1:9090"
TICK = 0.1
_CONFIG = "latency: {enabled: true}\n"


def ip(source: str, destination: str, protocol: int, ports: tuple[int, int], size: int) -> bytes:
    """An IPv4 frame of ``size`` bytes; TCP if the protocol is 6, UDP if it is 17."""
    ethernet = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0\x01" + b"\x08\0"
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, size - 14, 0, 0, 64, protocol, 0) + addresses
    rest = struct.pack("!HH", *ports)
    tcp, udp = struct.pack("!IIBBHHH", 1, 1, 0x50, 0x10, 512, 0, 0), (size - 34, 0)
    rest += tcp if protocol == 6 else struct.pack("!HH", *udp)
    return (ethernet + header + rest).ljust(size, b"\0")


@dataclass
class Stream:
    """Frames that come in at a rate that changes with time."""

    sender: socket.socket
    frames: list[bytes]
    rate: Callable[[float], float]
    credit: float = 0.0
    turn: int = 0

    def send(self, now: float, passed: float) -> None:
        self.credit = min(self.credit + passed * self.rate(now), 50)
        while self.credit >= 1:
            self.credit -= 1
            attempt(self.sender, self.frames[self.turn % len(self.frames)])
            self.turn += 1


def wave(mean: float, swing: float, period: float, phase: float = 0.0) -> Callable[[float], float]:
    return lambda now: mean * (1 + swing * math.sin(2 * math.pi * (now / period + phase)))


def burst(rate: float, begin: float, end: float) -> Callable[[float], float]:
    return lambda now: rate if begin <= now < end else 0.0


def mixed(what: int, *frames: bytes) -> list[bytes]:
    """The frames, for programs that do as the last byte of the source address says."""
    return [addressed(each, what=what) for each in frames]


def scene(lab: Lab, stack: ExitStack, scale: float, *, uncounted: bool) -> list[Stream]:
    """Interfaces, programs and traffic."""
    uplink, chained, inside, out = (lab.veth(name) for name in ("wan0", "wan1", "lan0", "lan1"))
    xdp_filter("load", uplink.name, "--mode", "native")
    xdp_filter("port", "9999", "--mode", "dst", "--proto", "udp")
    xdp_filter("ip", "203.0.113.66", "--mode", "src")
    for link in LINKS:
        append(chained, link)
    programs = lab.load_together("maps", "to_device", "where_it_leaves")
    lab.attach(programs["to_device"], inside)
    programs.put("devices", 0, out.index, programs["where_it_leaves"])
    # A pair takes redirected packets if what is at its other end could be run there.
    lab.attach(lab.load("decide_pass"), Veth(out.peer, out.name, lab.index(out.peer)))
    if uncounted:
        lab.attach(lab.load("decide_drop", "verdicts", "-g0"), lab.veth("eth2"))

    stack.enter_context(lab.namespace("tenant-a"))
    pushns("tenant-a")
    tenant_lab = Lab()
    tenant = tenant_lab.veth("eth0")
    tenant_lab.attach(tenant_lab.load("decide_by_source_mac", "flows"), tenant)
    tenant_sender = tenant.sender()
    popns()

    def of(
        mean: float, swing: float = 0.3, period: float = 200, phase: float = 0.0
    ) -> Callable[[float], float]:
        return wave(mean * scale, swing, period, phase)

    web = [
        ip(f"198.51.100.{host}", "192.0.2.10", 6, (40000 + host, 443), 600)
        for host in (7, 7, 7, 21, 21, 34)
    ]
    names = [ip(f"198.51.100.{host}", "192.0.2.53", 17, (50000, 53), 90) for host in (7, 40, 41)]
    scan = [ip("203.0.113.66", "192.0.2.10", 6, (61000, port), 60) for port in range(20, 40)]
    reflected = [ip(f"203.0.113.{h}", "192.0.2.10", 17, (123, 9999), 482) for h in range(70, 90)]
    first, second = uplink.sender(), chained.sender()
    return [
        Stream(first, web, of(22)),
        Stream(first, names, of(6, 0.2, 90)),
        Stream(first, scan, of(4, 0.8, 120)),
        Stream(first, reflected, burst(25 * scale, 110, 190)),
        Stream(first, [frame(60)], of(0.7)),
        Stream(second, mixed(PASS, *web), of(12, 0.3, 160, 0.3)),
        Stream(second, mixed(DROP, *reflected), of(7, 0.5, 140, 0.5)),
        Stream(second, mixed(TX, *names), of(3, 0.3, 100)),
        Stream(inside.sender(), mixed(PASS, *web), of(9, 0.4, 240, 0.1)),
        Stream(inside.sender(), mixed(DROP, *names), of(1.5, 0.4, 80)),
        Stream(tenant_sender, mixed(PASS, *web, *names), of(7, 0.2, 130)),
        Stream(tenant_sender, mixed(DROP, *scan), of(3, 0.5, 70)),
        Stream(tenant_sender, mixed(0, *names), burst(1.2 * scale, 200, 215)),
    ]


def prometheus(instance: str, agent: str, directory: Path) -> subprocess.Popen[bytes]:
    (directory / "prometheus.yml").write_text(
        "global: {scrape_interval: 5s}\n"
        "scrape_configs: [{job_name: xdpscope, static_configs:"
        f" [{{targets: ['{agent}'], labels: {{instance: '{instance}'}}}}]}}]\n"
    )
    return subprocess.Popen(
        [
            "prometheus",
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/data",
            "--web.enable-admin-api",
            "--log.level=warn",
        ]
    )


def snapshot(instance: str, directory: Path) -> None:
    """Has Prometheus write down all that it has, and takes it to the work tree."""
    request = urllib.request.Request(f"{PROMETHEUS}/api/v1/admin/tsdb/snapshot", method="POST")
    with urllib.request.urlopen(request, timeout=120):
        pass
    [taken] = (directory / "data" / "snapshots").iterdir()
    target = REPOSITORY / "build" / "recordings" / instance
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(taken, target)


def answers() -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{PROMETHEUS}/-/ready", timeout=5):
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--instance", required=True, help="the node's name")
    parser.add_argument("--start", type=int, help="what the clock shall say when it begins")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--port", type=int, default=0, help="the agent's")
    parser.add_argument("--scale", type=float, default=1.0, help="how much traffic")
    parser.add_argument("--uncounted", action="store_true", help="with a program without BTF")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = Lab()
        streams = scene(lab, stack, options.scale, uncounted=options.uncounted)
        stack.enter_context(run_time_stats())
        agent = stack.enter_context(AgentProcess(_CONFIG, port=options.port)).ready()
        for program in ("send_back_some", "to_device", "decide_by_source_mac"):
            wait_for(partial(traced, agent, program))
        if options.start:
            time.clock_settime(time.CLOCK_REALTIME, options.start)
        address = agent.address.removeprefix("http://")
        server = prometheus(options.instance, address, directory)
        stack.callback(server.kill)
        wait_for(answers)
        time.sleep(12)  # some pages with zeros
        print(f"recording {options.instance} for {options.seconds:g} s", flush=True)
        began = last = time.monotonic()
        while last - began < options.seconds:
            time.sleep(TICK)
            now = time.monotonic()
            for stream in streams:
                stream.send(now - began, min(now - last, 5 * TICK))
            last = now
        print({stream.frames[0][26:34].hex(): stream.turn for stream in streams})
        snapshot(options.instance, directory)


if __name__ == "__main__":
    main()
