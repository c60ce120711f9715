# SPDX-License-Identifier: Apache-2.0
"""Measures filters and captures, with the product's tracers, in the guest: see sessions.py."""

import json
import platform
import sys
from contextlib import closing
from pathlib import Path

from tests.bench.compiled import path_of
from tests.bench.peers import xdpdump
from tests.bench.rig import Bench, floor, packet4, packet6
from tests.bench.turns import FlowBench
from tests.tools.tunnels import frame, ipv4, udp, vxlan
from xdpscope.libbpf import Object
from xdpscope.sessions.packet_filter import PacketFilter
from xdpscope.sessions.tracers import Plan, Tracers

TARGET = "bench_target"
NOTHING = "tcp port 80"
EXPENSIVE = "icmp or icmp6 or arp or udp port 67 or udp port 68"
"""Takes most instructions of all filters of the tests for packets that do not match, of those that
a quick test decides."""
SLOW = "ip and (ip[6:2] & 0x1fff = 0) and udp and len > 100"
"""The same of the others."""
SNAPLEN = 96

# Names of what is measured, as tables show them.
EMPTY_PAIR = "empty fentry and fexit"
EMPTY_EXIT = "empty fexit"
NOTHING4 = f"filter {NOTHING!r}, no match, IPv4"
NOTHING6 = f"filter {NOTHING!r}, no match, IPv6"
EXIT4 = f"filter {NOTHING!r}, no match, IPv4, at the exit alone"
EXIT6 = f"filter {NOTHING!r}, no match, IPv6, at the exit alone"
EXPENSIVE4 = "the most expensive filter of the tests, no match, IPv4"
EXPENSIVE6 = "the most expensive filter of the tests, no match, IPv6"
SLOW4 = "the most expensive filter without a quick test, no match, IPv4"
SLOW6 = "the most expensive filter without a quick test, no match, IPv6"
INNER4 = f"--inner {NOTHING!r}, no tunnel, IPv4"
INNER_VXLAN = f"--inner {NOTHING!r}, no match, VXLAN"
CAPTURED = "captured at entry and exit, IPv4"
ALTERED = "captured at entry and exit, the program alters packets, IPv4"
XDPDUMP = "xdpdump, entry and exit, IPv4"


class _Drained(Bench):
    """A target whose captured packets are read after each series."""

    def __init__(self, bench: Bench, tracers: Tracers) -> None:
        super().__init__(bench.program, bench.function, bench.packet)
        self._tracers = tracers
        # The ring's end moves with what was read; a few instructions depend on where it is.
        self.slack = 5

    def run(self, repeat: int) -> int:
        cost = super().run(repeat)
        while self._tracers.rings.read(all=True):
            pass
        return cost


def traced(bench: Bench, plan: Plan, *, matches: bool = False) -> int:
    """Return the cost of a run under the tracers of a session.

    Raises:
        AssertionError: they did not see exactly the packets that there were.
    """
    with Tracers(plan) as tracers:
        tracers.attach(bench.description)
        running = _Drained(bench, tracers)
        cost = running.instructions()
        wanted = running.runs if matches else 0
        for _, _, counts in tracers.counts():
            if (counts.matched, counts.captured, counts.lost) != (wanted, wanted, 0):
                raise AssertionError(f"{counts}, but {wanted} of {running.runs} were to match")
    return cost


def measure(loaded: Object) -> dict[str, int | None]:
    """Return what each variant adds to a packet on this kernel, by name."""
    added: dict[str, int | None] = {}
    nothing, expensive, slow = map(PacketFilter.compile, (NOTHING, EXPENSIVE, SLOW))
    tunnel = frame(0x0800, ipv4(17, udp(4789, vxlan(packet4()))))
    with loaded.program(TARGET) as program:
        bench = Bench(program, TARGET, packet4())
        untraced = bench.instructions()
        added[EMPTY_PAIR] = floor(bench, "empty_entry", "empty_exit") - untraced
        added[EMPTY_EXIT] = floor(bench, "empty_exit") - untraced
        captured = traced(bench, Plan(snaplen=SNAPLEN), matches=True)
        added[CAPTURED] = captured - untraced
        for name, packet, plan in (
            (NOTHING4, packet4(), Plan(filter=nothing)),
            (NOTHING6, packet6(), Plan(filter=nothing)),
            (EXIT4, packet4(), Plan(entry=False, filter=nothing)),
            (EXIT6, packet6(), Plan(entry=False, filter=nothing)),
            (EXPENSIVE4, packet4(), Plan(filter=expensive)),
            (EXPENSIVE6, packet6(), Plan(filter=expensive)),
            (SLOW4, packet4(), Plan(filter=slow)),
            (SLOW6, packet6(), Plan(filter=slow)),
            (INNER4, packet4(), Plan(inner=nothing)),
            (INNER_VXLAN, tunnel, Plan(inner=nothing)),
        ):
            added[name] = traced(Bench(program, TARGET, packet), plan) - untraced
            print(f"bench: {name}: {added[name]}", file=sys.stderr, flush=True)
    with closing(FlowBench(loaded, "bench_flows4", packet4(), 26)) as flows:
        untraced = flows.instructions()
        added[ALTERED] = traced(flows, Plan(snaplen=SNAPLEN), matches=True) - untraced
        cost = xdpdump(flows, "entry,exit")
        added[XDPDUMP] = None if cost is None else cost - untraced
    return added


if __name__ == "__main__":
    with Object(path_of("target")) as opened:
        opened.load()
        found = {"release": platform.release(), "added_with_filters": measure(opened)}
    Path(sys.argv[1]).write_text(json.dumps(found))
