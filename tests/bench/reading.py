# SPDX-License-Identifier: Apache-2.0
"""Measure the reading of a full flow table, natively, against the kernel's part of it.

The table is the kernel's own, filled by bpf(2) instead of by packets. Everything is timed side by
side in one process. One batched read by itself is the same system call from C. The agent's reading
reads, merges over CPUs, ranks and sums up the rest. The others are bpftool's dump, and the page,
served with 500 flows. The exit status is 1 if a limit is passed.
"""

import argparse
import asyncio
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from tests.bench.source import MetricsOnly
from tests.bench.table import insert, markdown
from tests.collecting import Collecting
from tests.tables import OWNER, PROGRAM, TARGET, Table, every_step, flow_table, series_index, total
from xdpscope.config import Flows
from xdpscope.discovery.model import XdpProgram
from xdpscope.metrics import IsolatedCollectors
from xdpscope.probes.flows.metrics import families
from xdpscope.probes.flows.report import FlowReport, FlowRow
from xdpscope.probes.flows.totals import FlowTotals
from xdpscope.report import Count
from xdpscope.web.app import create_app
from xdpscope.web.server import WebServer

ENTRIES = 65536
TO_A_READ = 3.0  # what the agent's reading may take, in terms of one batched read
TO_BPFTOOL = 5.0  # how many times as fast as bpftool it must be
SCRAPE = 50.0  # ms
_ROUNDS = 15


def fill(table: Table) -> int:
    """Return a different flow in every place, the same ones on each CPU; how many."""
    dice = np.random.default_rng(20261121)
    sets, cpus, ways = table.slots.shape
    keys = dice.permutation(sets * ways).astype(np.uint64).reshape(sets, ways)
    for cpu in range(cpus):
        slots = table.slots[:, cpu]
        slots["key"][..., 0] = 53 << 48 | 1000 << 32 | 1
        slots["key"][..., 1] = keys << np.uint64(32) | np.uint64(17 << 8 | 1)
        slots["target"] = TARGET
        slots["packets"] = dice.integers(1, 1000, (sets, ways))
        slots["bytes"] = slots["packets"] * np.uint64(100)
    table.sets["done"] = table.sets["started"] = ways
    table.write()
    return int(sets * ways)


def milliseconds(work: Callable[[], object], before: Callable[[], object] = int) -> float:
    """Return the median of some rounds; what is done before each is not in it."""
    times = []
    for _ in range(_ROUNDS):
        before()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return median(times) * 1e3


class Reading:
    """The agent's reading of a table, in which all flows grow or give way to others between."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._series_index = series_index()
        packets = int(table.slots["packets"].sum())
        self._totals = total(packets, packets * 100)
        self.flow_totals = FlowTotals([table.reader], Flows(max_entries=2**24), patience=0)
        self.read()

    def read(self) -> None:
        """Reads; checks that everything is there."""
        every_step(
            self.flow_totals.read(self._series_index, self._totals, time.monotonic(), moved=False)
        )
        if self.flow_totals.entries != self._table.slots.shape[0] * self._table.slots.shape[2]:
            raise AssertionError(f"{self.flow_totals.entries} flows are held")

    def grow(self) -> None:
        """Give each flow a packet."""
        self._table.slots["packets"] += np.uint64(1)
        self._table.write()

    def replace(self) -> None:
        """Put another flow into each place."""
        ways = np.uint64(self._table.slots.shape[2])
        self._table.slots["key"][..., 0] += np.uint64(1)
        self._table.sets["done"] += ways
        self._table.sets["started"] += ways
        self._table.write()


def bpftool(table: Table) -> None:
    command = ["bpftool", "-j", "map", "dump", "id", str(table.map.info.id)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def scrape(reading: Reading) -> float:
    """Return the milliseconds of a scrape whose flows come out of the table."""
    program = XdpProgram(
        PROGRAM, "0123456789abcdef", "xdp_filter", "xdp_filter", 1, jited=True, attach_type="xdp"
    )

    def report() -> FlowReport:
        reading.read()
        flow_totals = reading.flow_totals
        flows = [FlowRow.of(program, count) for count in flow_totals.exported]
        others = [Count(program, OWNER[1], flow_totals.other(OWNER))]
        return FlowReport(flow_totals.entries, dict(flow_totals.evictions), 1, flows, others)

    collectors = IsolatedCollectors({"flows": Collecting(lambda: families(report()))})
    listener = WebServer.bind("127.0.0.1", 0)
    server = WebServer(create_app(MetricsOnly(collectors)), listener)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve(),))
    thread.start()
    url = f"http://127.0.0.1:{server.port}/metrics"
    try:
        page = urllib.request.urlopen(url).read()
        if page.count(b"xdp_flow_packets_total{") != 506:
            raise AssertionError("the page does not have 500 flows and six others")
        return milliseconds(lambda: urllib.request.urlopen(url).read(), reading.grow)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop)
        thread.join()


def measure(entries: int, whole: bool) -> dict[str, float]:
    """Milliseconds by what they were taken for."""
    with flow_table(entries // 4) as table:
        fill(table)
        info = table.map.info
        raw = np.zeros((info.max_entries, info.cpus, info.stride), np.uint8)
        reading = Reading(table)
        found = {
            "one batched read": milliseconds(lambda: table.map.read_array(raw), reading.grow),
            "the agent, flows that it knows": milliseconds(reading.read, reading.grow),
            "the agent, all of them new": milliseconds(reading.read, reading.replace),
        }
        if whole:
            found["bpftool -j map dump"] = milliseconds(lambda: bpftool(table))
            found["a scrape of the page, 500 flows"] = scrape(reading)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.reading", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="between its markers")
    options = parser.parse_args()
    sizes = {ENTRIES: True, 4 * ENTRIES: False, 16 * ENTRIES: False}
    found = {entries: measure(entries, whole) for entries, whole in sizes.items()}
    rows = [["ms", *(f"{entries:,} flows" for entries in found)]]
    rows += [
        [name, *(f"{times[name]:.1f}" if name in times else "" for times in found.values())]
        for name in found[ENTRIES]
    ]
    text = markdown(rows)
    print(text)
    if options.write:
        insert(options.write, "reading", text)
    base = found[ENTRIES]
    ours = base["the agent, flows that it knows"]
    failures = []
    if ours > TO_A_READ * base["one batched read"]:
        failures.append(f"reading takes {ours / base['one batched read']:.2f} batched reads")
    if TO_BPFTOOL * ours > base["bpftool -j map dump"]:
        failures.append(f"bpftool takes only {base['bpftool -j map dump'] / ours:.1f} times it")
    if base["a scrape of the page, 500 flows"] > SCRAPE:
        failures.append("a scrape takes too long")
    for failure in failures:
        print(f"bench: {failure}", file=sys.stderr)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
