# SPDX-License-Identifier: Apache-2.0
"""With ``state.pin_path`` agents come and go, and the account goes on: not a packet is lost."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced, wait_for
from tests.kernel.lab import Lab, Veth, attempt
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
        halting = ("-m", "tests.kernel.halting", str(steps))
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
        subprocess.run(
            [sys.executable, "-m", "xdpscope", "doctor", "--clean", "--config", config(pinning)],
            check=True,
        )
        wait_for(lambda: links() == 0)
    assert steps > least


def config(text: str) -> str:
    path = Path("/tmp/xst.yaml")
    path.write_text(text)
    return str(path)
