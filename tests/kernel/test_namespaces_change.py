# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that come and go, and interfaces that move between them."""

import itertools
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyroute2 import netns as named

from tests.kernel.agent import AgentProcess, traced
from tests.kernel.flows import observing
from tests.kernel.lab import Lab, frame
from tests.kernel.namespaces import (
    Counts,
    Namespace,
    Tether,
    counted,
    expect,
    has_cookies,
    in_service,
    inside,
    locations,
    namespace,
    namespace_numbered,
    path_of,
    remove,
)
from tests.kernel.observing import Observer
from tests.kernel.test_flows import udp4
from tests.tables import every_step
from tests.waiting import wait_for
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.variants import FlowSizes
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.namespaces import NamespaceSource
from xdpscope.kernel import netns
from xdpscope.libbpf.stats import run_time_stats

pytestmark = pytest.mark.every_kernel


@pytest.mark.matrix
def test_nothing_holds_a_namespace(lab: Lab) -> None:
    """Not even a scan during the deletion loses packets: the agent scans all the time."""
    program = lab.load("decide_drop")
    with AgentProcess("discovery: {interval: 100ms}") as agent:
        agent.ready()
        for number in range(6):
            name = f"xst{number % 2}"
            named.create(name)
            tether = Tether(lab, path_of(name))
            found = Namespace(path_of(name), program)
            wait_for(lambda name=name: agent.value("xdp_program_attachment_info", netns=name) == 1)
            # Before Linux 5.13 a program that is attached nowhere has no tracer: it gets one again.
            wait_for(lambda: traced(agent, "decide_drop"))
            found.send(number + 1)
            found.close()
            remove(name)
            began = time.monotonic()
            tether.wait_until_gone()
            print(f"gone after {time.monotonic() - began:.2f} s")
        for name, packets in (("xst0", 1 + 3 + 5), ("xst1", 2 + 4 + 6)):
            labels = {"netns": name, "verdict": "drop"}
            value = agent.value("xdp_packets_total", **labels)
            assert value in (packets, None), "shown once more, then no longer"
        assert [entry for entry in agent.log if entry["level"] != "info"] == []
        assert agent.stop() == 0


@pytest.mark.parametrize("scan_between", [True, False])
def test_another_namespace_with_the_same_number(
    lab: Lab, observer: Observer, scan_between: bool
) -> None:
    """Inode numbers are given again soon, and so are indices: it is another place."""
    if not scan_between and not has_cookies():
        pytest.skip("before Linux 5.14 nothing tells them apart")
    program = in_service(lab, lab.load("decide_drop"))
    with namespace("xst0", program) as old:
        tether = Tether(lab, path_of("xst0"))
        observer.scan(1000)
        old.send(3)
        if scan_between:
            expect(observer, {("xst0", "eth0"): 3})
    tether.wait_until_gone()
    if scan_between:
        observer.scan(1000)
    with namespace_numbered(old.inode, "xst1", program) as new:
        assert new.veth.index == old.veth.index
        new.send(5)
        if has_cookies():
            # Between scans its name is unknown; a scrape must not guess.
            assert counted(observer) == {("xst0", "eth0"): 3}
        observer.scan(1000)
        new.send(7)
        expect(observer, {("xst0", "eth0"): 3, ("xst1", "eth0"): 12})


@pytest.mark.first_kernel
def test_a_name_goes_on_from_its_total(lab: Lab, observer: Observer) -> None:
    program, total = lab.load("decide_drop"), 0
    for round_ in range(1, 9):
        with namespace("xst0", program) as found:
            tether = Tether(lab, path_of("xst0"))
            if round_ % 2:
                observer.scan(1000)
            found.send(round_)
            total += round_
            if round_ % 2 == 0 or round_ % 3 == 0:
                observer.scan(1000)
                expect(observer, {("xst0", "eth0"): total})
        tether.wait_until_gone()
        if round_ % 4 == 0:
            observer.scan(1000)
    observer.scan(1000)
    expect(observer, {("xst0", "eth0"): total})


def test_what_is_gone_leaves_the_page_after_a_while(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_drop")
    with namespace("xst0", program) as found:
        tether = Tether(lab, path_of("xst0"))
        observer.scan(0)
        found.send(3)
    tether.wait_until_gone()
    for _ in range(3):
        observer.scan(1000)
        time.sleep(0.02)
        expect(observer, {("xst0", "eth0"): 3})
    observer.scan(0)
    assert counted(observer) == {}


@pytest.mark.matrix
def test_records_of_namespaces_that_are_gone_are_taken_out(lab: Lab, engine: Engine) -> None:
    """However many come and go, there is one record at most for each number of a namespace.

    A number is taken again soon, but not always by the next namespace: entries of /proc take
    them, too.
    """
    program = lab.load("decide_drop")
    expected: Counts = {}
    inodes: set[int] = set()
    with Inventory() as inventory, Observer(engine, inventory, Selection()) as observer:
        for round_ in range(4):
            with ExitStack() as stack:
                tethers = []
                for number in range(8):
                    name = f"xst{number}"
                    found = stack.enter_context(namespace(name, program))
                    inodes.add(found.inode)
                    tethers.append(Tether(lab, path_of(name), f"xstt{number}"))
                    observer.scan(1000)
                    packets = number + round_ + 1
                    found.send(packets)
                    expected[name, "eth0"] = expected.get((name, "eth0"), 0) + packets
                    observer.scan(1000)
                expect(observer, expected)
                left = sum(len(records) for records in every_step(engine.overflow()).values())
                print(f"round {round_}: {left} records, {len(inodes)} numbers")
                assert left <= len(inodes) + 1, "and one that a scan must still confirm"
            for tether in tethers:
                tether.wait_until_gone()
            if round_ % 2:
                observer.scan(1000)
                observer.scan(1000)
        expect(observer, expected)
    assert len(inodes) <= 16, "of 32 namespaces: else none was known to be gone"


def test_a_renamed_interface(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_drop")
    with namespace("xst0", program) as one, namespace("xst1", program) as other:
        observer.scan(1000)
        one.send(3)
        other.send(4)
        expect(observer, {("xst0", "eth0"): 3, ("xst1", "eth0"): 4})
        with inside(path_of("xst0")) as there:
            for attributes in ({"state": "down"}, {"ifname": "eth1"}, {"state": "up"}):
                there.route.link("set", index=one.veth.index, **attributes)
        observer.scan(1000)
        one.send(5)
        other.send(6)
        expect(observer, {("xst0", "eth0"): 3, ("xst0", "eth1"): 5, ("xst1", "eth0"): 10})
        assert locations(observer) == {"decide_drop": {("xst0", "eth1"), ("xst1", "eth0")}}


def move(index: int, name: str, route: Lab) -> None:
    with Path(path_of(name)).open("rb") as target:
        route.route.link("set", index=index, net_ns_fd=target.fileno())


def test_an_interface_that_moves_under_traffic(lab: Lab, observer: Observer) -> None:
    """No packet twice, none never: as many as the kernel says that the program was run for."""
    program, veth = lab.load("decide_drop"), lab.veth("xst0")
    lab.attach(program, veth)
    with ExitStack() as stack, run_time_stats():
        names = ("xst0", "xst1")
        for name in names:
            named.create(name)
            stack.callback(remove, name)
        observer.scan(1000)
        where, found = "host", [counted(observer)]
        with veth.sending(frame(60)) as traffic:
            wait_for(lambda: traffic.sent > 10)
            for round_ in range(9):
                to = names[round_ % 2]
                if where == "host":
                    move(veth.index, to, lab)
                else:
                    with inside(path_of(where)) as there:
                        move(there.index("xst0"), to, there)
                where = to
                with inside(path_of(where)) as there:
                    there.route.link("set", index=there.index("xst0"), state="up")
                if round_ % 3 != 1:
                    observer.scan(1000)
                enough = traffic.sent + 10
                wait_for(lambda enough=enough: traffic.sent > enough)
                found.append(counted(observer))
        observer.scan(1000)
        time.sleep(0.2)
        now = counted(observer)
        for earlier, later in itertools.pairwise([*found, now]):
            assert all(later[location] >= packets for location, packets in earlier.items())
        assert set(now) == {("host", "xst0"), ("xst0", "xst0"), ("xst1", "xst0")}
        assert sum(now.values()) == program.info().run_count
        # Where it is not, nothing is counted any more.
        veth.send(frame(60), times=11)
        location = where, "xst0"
        expect(observer, {**now, location: now[location] + 11})


class Vanishing(NamespaceSource):
    """Deletes a namespace once it is found, before it is scanned."""

    def __init__(self, victim: str, tether: Tether | None) -> None:
        super().__init__()
        self._victim, self._tether = victim, tether

    def find(self) -> netns.Found:
        found = super().find()
        if Path(path_of(self._victim)).exists():
            remove(self._victim)
            if self._tether is not None:
                self._tether.wait_until_gone()
        return found


@pytest.mark.parametrize("wait", [True, False])
def test_a_namespace_that_vanishes_in_the_middle_of_a_scan(
    lab: Lab, engine: Engine, wait: bool
) -> None:
    program = lab.load("decide_drop")
    with namespace("xst0", program) as victim, namespace("xst1", program) as other:
        victim.close()
        tether = Tether(lab, path_of("xst0"))
        with (
            Inventory(Vanishing("xst0", tether if wait else None)) as inventory,
            Observer(engine, inventory, Selection()) as observer,
        ):
            observer.scan(0)
            assert locations(observer) == {"decide_drop": {("xst1", "eth0")}}
            other.send(3)
            expect(observer, {("xst1", "eth0"): 3})
        tether.wait_until_gone()


@pytest.mark.first_kernel
def test_flows_of_namespaces_add_up(lab: Lab) -> None:
    program = in_service(lab, lab.load("decide_drop"))
    total: Counts = {}
    with Engine(FlowSizes(sets=64, sample_rate=1)) as engine, observing(engine) as observer:
        observer.scan(1000)
        for round_ in range(3):
            with ExitStack() as stack:
                for number in range(6):
                    name = f"xst{(number + round_) % 7}"
                    found = stack.enter_context(namespace(name, program))
                    if number % 2:
                        observer.scan(1000)
                    for flow in range(number + 5):
                        found.send(1, udp4(flow, 60))
                    total[name, "eth0"] = total.get((name, "eth0"), 0) + number + 5
                observer.scan(1000)
                expect(observer, total)
            report = observer.flow_counts()
            sums: Counts = {}
            for flow in report.exported:
                sums[flow.location] = sums.get(flow.location, 0) + flow.packets
            for count in report.others:
                sums[count.location] = sums.get(count.location, 0) + sum(count.tally.packets)
            for count in report.unaccounted:
                for reason in ("not_ip", "truncated", "sampled_out", "table_full"):
                    packets = sum(count.tally.unaccounted(reason)[0])
                    sums[count.location] = sums.get(count.location, 0) + packets
            if not has_cookies():
                observer.scan(1000)  # else the next may go on with the numbers of these
            assert {location: packets for location, packets in sums.items() if packets} == total
