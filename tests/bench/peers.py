# SPDX-License-Identifier: Apache-2.0
"""What else counts or shows flows on the same target."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from socket import if_nametoindex
from subprocess import PIPE

import numpy as np
from pyroute2 import IPRoute

from tests.bench.rig import Tracing
from tests.bench.turns import FlowBench
from xdpscope.libbpf import possible_cpus

_XDP_FLAGS_SKB_MODE = 2  # include/uapi/linux/if_link.h


def lru(bench: FlowBench, flows: int) -> int:
    """Return the cost of a run with the kernel's own table.

    Raises:
        AssertionError: it did not count exactly the packets that there were.
    """
    with Tracing(bench, "lru", ("lru_entry", "lru_exit")) as tracing:
        before = bench.runs
        bench.settle()
        cost = bench.instructions()
        runs = bench.runs - before
        if possible_cpus() != 1:
            raise AssertionError("the kernel has more than the one CPU that it was given")
        for name, keys in (("lru_flows", flows), ("lru_verdicts", 5)):
            with tracing.object.map(name) as table:
                found, values = table.items()
            packets, size = values.reshape(-1, 16).view(np.uint64).sum(axis=0).tolist()
            if (len(found), packets, size) != (keys, runs, 64 * runs):
                raise AssertionError(f"{name}: {len(found)} keys, {packets} packets of {runs}")
    return cost


def xdpdump(bench: FlowBench, points: str) -> int | None:
    """Return the cost of a run while xdpdump traces it, not counting the process that writes.

    Args:
        bench: its target is attached to the loopback device, where test runs' packets come from.
        points: ``entry``, ``exit`` or both with a comma between.

    Returns:
        None: it does not run here; the reason is on standard error.

    Raises:
        AssertionError: it did not see each packet.
    """
    command = ["xdpdump", "--interface", "lo", "--write", "/dev/null", "--rx-capture", points]
    if shutil.which(command[0]) is None:
        print("bench: there is no xdpdump: install xdp-tools", file=sys.stderr)
        return None
    with (
        _attached_to_loopback(bench),
        subprocess.Popen(command, stderr=PIPE, text=True) as dump,
        _killed(dump),
    ):
        assert dump.stderr is not None
        said = dump.stderr.readline()
        if not said.startswith("listening on lo"):
            dump.kill()
            print(f"bench: {' '.join(command)}: {said}{dump.stderr.read()}", file=sys.stderr)
            return None
        with bench.gently():
            before = bench.runs
            cost = bench.instructions()
            seen = (bench.runs - before) * len(points.split(","))
            time.sleep(bench.pause)
        dump.send_signal(signal.SIGINT)
        said = dump.stderr.read()
        if f"\n{seen} packets captured\n0 packets dropped" not in said:
            raise AssertionError(f"xdpdump was to see {seen} packets: {said}")
    return cost


@contextmanager
def _killed(process: subprocess.Popen[str]) -> Iterator[None]:
    """Stop the wait for a process when something has failed."""
    try:
        yield
    finally:
        process.kill()


@contextmanager
def _attached_to_loopback(bench: FlowBench) -> Iterator[None]:
    def attach(fd: int) -> None:
        attributes = [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", _XDP_FLAGS_SKB_MODE)]
        route.link("set", index=if_nametoindex("lo"), xdp={"attrs": attributes})

    with IPRoute() as route:
        attach(bench.program.fileno())
        try:
            yield
        finally:
            attach(-1)
