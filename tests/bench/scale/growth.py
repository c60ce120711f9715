# SPDX-License-Identifier: Apache-2.0
"""Measure attaching and scanning as programs, links and namespaces grow in number, in a guest.

    python -m tests.vm.run -- python -m tests.bench.scale.growth RESULT

A program each on so many veth interfaces, both ends of a pair, ten to a namespace, attached
natively and each by a bpf_link of its own; through each has gone a packet.
"""

import json
import os
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.rig import packet4
from tests.bench.scale.namespaces import spread, within
from tests.kernel.observing import Observer
from xdpscope import log
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.spec import Spec
from xdpscope.attach.targets import Target, Targets
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import Flows
from xdpscope.discovery.inventory import Inventory
from xdpscope.kernel.machine import cpus_to_serve
from xdpscope.libbpf import possible_cpus

SIZES = (100, 250, 500)
PER_NAMESPACE = 10
_SCANS = 5
# Seconds in which the kernel ends what making, or removing, hundreds of interfaces has begun.
_SETTLING = 10.0
_PATIENCE = 300.0  # of an emulated guest beside others


@dataclass(frozen=True)
class Spent:
    """Seconds of the guest's clock, and of its CPU for this process."""

    clock: float
    cpu: float


class ScanThread:
    """Tells what passes from its making until it is asked."""

    def __init__(self) -> None:
        self._clock, self._cpu = time.perf_counter(), time.process_time()

    def spent(self) -> Spent:
        return Spent(time.perf_counter() - self._clock, time.process_time() - self._cpu)


def least(action: Callable[[], object], times: int = _SCANS) -> Spent:
    """Return what it takes when it takes least."""
    found = []
    for _ in range(times):
        scan_thread = ScanThread()
        action()
        found.append(scan_thread.spent())
    return Spent(min(each.clock for each in found), min(each.cpu for each in found))


@dataclass(frozen=True)
class Growth:
    """What one size takes."""

    programs: int
    attaching: Spent  # until each is traced
    flows: Spent  # and then until flows are counted of each as well
    finding: Spent  # Inventory.take
    scan: Spent  # Observer.scan, which finds them and reads what they have counted


@contextmanager
def observed(flows: Flows) -> Iterator[tuple[Engine, Inventory]]:
    sizes = FlowSizes.for_entries(
        flows.max_entries, flows.sample_rate, cpus_to_serve(), possible_cpus()
    )
    with Engine(sizes) as engine, Inventory() as inventory:
        yield engine, inventory


def measure(programs: int) -> Growth:
    """One size.

    Raises:
        AssertionError: not every program was found and traced, or not every packet counted.
    """
    flows = Flows()
    size = programs // PER_NAMESPACE, programs, programs
    with spread(*size, by_link=True) as names, observed(flows) as (engine, inventory):
        time.sleep(_SETTLING)
        with closing(Targets(engine, everything)) as targets:
            attaching, following = attach(targets, inventory, programs)
        finding = least(inventory.take)
        with Observer(engine, inventory, Selection(), flows) as observer:
            observer.scan(0)
            for name in names:
                send_one_each(name)
            expect_packets(observer, programs)
            observer.scan(0)
            scan = least(lambda: observer.scan(0))
            expect_packets(observer, programs)
    return Growth(programs, attaching, following, finding, scan)


def everything(_: Target) -> Spec:
    """Return what an agent with default settings needs."""
    return Spec.VERDICTS | Spec.FLOWS


def attach(targets: Targets, inventory: Inventory, programs: int) -> tuple[Spent, Spent]:
    """Attach as the first scan does."""
    snapshot = inventory.take()
    if len(snapshot.attachments) != programs:
        raise AssertionError(f"{len(snapshot.attachments)} programs are attached")
    scan_thread = ScanThread()
    targets.reconcile(snapshot, Selection(), lambda: False)
    attaching = scan_thread.spent()
    traced = sum(target.reason is None for target in targets)
    if traced != programs:
        raise AssertionError(f"{traced} programs are traced")
    scan_thread = ScanThread()
    for target in list(targets.incomplete()):
        targets.follow_up(target)
    return attaching, scan_thread.spent()


def send_one_each(name: str) -> None:
    """Send a packet to each interface of a namespace."""
    with within(name), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        for _, interface in socket.if_nameindex():
            if interface != "lo":
                sender.sendto(packet4(), (interface, 0))


def expect_packets(observer: Observer, programs: int) -> None:
    """Wait until each program has counted its packet."""
    end = time.monotonic() + _PATIENCE
    while True:
        packets = [sum(count.tally.packets) for count in observer.counts()]
        if packets == [1] * programs:
            return
        if time.monotonic() > end:
            raise AssertionError(f"{sum(packets)} packets counted of {programs} programs")


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryFile("w") as stream:
        # As the agent's own, but not to the emulator's terminal, which is no part of it.
        log.configure("info", "json", stream)
        for programs in map(int, sys.argv[2:]) if sys.argv[2:] else SIZES:
            found.append(asdict(measure(programs)))
            print(found[-1], file=sys.stderr, flush=True)
    result = {"release": os.uname().release, "sizes": found}
    Path(sys.argv[1]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
