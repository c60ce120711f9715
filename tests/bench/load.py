# SPDX-License-Identifier: Apache-2.0
"""Captures under load, ours and xdpdump's: what each loses, and its CPU time for a packet.

    python -m tests.vm.run --kernel 6.1 --parallel --cpus 2 -- python -m tests.bench.load

Run it in a machine with two CPUs: packets keep one busy, and the process that writes has the other.
Each packet is captured at entry and exit, up to 96 bytes, into /dev/null. Prints a Markdown table;
the exit status is 1 if a packet is neither captured nor lost by our own count.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from tests.bench.table import markdown
from tests.kernel.lab import Lab, Veth
from tests.kernel.sessions import KEEP, instructed
from xdpscope.libbpf import Program

BURST = 500
LEVELS = ((0.05, 1), (0.01, 1), (0.005, 1), (0.002, 1), (0.0, 1), (0.0, 2))
"""Seconds between bursts, and threads that send. Two leave no CPU to the process that writes."""
SECONDS = 8.0
SNAPLEN = "96"

_OURS = (
    *(sys.executable, "-m", "xdpscope", "capture", "-w", "/dev/null", "--snaplen", SNAPLEN),
    *("--program", "decide_pass"),
)
_XDPDUMP = (
    *("xdpdump", "-i", "lo", "-w", "/dev/null", "-s", SNAPLEN),
    *("--rx-capture", "entry,exit"),
)


@dataclass(frozen=True)
class Load:
    """What one tool did with a flood."""

    offered: int  # packets; each is captured twice
    seconds: float
    captured: int
    lost: int
    cpu: float  # seconds of the process, its start not included

    @property
    def rate(self) -> float:
        return self.offered / self.seconds

    @property
    def share_lost(self) -> float:
        return self.lost / (2 * self.offered)

    @property
    def microseconds(self) -> float:
        return 1e6 * self.cpu / max(1, self.captured)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def flood(program: Program, pause: float, threads: int) -> tuple[int, float]:
    """Run the program on bursts of packets. Return how many packets, and in how many seconds."""
    packet, began = instructed(KEEP, 1), time.monotonic()

    def send(_: int) -> int:
        sent = 0
        while time.monotonic() < began + SECONDS:
            program.test_run(packet, BURST)
            sent += BURST
            time.sleep(pause)
        return sent

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(send, range(threads))), time.monotonic() - began


def load(
    program: Program,
    level: tuple[float, int],
    command: tuple[str, ...],
    ready: str,
    counts: Callable[[str], tuple[int, int]],
) -> Load:
    """Capture a flood with a command.

    Args:
        program: The target.
        level: One of ``LEVELS``.
        command: It ends at SIGINT.
        ready: What it says on standard error once it captures.
        counts: Reads packets captured and lost from what it has said.
    """
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = ""
            while ready not in said:
                line = process.stderr.readline()
                said += line
                if not line:
                    raise AssertionError(f"{command[0]} has ended: {said}")
            before = cpu_seconds(process.pid)
            offered, seconds = flood(program, *level)
            time.sleep(2)
            spent = cpu_seconds(process.pid) - before
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
        finally:
            process.kill()
    return Load(offered, seconds, *counts(said), spent)


def _ours(said: str) -> tuple[int, int]:
    found = [[int(n.replace(",", "")) for n in each] for each in re.findall(_SUMMARY, said)]
    for captured, lost, matched in found:
        if captured + lost != matched:
            raise AssertionError(f"{captured} + {lost} packets are not {matched}")
    return sum(each[0] for each in found), sum(each[1] for each in found)


_SUMMARY = r"([\d,]+) captured, ([\d,]+) lost, ([\d,]+) matched"


def _xdpdump(said: str) -> tuple[int, int]:
    captured = re.search(r"(\d+) packets captured", said)
    lost = re.search(r"(\d+) packets dropped", said)
    if not captured or not lost:
        raise AssertionError(f"xdpdump: {said}")
    return int(captured[1]), int(lost[1])


def main() -> int:
    if shutil.which("xdpdump") is None:
        print("bench: there is no xdpdump: install xdp-tools", file=sys.stderr)
        return 1
    head = ["packets a second", "tool", "lost", "CPU time of the process, µs a record"]
    rows, exact = [head], True
    with ExitStack() as stack:
        lab = stack.enter_context(closing(Lab()))
        program = lab.load("decide_pass")
        # Where the kernel says that the packet of a test run has come in.
        lab.attach(program, Veth("lo", "lo", lab.index("lo")), "generic")
        for level in LEVELS:
            for name, command, ready, counts in (
                ("xdpscope capture", _OURS, "; Ctrl-C ends", _ours),
                ("xdpdump", _XDPDUMP, "listening on lo", _xdpdump),
            ):
                found = load(program, level, command, ready, counts)
                if name != "xdpdump":
                    exact &= found.captured + found.lost == 2 * found.offered
                row = [f"{found.rate:,.0f}", name, f"{found.share_lost:.1%}"]
                rows.append([*row, f"{found.microseconds:.1f}"])
                print(found, file=sys.stderr, flush=True)
    print(markdown(rows))
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
