# SPDX-License-Identifier: Apache-2.0
"""With ``state.pin_path`` agents come and go, and the account goes on: not a packet is lost."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced, wait_for
from tests.kernel.lab import Lab, Veth, attempt, kernel_objects, loaded_programs
from tests.kernel.programs import other_build
from xdpscope.libbpf import Link

BPFFS = Path("/sys/fs/bpf")
DROP = 1

VERDICTS = "flows: {enabled: false}\n"
FLOWS = "flows: {enabled: true}\n"
SAMPLED = "flows: {sample_rate: 10}\n"

UNALTERED, ALTERED = "decide_by_source_mac", "write_and_decide"
"""Of the first packets are read where they leave, of the other where they come in."""


def tree(path: Path) -> list[str]:
    """All that is below a directory."""
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


@pytest.fixture
def pin_path() -> Iterator[Path]:
    """A directory that is not there yet, and neither is afterwards."""
    path = BPFFS / "xst"
    assert not path.exists()
    wait_for(lambda: links() == 0)  # what was unpinned is detached a moment later
    yield path
    for each in sorted(path.rglob("*"), reverse=True):
        each.rmdir() if each.is_dir() else each.unlink()
    if path.exists():
        path.rmdir()
    assert tree(BPFFS) == []


@pytest.fixture
def pinning(pin_path: Path) -> str:
    """A configuration."""
    return QUICK + f"state: {{pin_path: {pin_path}}}\n"


def udp(source_port: int, verdict: int = DROP) -> bytes:
    """A frame that the programs of flows.bpf.c decide that verdict for."""
    ends = ip_address("192.0.2.1").packed + ip_address("192.0.2.2").packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 46, 0, 0, 64, 17, 0) + ends
    ethernet = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0" + bytes([verdict]) + b"\x08\0"
    return ethernet + header + struct.pack("!HHHH", source_port, 53, 26, 0) + bytes(18)


def total(agent: AgentProcess, program: str) -> int:
    return int(agent.value("xdp_packets_total", program=program) or 0)


def in_flows(agent: AgentProcess, program: str) -> int:
    """Packets in flows, `other` too, and in none."""
    names = "xdp_flow_packets_total", "xdp_flow_unaccounted_packets_total"
    return sum(int(agent.value(name, program=program) or 0) for name in names)


def expect_total(agent: AgentProcess, program: str, expected: int, flows: bool = True) -> None:
    """Fails unless exactly this is counted, and a moment later still no more."""
    try:
        wait_for(lambda: total(agent, program) == expected, patience=10)
    except AssertionError:
        assert total(agent, program) == expected
    time.sleep(0.1)
    assert total(agent, program) == expected
    if flows:
        assert in_flows(agent, program) == expected


def links() -> int:
    """How many links there are: the agent's iterator and hook, and those on programs."""
    return len(list(Link.ids()))


def links_of(pin_path: Path, program_id: int) -> set[str]:
    """The tracing programs that are pinned of one program, without what differs by kernel."""
    found = pin_path.glob(f"state_*/targets/*_{program_id}/*")
    return {each.name.split("_")[0] for each in found} - {"counts"}


def settled(pin_path: Path, program_id: int) -> bool:
    """Whether what is pinned of a program is what an agent ends up with."""
    ends = {"unaltered"}, {"leave", "enter"}, {"count"}
    return links_of(pin_path, program_id) in ends


def halted(agent: AgentProcess) -> bool:
    status = Path(f"/proc/{agent.process.pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "T"


def kill(agent: AgentProcess) -> None:
    agent.send(signal.SIGKILL)
    assert agent.wait() == -signal.SIGKILL


def send_on_each_cpu(veth: Veth, data: bytes, times: int) -> int:
    """Packets are counted by CPU, and each has to learn what is attached."""
    allowed = os.sched_getaffinity(0)
    try:
        for cpu in allowed:
            os.sched_setaffinity(0, {cpu})
            veth.send(data, times=times)
    finally:
        os.sched_setaffinity(0, allowed)
    return times * len(allowed)


class Drizzle(threading.Thread):
    """A packet to each of some interfaces, again and again, so slowly that an agent can start."""

    def __init__(self, veths: list[Veth]) -> None:
        super().__init__(daemon=True)
        self._veths = veths
        self._end = threading.Event()
        self.sent = 0

    def run(self) -> None:
        with ExitStack() as stack:
            senders = [stack.enter_context(veth.sender()) for veth in self._veths]
            while not self._end.wait(0.01):
                self.sent += 1
                for sender in senders:
                    attempt(sender, udp(4000))  # one that fails is among what the pair lost

    def stop(self) -> None:
        """Ends it; ``sent`` is final."""
        self._end.set()
        self.join()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("flows", [VERDICTS, FLOWS])
def test_killed_at_any_moment_it_loses_no_packet(
    lab: Lab, pinning: str, pin_path: Path, flows: str
) -> None:
    """While it starts, attaches, has flows follow, and serves; under traffic all the time."""
    places = {
        "decide_drop": (lab.veth("xst0"), "verdicts"),
        UNALTERED: (lab.veth("xst1"), "flows"),
        ALTERED: (lab.veth("xst2"), "flows"),
    }
    for name, (veth, source) in places.items():
        lab.attach(lab.load(name, source), veth)
    chance = random.Random(len(flows))
    lengths = [0.0, *(chance.uniform(0, 6) for _ in range(5))]
    with ExitStack() as stack:
        traffic = None
        for length in lengths:
            with AgentProcess(pinning + flows) as agent:
                if traffic is None:
                    # From here on each packet has to be counted; flows are yet to follow.
                    wait_for(lambda: agent.events().count("tracing") == len(places))
                    traffic = Drizzle([veth for veth, _ in places.values()])
                    stack.callback(traffic.stop)
                    traffic.start()
                time.sleep(length)
                kill(agent)
            print(f"killed after {length:.1f} s:", *tree(pin_path)[-8:])
        with AgentProcess(pinning + flows) as agent:
            agent.ready()
            wait_for(lambda: all(traced(agent, name) for name in places))
            stack.close()
            for name, (veth, _) in places.items():
                expect_total(agent, name, traffic.sent - veth.lost, flows is FLOWS)
            assert traffic.sent > 100
            assert agent.stop() == 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("flows", "program", "least"),
    [
        (VERDICTS, UNALTERED, 4),
        (FLOWS, UNALTERED, 8),
        (FLOWS, ALTERED, 10),
        (SAMPLED, UNALTERED, 8),
    ],
)
def test_ended_at_each_step_of_attaching(
    lab: Lab, pinning: str, pin_path: Path, flows: str, program: str, least: int
) -> None:
    veth, loaded = lab.veth("xst0"), lab.load(program, "flows")
    program_id = loaded.info().id
    lab.attach(loaded, veth)
    steps = 0
    while True:
        steps += 1
        halting = ("-m", "tests.kernel.halting", "new_target", str(steps))
        with AgentProcess(pinning + flows, program=halting) as agent:
            wait_for(lambda: halted(agent) or settled(pin_path, program_id))
            if not halted(agent):
                kill(agent)
                break
            found = links_of(pin_path, program_id)
            attached, pinned = links() > 2, bool(found)
            expected = 0
            # On one CPU at first, so that they differ in what they have seen.
            for before in (veth.send(udp(4000), times=3), send_on_each_cpu(veth, udp(4001), 5)):
                expected += before if attached else 0
            kill(agent)
        left = 1 + len(found)
        wait_for(lambda left=left: links() == left)
        expected += send_on_each_cpu(veth, udp(4000), 7) if pinned else 0
        if not pinned:
            send_on_each_cpu(veth, udp(4000), 7)
        with AgentProcess(pinning + flows) as agent:
            agent.ready()
            wait_for(lambda: settled(pin_path, program_id))
            expected += send_on_each_cpu(veth, udp(4001), 11)
            print(f"step {steps}: {sorted(found)}, attached {attached}, pinned {pinned}")
            expect_total(agent, program, expected, flows is not VERDICTS)
            assert agent.stop() == 0
        assert clean(pinning).returncode == 0
        wait_for(lambda: links() == 0)
    assert steps > least


def clean(configuration: str) -> subprocess.CompletedProcess[str]:
    """``xdpscope doctor --clean``."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        Path(file.name).write_text(configuration)
        command = [sys.executable, "-m", "xdpscope", "doctor", "--clean", "--config", file.name]
        return subprocess.run(command, capture_output=True, text=True)


def unhurried(pinning: str) -> str:
    """The same with the usual interval, in which what is gone stays on the page for longer."""
    return pinning.replace(QUICK, "")


@pytest.mark.timeout(600)
def test_what_is_let_go_can_be_ended_at_each_step(lab: Lab, pinning: str, pin_path: Path) -> None:
    """What it leaves is traced anew by the next, with the totals of before."""
    veth, loaded = lab.veth("xst0"), lab.load(ALTERED, "flows")
    program_id = loaded.info().id
    lab.attach(loaded, veth)
    expected, first, sets = 0, 0, set()
    with AgentProcess(pinning) as agent:
        wait_for(lambda: settled(pin_path, program_id))
        kill(agent)
    for step in range(1, 5):
        # Told by its configuration not to trace what was traced before.
        excluding = pinning + f"programs: {{exclude: [{ALTERED}]}}\n"
        halting = ("-m", "tests.kernel.halting", "_removed", str(step))
        with AgentProcess(excluding, program=halting) as agent:
            wait_for(lambda agent=agent: halted(agent))
            sets.add(frozenset(links_of(pin_path, program_id)))
            kill(agent)
        with AgentProcess(pinning) as agent:
            agent.ready()
            wait_for(lambda: settled(pin_path, program_id))
            first = total(agent, ALTERED)
            assert first == expected
            expected = first + send_on_each_cpu(veth, udp(4000), 7)
            expect_total(agent, ALTERED, expected)
            assert agent.stop() == 0
    assert expected == 4 * 7 * len(os.sched_getaffinity(0))
    assert sets == {frozenset({"enter"}), frozenset()}


def test_stopped_and_started_it_goes_on_with_its_flows(lab: Lab, pinning: str) -> None:
    veth, other = lab.veth("xst0"), lab.veth("xst1")
    lab.attach(lab.load(UNALTERED, "flows"), veth)
    lab.attach(lab.load(ALTERED, "flows"), other)
    sent = {4000: 5, 4001: 11}
    for restart in range(3):
        with AgentProcess(pinning + "flows: {top: 1}\n") as agent:
            agent.ready()
            wait_for(lambda agent=agent: traced(agent, UNALTERED) and traced(agent, ALTERED))
            if not restart:
                wait_for(lambda: complete(pinning))
            for port in sent:
                veth.send(udp(port), times=sent[port])
                other.send(udp(port), times=sent[port])
            for program in (UNALTERED, ALTERED):
                expect_total(agent, program, 16 * (2 * restart + 1))
                held = json.loads(agent.get(f"/api/v1/flows?program={program}"))
                packets = {flow["source_port"]: flow["packets"] for flow in held}
                assert packets == {port: n * (2 * restart + 1) for port, n in sent.items()}
                if restart:
                    assert max(flow["rate"] for flow in held) < 1
            began = time.monotonic()
            assert agent.stop() == 0
            assert time.monotonic() - began < 1.5
        for port in sent:
            veth.send(udp(port), times=sent[port])
            other.send(udp(port), times=sent[port])


def complete(configuration: str) -> bool:
    path = Path(configuration.split("pin_path: ")[1].split("}")[0])
    return all(settled(path, int(t.name.split("_")[1])) for t in path.glob("state_*/targets/*"))


def test_a_number_is_never_anothers(lab: Lab, pinning: str, pin_path: Path) -> None:
    """The flows of a program that is gone are still in the table; they are nobody's."""
    veth = lab.veth("xst0")
    first = lab.load(UNALTERED, "flows")
    lab.attach(first, veth)
    with AgentProcess(pinning) as agent:
        agent.ready()
        wait_for(lambda: complete(pinning) and traced(agent, UNALTERED))
        veth.send(udp(4000), times=5)
        expect_total(agent, UNALTERED, 5)
        assert agent.stop() == 0
    lab.attach(None, veth)
    first.close()
    with AgentProcess(unhurried(pinning)) as agent:
        agent.ready()
        expect_total(agent, UNALTERED, 5)  # shown once more
        wait_for(lambda: not list(pin_path.glob("state_*/targets/*")) or not agent.get("/metrics"))
        assert agent.stop() == 0
    lab.attach(lab.load(ALTERED, "flows"), veth)
    with AgentProcess(pinning) as agent:
        agent.ready()
        wait_for(lambda: complete(pinning) and traced(agent, ALTERED))
        veth.send(udp(4000), times=3)
        expect_total(agent, ALTERED, 3)
        held = json.loads(agent.get("/api/v1/flows"))
        assert [(flow["program"], flow["packets"]) for flow in held] == [(ALTERED, 3)]
        assert agent.stop() == 0


def test_a_newer_version_takes_over_and_another_build_replaces(
    lab: Lab, pinning: str, pin_path: Path
) -> None:
    veth, program = lab.veth("xst0"), lab.load(UNALTERED, "flows")
    lab.attach(program, veth)
    with AgentProcess(pinning) as agent:
        agent.ready()
        wait_for(lambda: complete(pinning) and traced(agent, UNALTERED))
        veth.send(udp(4000), times=5)
        kill(agent)
    veth.send(udp(4000), times=6)
    newer = "import sys, xdpscope; xdpscope.__version__ = '99.0'\n"
    newer += "from xdpscope.__main__ import main; sys.exit(main())"
    (state,) = pin_path.iterdir()
    with AgentProcess(pinning, program=("-c", newer)) as agent:
        agent.ready()
        assert agent.value("xdpscope_build_info", version="99.0") == 1
        veth.send(udp(4000), times=7)
        expect_total(agent, UNALTERED, 18)
        assert agent.stop() == 0
    assert [*pin_path.iterdir()] == [state]
    veth.send(udp(4000), times=8)

    other = {"PYTHONPATH": str(other_build())}
    with AgentProcess(pinning, environment=other) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, UNALTERED) and complete(pinning))
        said = [entry for entry in agent.log if "counters start again" in str(entry["event"])]
        assert [(entry["path"], entry["programs"]) for entry in said] == [(str(state), 1)]
        assert not state.exists()
        wait_for(lambda: links() == 3)  # the iterator, the hook, the target's: nothing is left
        veth.send(udp(4000), times=9)
        expect_total(agent, UNALTERED, 9)
        kill(agent)
    veth.send(udp(4000), times=10)
    with AgentProcess(pinning, environment=other) as agent:
        agent.ready()
        expect_total(agent, UNALTERED, 19)
        assert agent.stop() == 0


def test_a_program_replaced_meanwhile_is_let_go(lab: Lab, pinning: str) -> None:
    veth, before, after = lab.veth("xst0"), lab.load("decide_drop"), lab.load("decide_pass")
    lab.attach(before, veth)
    with AgentProcess(pinning) as agent:
        agent.ready()
        wait_for(lambda: complete(pinning) and traced(agent, "decide_drop"))
        kill(agent)
    veth.send(udp(4000), times=5)
    lab.attach(after, veth)
    before.close()
    after.close()
    assert "decide_drop" in loaded_programs(), "the price"
    with AgentProcess(unhurried(pinning)) as agent:
        agent.ready()
        wait_for(lambda: "decide_drop" not in loaded_programs(), patience=5)
        expect_total(agent, "decide_drop", 5)
        veth.send(udp(4000), times=6)
        if agent.value("xdp_program_traced", program="decide_pass") == 1:
            expect_total(agent, "decide_pass", 6)
        assert agent.stop() == 0


def test_what_is_traced_again_keeps_its_total(lab: Lab, pinning: str) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load(ALTERED, "flows"), veth)
    with AgentProcess(pinning) as agent:
        agent.ready()
        wait_for(lambda: complete(pinning) and traced(agent, ALTERED))
        send_on_each_cpu(veth, udp(4000), 3)
        agent.configure(pinning + f"programs: {{exclude: [{ALTERED}]}}\n")
        agent.send(signal.SIGHUP)
        wait_for(lambda: agent.value("xdp_program_traced", reason="excluded") is not None)
        agent.configure(pinning)
        agent.send(signal.SIGHUP)
        wait_for(lambda: complete(pinning) and traced(agent, ALTERED))
        send_on_each_cpu(veth, udp(4000), 4)
        expect_total(agent, ALTERED, 7 * len(os.sched_getaffinity(0)))
        kill(agent)
    with AgentProcess(pinning) as agent:
        agent.ready()
        expect_total(agent, ALTERED, 7 * len(os.sched_getaffinity(0)))
        assert agent.stop() == 0


def test_doctor(lab: Lab, pinning: str, pin_path: Path) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    before = kernel_objects()
    with AgentProcess(pinning) as agent:
        agent.ready()
        wait_for(lambda: complete(pinning) and traced(agent, "decide_drop"))
        refused = clean(pinning)
        assert refused.returncode == 1
        assert f"{pin_path} is in use" in refused.stderr
        assert len(refused.stderr.splitlines()) == 2
        assert agent.stop() == 0
    assert kernel_objects() != before
    (state,) = pin_path.iterdir()
    done = clean(pinning)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"removed {state}, with counts of 1 programs\n"
    wait_for(lambda: kernel_objects() == before)
    assert not pin_path.exists()
    again = clean(pinning)
    assert (again.returncode, again.stdout) == (0, "")
    assert clean(QUICK).returncode == 2


def test_a_directory_is_one_agents(lab: Lab, pinning: str, pin_path: Path) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    with AgentProcess(pinning) as agent:
        agent.ready()
        wait_for(lambda: complete(pinning) and traced(agent, "decide_drop"))
        before = tree(pin_path), kernel_objects()
        with AgentProcess(pinning) as second:
            assert second.wait() == 1
            said = [line for line in second.stderr if not line.startswith("{")]
        assert f"{pin_path} is in use" in said[0] and "directory of its own" in said[1]
        assert before == (tree(pin_path), kernel_objects())
        veth.send(udp(4000), times=5)
        expect_total(agent, "decide_drop", 5)
        assert agent.stop() == 0


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/tmp/xst", 2, ("not on a bpffs", "mount -t bpf")),
        ("/sys/fs/bpf/xst.d", 1, ("cannot be used", "no dots")),
        ("/sys/fs/bpf", 1, ("others may write", "/sys/fs/bpf/xdpscope")),
    ],
)
def test_a_path_that_cannot_be_used(path: str, status: int, words: tuple[str, ...]) -> None:
    before = kernel_objects()
    with AgentProcess(f"state: {{pin_path: {path}}}\n") as agent:
        assert agent.wait() == status
        said = [line for line in agent.stderr if not line.startswith("{")]
    assert len(said) == 2, said
    for word in words:
        assert word in "\n".join(said)
    assert kernel_objects() == before
    assert tree(BPFFS) == []


def test_a_state_that_is_not_whole_is_made_anew(lab: Lab, pinning: str, pin_path: Path) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    for missing in ("links/device_appears", "maps/bss", "next_*"):
        with AgentProcess(pinning) as agent:
            agent.ready()
            wait_for(lambda: complete(pinning) and traced(agent, "decide_drop"))
            veth.send(udp(4000), times=5)
            expect_total(agent, "decide_drop", 5)
            assert agent.stop() == 0
        (found,) = pin_path.glob(f"state_*/{missing}")
        found.rmdir() if found.is_dir() else found.unlink()
    assert clean(pinning).returncode == 0


def test_without_a_path_nothing_is_pinned(lab: Lab) -> None:
    lab.attach(lab.load("decide_drop"), lab.veth("xst0"))
    before = kernel_objects()
    with AgentProcess(QUICK) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        assert tree(BPFFS) == []
        assert agent.stop() == 0
    wait_for(lambda: kernel_objects() == before)


@pytest.mark.timeout(600)
def test_taking_over_is_no_slower_than_attaching(lab: Lab, pinning: str, pin_path: Path) -> None:
    count = 40
    program_ids = []
    for number in range(count):
        program = lab.load("come_and_go", "single")
        program_ids.append(program.info().id)
        lab.attach(program, lab.veth(f"xst{number}"))
    took = []
    for _ in range(2):
        with AgentProcess(pinning) as agent:
            began = time.monotonic()
            agent.ready()
            wait_for(lambda: all(settled(pin_path, id) for id in program_ids), patience=300)
            took.append(time.monotonic() - began)
            assert agent.stop() == 0
    print(f"{count} programs: attached in {took[0]:.1f} s, taken over in {took[1]:.1f} s")
    assert took[1] < took[0]
    assert clean(pinning).returncode == 0
