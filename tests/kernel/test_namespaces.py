# SPDX-License-Identifier: Apache-2.0
"""Programs and interfaces in other network namespaces."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyroute2 import netns as named

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.conftest import reasons
from tests.kernel.lab import Lab, Veth, frame, open_descriptors
from tests.kernel.namespaces import (
    UNSHARE,
    Namespace,
    Tether,
    counted,
    expect,
    inode_of,
    inside,
    locations,
    namespace,
    path_of,
    remove,
)
from tests.kernel.observing import Observer
from tests.waiting import wait_for
from xdpscope.__main__ import main
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.config import GlobFilter
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import Attachment, Mode
from xdpscope.discovery.namespaces import NamespaceSource
from xdpscope.kernel import netns

pytestmark = pytest.mark.every_kernel


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
        observer.scan(0)
        expected = {("host", "eth0"): 7}
        here.send(frame(60), times=7)
        for number, each in enumerate(found):
            each.send(10 + number)
            expected[names[number], "eth0"] = 10 + number
        expect(observer, expected)

        by_id = {s.program.id: s.attachments for s in observer.statuses()}
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
        observer.scan(0)
        (status,) = observer.statuses()
        assert status.attachments == (Attachment("xst0", "eth0", Mode.GENERIC),)
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
        observer.scan(0)
        found.send(3)
        location = str(found.inode), "eth0"
        assert locations(observer) == {"decide_drop": {location}}
        expect(observer, {location: 3})
        found.close()
    finally:
        process.kill()
        process.wait()
    tether.wait_until_gone()
    observer.scan(0)
    assert locations(observer) == {"decide_drop": set()}


def test_a_scan_leaves_nothing_behind(lab: Lab) -> None:
    program = lab.load("decide_drop")
    own = Path("/proc/thread-self/ns/net").stat().st_ino
    with namespace("xst0", program), namespace("xst1", program), Inventory() as inventory:
        inventory.take()
        before = open_descriptors(), threading.active_count()
        for _ in range(10):
            assert {name for _, name in inventory.take().namespaces.values()} >= {"xst0", "xst1"}
        assert (open_descriptors(), threading.active_count()) == before
        assert Path("/proc/thread-self/ns/net").stat().st_ino == own


def test_a_way_that_leads_elsewhere_by_now(lab: Lab) -> None:
    """As a process's number that is another's by now: not to be taken for what it was."""
    own = netns.own_inode()
    with namespace("xst0", lab.load("decide_drop")):
        with pytest.raises(OSError, match="Stale"):
            netns.enter(path_of("xst0"), inode_of("xst0") + 1)
        assert Path("/proc/thread-self/ns/net").stat().st_ino == own


@pytest.mark.first_kernel
def test_names_that_could_be_mistaken(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_drop")
    alias = "xstalias"
    with namespace("host", program) as impostor, namespace("4026531999", program) as number:
        Path(path_of("xstfile")).write_text("no namespace")
        Path(path_of(alias)).touch()
        try:
            subprocess.run(["mount", "--bind", path_of("host"), path_of(alias)], check=True)
            observer.scan(0)
            impostor.send(3)
            number.send(4)
            expect(observer, {(alias, "eth0"): 3, (str(number.inode), "eth0"): 4})
        finally:
            subprocess.run(["umount", path_of(alias)], check=True)
            Path(path_of(alias)).unlink()
            Path(path_of("xstfile")).unlink()


@pytest.mark.first_kernel
def test_our_own_namespace_alone(lab: Lab, engine: Engine) -> None:
    program, veth = lab.load("decide_drop"), lab.veth("xst0")
    lab.attach(program, veth)
    with (
        namespace("xst0", program) as other,
        Inventory(NamespaceSource(everywhere=False)) as inventory,
        Observer(engine, inventory, Selection()) as observer,
    ):
        observer.scan(0)
        assert locations(observer) == {"decide_drop": {("host", "xst0")}}
        other.send(3)
        veth.send(frame(60), times=4)
        expect(observer, {("host", "xst0"): 4})
        observer.reconfigure(Selection(), everywhere=True)
        observer.scan(0)
        assert locations(observer) == {"decide_drop": {("host", "xst0"), ("xst0", "eth0")}}
        observer.reconfigure(Selection(interfaces=GlobFilter(include=("eth*",))))
        assert set(counted(observer)) < {("xst0", "eth0"), (str(other.inode), "eth0")}


@pytest.mark.first_kernel
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


@pytest.mark.first_kernel
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


def run_python(code: str, *forbidden: str) -> tuple[list[object], str]:
    """Return what the code prints as JSON, and its log, run as root without some capabilities."""
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


@pytest.mark.matrix
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
            assert log.count("cannot scan some network namespaces") == 1

            found, log = run_python(READ_TWICE, "sys_ptrace")
            assert found == [["host", "xst0"]] * 2
            assert log.count("cannot read the network namespaces of some processes") == 1
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
