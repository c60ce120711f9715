# SPDX-License-Identifier: Apache-2.0
"""Programs and interfaces in other network namespaces, which come and go."""

import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pyroute2 import netns as named

from tests.kernel.agent import QUICK, AgentProcess, traced, wait_for
from tests.kernel.conftest import reasons
from tests.kernel.flows import observing
from tests.kernel.lab import Lab, Veth, frame, open_descriptors
from tests.kernel.test_flows import udp4
from xdpscope.__main__ import main
from xdpscope.accounting.reading import VERDICTS
from xdpscope.config import Selection
from xdpscope.discovery.interfaces import InterfaceSource
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import Attachment, Mode
from xdpscope.discovery.namespaces import NamespaceSource
from xdpscope.kernel import netns
from xdpscope.libbpf import Program
from xdpscope.libbpf.stats import run_time_stats
from xdpscope.observer import Observer
from xdpscope.tracing.engine import Engine
from xdpscope.tracing.reason import Scope
from xdpscope.tracing.templates import FlowSizes

Counts = dict[tuple[str, str], int]
"""(network namespace, interface) to packets."""

DROP = VERDICTS.index("drop")
UNSHARE = ["unshare", "--net", "sleep", "1000"]


@contextmanager
def inside(path: str) -> Iterator[Lab]:
    """A lab in the namespace that a path leads to, this thread being there meanwhile."""
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        netns.enter(path, Path(path).stat().st_ino)
        lab = Lab()
        try:
            yield lab
        finally:
            lab.close()
            way = f"/proc/self/fd/{home.fileno()}"
            netns.enter(way, Path(way).stat().st_ino)


def in_service(lab: Lab, program: Program) -> Program:
    """Attached here, too: before Linux 5.13 nothing is traced that is attached nowhere."""
    lab.attach(program, lab.veth("here0"))
    return program


def path_of(name: str) -> str:
    return f"/run/netns/{name}"


def inode_of(name: str) -> int:
    return Path(path_of(name)).stat().st_ino


class Namespace:
    """A namespace of this test, with a pair in it that has the same names in each."""

    def __init__(self, path: str, program: Program, mode: str = "native") -> None:
        self.inode = Path(path).stat().st_ino
        with inside(path) as lab:
            self.veth = lab.veth("eth0")
            lab.attach(program, self.veth, mode)
            self._sender = self.veth.sender()
            lab._stack.pop_all()  # the pair goes with the namespace
            lab.route.close()

    def send(self, times: int, data: bytes = frame(60)) -> None:
        for _ in range(times):
            self._sender.send(data)

    def close(self) -> None:
        """Lets go of it: this socket is in it, and would hold it."""
        self._sender.close()


@contextmanager
def namespace(name: str, program: Program) -> Iterator[Namespace]:
    """One with a name."""
    named.create(name)
    with ExitStack() as stack:
        stack.callback(remove, name)
        found = Namespace(path_of(name), program)
        stack.callback(found.close)
        yield found


def remove(name: str) -> None:
    if Path(path_of(name)).exists():
        named.remove(name)


class Tether:
    """A pair with one end in a namespace: the other is there as long as that is."""

    def __init__(self, lab: Lab, path: str, name: str = "xstether") -> None:
        lab.route.link("add", ifname=name, kind="veth", peer={"ifname": f"{name}p"})
        peer = lab.index(f"{name}p")
        with Path(path).open("rb") as target:
            lab.route.link("set", index=peer, net_ns_fd=target.fileno())
        self._name = name

    def wait_until_gone(self) -> None:
        wait_for(lambda: self._name not in interfaces_here(), patience=10)


def interfaces_here() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def counted(observer: Observer) -> Counts:
    """Dropped packets by place, of all programs; without noughts."""
    found: Counts = {}
    for count in observer.counts():
        packets = count.tally.packets
        assert sum(packets) == packets[DROP]
        assert sum(count.tally.bytes) == 60 * packets[DROP]
        if packets[DROP]:
            found[count.place] = found.get(count.place, 0) + packets[DROP]
    return found


def expect(observer: Observer, expected: Counts) -> None:
    """Fails unless exactly this is counted; the kernel may put off the work for a packet."""
    end = time.monotonic() + 10
    while counted(observer) != expected and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.02)
    assert counted(observer) == expected


def has_cookies() -> bool:
    """Whether this kernel tells namespaces apart that have the same inode number (5.14)."""
    with InterfaceSource() as source:
        return source.namespace_cookie is not None


def places(observer: Observer) -> dict[str, set[tuple[str, str]]]:
    return {
        standing.program.function: {(at.netns, at.interface) for at in standing.attachments}
        for standing in observer.standings()
    }


def test_many_namespaces_with_the_same_names_and_indices(lab: Lab, observer: Observer) -> None:
    programs = [lab.load(name) for name in ("decide_drop", "decide_drop", "cut_four_bytes")]
    here = lab.veth("eth0")
    lab.attach(programs[0], here)
    names = [f"xst{number}" for number in range(20)]
    with ExitStack() as stack:
        # Three quarters run one program, on more devices than have places of their own.
        found = [
            stack.enter_context(namespace(name, programs[number % 4 == 3]))
            for number, name in enumerate(names)
        ]
        assert len({each.veth.index for each in found}) == 1, "their indices are to collide"
        observer.look(0)
        expected = {("host", "eth0"): 7}
        here.send(frame(60), times=7)
        for number, each in enumerate(found):
            each.send(10 + number)
            expected[names[number], "eth0"] = 10 + number
        expect(observer, expected)

        by_id = {s.program.id: s.attachments for s in observer.standings()}
        mine = {programs[0].info().id: 0, programs[1].info().id: 1}
        for id, rest in mine.items():
            wanted = [Attachment("host", "eth0", Mode.NATIVE)] if rest == 0 else []
            wanted += [
                Attachment(name, "eth0", Mode.NATIVE)
                for number, name in sorted(enumerate(names), key=lambda pair: pair[1])
                if (number % 4 == 3) == rest
            ]
            assert list(by_id[id]) == wanted
        assert by_id[programs[2].info().id] == ()
        assert reasons(observer) == {"decide_drop": "", "cut_four_bytes": "not_attached"}


def test_generic_mode_is_told_apart(lab: Lab, observer: Observer) -> None:
    named.create("xst0")
    try:
        Namespace(path_of("xst0"), lab.load("decide_drop"), "generic").close()
        observer.look(0)
        (standing,) = observer.standings()
        assert standing.attachments == (Attachment("xst0", "eth0", Mode.GENERIC),)
    finally:
        remove("xst0")


@pytest.mark.parametrize("command", [UNSHARE, ["unshare", "--user", "--map-root-user", *UNSHARE]])
def test_a_namespace_without_a_name(lab: Lab, observer: Observer, command: Sequence[str]) -> None:
    """As a container's; in a user namespace of its own, as a rootless one's."""
    program = lab.load("decide_drop")
    own = netns.own_inode()
    process = subprocess.Popen(command)
    try:
        path = f"/proc/{process.pid}/ns/net"
        wait_for(lambda: Path(path).stat().st_ino != own)
        tether = Tether(lab, path)
        found = Namespace(path, program)
        observer.look(0)
        found.send(3)
        place = str(found.inode), "eth0"
        assert places(observer) == {"decide_drop": {place}}
        expect(observer, {place: 3})
        found.close()
    finally:
        process.kill()
        process.wait()
    tether.wait_until_gone()
    observer.look(0)
    assert places(observer) == {"decide_drop": set()}


def test_nothing_holds_a_namespace(lab: Lab) -> None:
    """Not even a look that goes on while it is deleted: the agent looks all the time."""
    program = lab.load("decide_drop")
    with AgentProcess("discovery: {interval: 100ms}") as agent:
        agent.ready()
        for number in range(6):
            name = f"xst{number % 2}"
            named.create(name)
            tether = Tether(lab, path_of(name))
            found = Namespace(path_of(name), program)
            wait_for(lambda name=name: agent.value("xdp_program_attachment_info", netns=name) == 1)
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


def test_a_look_leaves_nothing_behind(lab: Lab) -> None:
    program = lab.load("decide_drop")
    own = Path("/proc/thread-self/ns/net").stat().st_ino
    with namespace("xst0", program), namespace("xst1", program), Inventory() as inventory:
        inventory.take()
        before = open_descriptors(), threading.active_count()
        for _ in range(10):
            assert {name for _, name in inventory.take().namespaces.values()} >= {"xst0", "xst1"}
        assert (open_descriptors(), threading.active_count()) == before
        assert Path("/proc/thread-self/ns/net").stat().st_ino == own


@pytest.mark.parametrize("look_between", [True, False])
def test_another_namespace_with_the_same_number(
    lab: Lab, observer: Observer, look_between: bool
) -> None:
    """Inode numbers are given again at once, and so are indices: it is another place."""
    if not look_between and not has_cookies():
        pytest.skip("before Linux 5.14 nothing tells them apart")
    program = in_service(lab, lab.load("decide_drop"))
    with namespace("xst0", program) as old:
        tether = Tether(lab, path_of("xst0"))
        observer.look(1000)
        old.send(3)
        if look_between:
            expect(observer, {("xst0", "eth0"): 3})
    tether.wait_until_gone()
    if look_between:
        observer.look(1000)
    with namespace("xst1", program) as new:
        assert (new.inode, new.veth.index) == (old.inode, old.veth.index)
        new.send(5)
        if has_cookies():
            # Between looks nobody knows its name; a scrape must not guess.
            assert counted(observer) == {("xst0", "eth0"): 3}
        observer.look(1000)
        new.send(7)
        expect(observer, {("xst0", "eth0"): 3, ("xst1", "eth0"): 12})


def test_a_name_goes_on_from_its_total(lab: Lab, observer: Observer) -> None:
    program, total = lab.load("decide_drop"), 0
    for round_ in range(1, 9):
        with namespace("xst0", program) as found:
            tether = Tether(lab, path_of("xst0"))
            if round_ % 2:
                observer.look(1000)
            found.send(round_)
            total += round_
            if round_ % 2 == 0 or round_ % 3 == 0:
                observer.look(1000)
                expect(observer, {("xst0", "eth0"): total})
        tether.wait_until_gone()
        if round_ % 4 == 0:
            observer.look(1000)
    observer.look(1000)
    expect(observer, {("xst0", "eth0"): total})


def test_what_is_gone_leaves_the_page_once_it_was_shown(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_drop")
    with namespace("xst0", program) as found:
        tether = Tether(lab, path_of("xst0"))
        observer.look(0)
        found.send(3)
    tether.wait_until_gone()
    for _ in range(3):
        observer.look(0)
        time.sleep(0.02)
    expect(observer, {("xst0", "eth0"): 3})
    observer.look(0)
    observer.look(0)
    assert counted(observer) == {}


def test_records_of_namespaces_that_are_gone_are_taken_out(lab: Lab, engine: Engine) -> None:
    """They are as many as places for devices at most, however many come and go."""
    program = lab.load("decide_drop")
    expected: Counts = {}
    with Inventory() as inventory, Observer(engine, inventory, Scope()) as observer:
        for round_ in range(4):
            with ExitStack() as stack:
                tethers = []
                for number in range(8):
                    name = f"xst{number}"
                    found = stack.enter_context(namespace(name, program))
                    tethers.append(Tether(lab, path_of(name), f"xstt{number}"))
                    observer.look(1000)
                    packets = number + round_ + 1
                    found.send(packets)
                    expected[name, "eth0"] = expected.get((name, "eth0"), 0) + packets
                    observer.look(1000)
                expect(observer, expected)
                left = sum(len(records) for records in engine.spilled().values())
                print(f"round {round_}: {left} records")
                assert left <= 8 + 1, "of this round, and one that a look must still confirm"
            for tether in tethers:
                tether.wait_until_gone()
            if round_ % 2:
                observer.look(1000)
                observer.look(1000)
        expect(observer, expected)


def test_a_renamed_interface(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_drop")
    with namespace("xst0", program) as one, namespace("xst1", program) as other:
        observer.look(1000)
        one.send(3)
        other.send(4)
        expect(observer, {("xst0", "eth0"): 3, ("xst1", "eth0"): 4})
        with inside(path_of("xst0")) as there:
            for attributes in ({"state": "down"}, {"ifname": "eth1"}, {"state": "up"}):
                there.route.link("set", index=one.veth.index, **attributes)
        observer.look(1000)
        one.send(5)
        other.send(6)
        expect(observer, {("xst0", "eth0"): 3, ("xst0", "eth1"): 5, ("xst1", "eth0"): 10})
        assert places(observer) == {"decide_drop": {("xst0", "eth1"), ("xst1", "eth0")}}


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
        observer.look(1000)
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
                    observer.look(1000)
                enough = traffic.sent + 10
                wait_for(lambda enough=enough: traffic.sent > enough)
                found.append(counted(observer))
        observer.look(1000)
        time.sleep(0.2)
        now = counted(observer)
        for earlier, later in itertools.pairwise([*found, now]):
            assert all(later[place] >= packets for place, packets in earlier.items())
        assert set(now) == {("host", "xst0"), ("xst0", "xst0"), ("xst1", "xst0")}
        assert sum(now.values()) == program.info().run_count
        # Where it is not, nothing is counted any more.
        veth.send(frame(60), times=11)
        place = where, "xst0"
        expect(observer, {**now, place: now[place] + 11})


class Vanishing(NamespaceSource):
    """Deletes a namespace once it is found, before it is looked into."""

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
def test_a_namespace_that_vanishes_in_the_middle_of_a_look(
    lab: Lab, engine: Engine, wait: bool
) -> None:
    program = lab.load("decide_drop")
    with namespace("xst0", program) as victim, namespace("xst1", program) as other:
        victim.close()
        tether = Tether(lab, path_of("xst0"))
        with (
            Inventory(Vanishing("xst0", tether if wait else None)) as inventory,
            Observer(engine, inventory, Scope()) as observer,
        ):
            observer.look(0)
            assert places(observer) == {"decide_drop": {("xst1", "eth0")}}
            other.send(3)
            expect(observer, {("xst1", "eth0"): 3})
        tether.wait_until_gone()


def test_a_way_that_leads_elsewhere_by_now(lab: Lab) -> None:
    """As a process's number that is another's by now: not to be taken for what it was."""
    own = netns.own_inode()
    with namespace("xst0", lab.load("decide_drop")):
        with pytest.raises(OSError, match="Stale"):
            netns.enter(path_of("xst0"), inode_of("xst0") + 1)
        assert Path("/proc/thread-self/ns/net").stat().st_ino == own


def test_names_that_could_be_mistaken(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_drop")
    alias = "xstalias"
    with namespace("host", program) as impostor, namespace("4026531999", program) as number:
        Path(path_of("xstfile")).write_text("no namespace")
        Path(path_of(alias)).touch()
        try:
            subprocess.run(["mount", "--bind", path_of("host"), path_of(alias)], check=True)
            observer.look(0)
            impostor.send(3)
            number.send(4)
            expect(observer, {(alias, "eth0"): 3, (str(number.inode), "eth0"): 4})
        finally:
            subprocess.run(["umount", path_of(alias)], check=True)
            Path(path_of(alias)).unlink()
            Path(path_of("xstfile")).unlink()


def test_our_own_namespace_alone(lab: Lab, engine: Engine) -> None:
    program, veth = lab.load("decide_drop"), lab.veth("xst0")
    lab.attach(program, veth)
    with (
        namespace("xst0", program) as other,
        Inventory(NamespaceSource(everywhere=False)) as inventory,
        Observer(engine, inventory, Scope()) as observer,
    ):
        observer.look(0)
        assert places(observer) == {"decide_drop": {("host", "xst0")}}
        other.send(3)
        veth.send(frame(60), times=4)
        expect(observer, {("host", "xst0"): 4})
        observer.narrow(Scope(), everywhere=True)
        observer.look(0)
        assert places(observer) == {"decide_drop": {("host", "xst0"), ("xst0", "eth0")}}
        observer.narrow(Scope(interfaces=Selection(include=("eth*",))))
        assert set(counted(observer)) < {("xst0", "eth0"), (str(other.inode), "eth0")}


def test_the_configuration_decides_and_is_reloaded(lab: Lab) -> None:
    program, veth = lab.load("decide_drop"), lab.veth("xst0")
    lab.attach(program, veth)
    with namespace("xst0", program) as other, AgentProcess() as agent:
        agent.configure("discovery: {interval: 500ms, netns: host}")
        # It may have read either by now.
        agent.ready()
        agent.send(signal.SIGHUP)
        wait_for(lambda: "configuration reloaded" in agent.events())
        wait_for(lambda: traced(agent, "decide_drop"))
        wait_for(lambda: agent.value("xdp_program_attachment_info") == 1)
        other.send(3)
        veth.send(frame(60), times=4)
        wait_for(lambda: agent.value("xdp_packets_total") == 4)
        assert agent.value("xdp_packets_total", netns="host", verdict="drop") == 4

        agent.configure(QUICK)
        agent.send(signal.SIGHUP)
        wait_for(lambda: agent.value("xdp_program_attachment_info") == 2)
        before = agent.value("xdp_packets_total", netns="xst0") or 0
        other.send(5)
        wait_for(lambda: agent.value("xdp_packets_total", netns="xst0") == before + 5)
        assert agent.stop() == 0


def test_an_attachment_over_netlink_is_seen_at_once(lab: Lab) -> None:
    """In a namespace that has a pair with ours, as containers have: the kernel tells of it."""
    program = lab.load("decide_drop")
    with AgentProcess("discovery: {interval: 1h}") as agent:
        agent.ready()
        with namespace("xst0", program):
            Tether(lab, path_of("xst0"))
            wait_for(lambda: agent.value("xdp_program_attachment_info", netns="xst0") == 1)
            with inside(path_of("xst0")) as there:
                there.attach(None, Veth("eth0", "eth0p", there.index("eth0")))
            wait_for(lambda: agent.value("xdp_program_attachment_info", netns="xst0") is None)
        assert agent.stop() == 0


def test_flows_of_namespaces_add_up(lab: Lab) -> None:
    program = in_service(lab, lab.load("decide_drop"))
    total: Counts = {}
    with Engine(FlowSizes(sets=64, sample_rate=1)) as engine, observing(engine) as observer:
        observer.look(1000)
        for round_ in range(3):
            with ExitStack() as stack:
                for number in range(6):
                    name = f"xst{(number + round_) % 7}"
                    found = stack.enter_context(namespace(name, program))
                    if number % 2:
                        observer.look(1000)
                    for flow in range(number + 5):
                        found.send(1, udp4(flow, 60))
                    total[name, "eth0"] = total.get((name, "eth0"), 0) + number + 5
                observer.look(1000)
                expect(observer, total)
            report = observer.flow_counts()
            sums: Counts = {}
            for flow in report.exported:
                sums[flow.place] = sums.get(flow.place, 0) + flow.packets
            for count in report.others:
                sums[count.place] = sums.get(count.place, 0) + sum(count.tally.packets)
            for count in report.unaccounted:
                for reason in ("not_ip", "truncated", "sampled_out", "table_full"):
                    packets = sum(count.tally.unaccounted(reason)[0])
                    sums[count.place] = sums.get(count.place, 0) + packets
            if not has_cookies():
                observer.look(1000)  # else the next may go on with the numbers of these
            assert {place: packets for place, packets in sums.items() if packets} == total


def run_python(code: str, *forbidden: str) -> tuple[list[object], str]:
    """What the code prints as JSON, and its log, run as root without some capabilities."""
    without = ",".join(f"-{name}" for name in forbidden)
    command = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]
    done = subprocess.run(
        [*(command if forbidden else ()), sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout), done.stderr + done.stdout


READ_TWICE = """
import json, logging
from xdpscope import log
from xdpscope.discovery.namespaces import NamespaceSource
log.configure("info", "json")
with NamespaceSource() as source:
    found = [sorted(each.name for each in source.read().seen) for _ in range(2)]
print(json.dumps(found))
"""


def test_what_is_not_permitted_is_said_once(lab: Lab) -> None:
    process = subprocess.Popen(UNSHARE)
    try:
        wait_for(lambda: Path(f"/proc/{process.pid}/ns/net").stat().st_ino != netns.own_inode())
        unnamed = str(Path(f"/proc/{process.pid}/ns/net").stat().st_ino)
        with namespace("xst0", lab.load("decide_drop")):
            found, log = run_python(READ_TWICE)
            assert found == [sorted(["host", "xst0", unnamed])] * 2
            assert "warning" not in log

            found, log = run_python(READ_TWICE, "sys_admin")
            assert found == [["host"]] * 2
            assert log.count("cannot look into some network namespaces") == 1

            found, log = run_python(READ_TWICE, "sys_ptrace")
            assert found == [["host", "xst0"]] * 2
            assert log.count("cannot tell the network namespaces of some processes") == 1
    finally:
        process.kill()
        process.wait()


def test_list_names_the_namespace(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    program, veth = lab.load("decide_drop"), lab.veth("xst0")
    lab.attach(program, veth)
    with namespace("blue", program), namespace("amber", program):
        assert main(["list"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "(native)" in line]
    assert [line.split(" (native)")[0].split()[-1] for line in lines] == [
        "xst0",
        "amber/eth0",
        "blue/eth0",
    ]
