# SPDX-License-Identifier: Apache-2.0
"""``state.pin_path`` as users meet it: agents and ``xdpscope doctor`` as processes of their own."""

import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.lab import Drizzle, Lab, Veth, kernel_objects, settled_objects
from tests.kernel.nursery import Finished, finished
from tests.kernel.pinned import (
    BPFFS,
    READ_ONLY,
    settled,
    tracers_of,
    tree,
    udp,
    wipe,
)
from tests.kernel.programs import newer_build, other_build
from tests.waiting import wait_for

PATH = BPFFS / "xst"
PINNING = QUICK + f"state: {{pin_path: {PATH}}}\n"


@pytest.fixture(autouse=True)
def pin_path() -> Iterator[None]:
    """Yield which is not there yet, and neither is afterwards."""
    wipe(PATH)
    others = tree(BPFFS)
    yield
    wipe(PATH)
    assert tree(BPFFS) == others


def doctor(configuration: str, *options: str) -> Finished:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        Path(file.name).write_text(configuration)
        return finished("doctor", "--config", file.name, *options)


def total(agent: AgentProcess) -> float | None:
    return agent.value("xdp_packets_total", program=READ_ONLY)


def in_flows(agent: AgentProcess) -> float:
    """Packets in flows, ``other`` too, and in none."""
    names = "xdp_flow_packets_total", "xdp_flow_unaccounted_packets_total"
    return sum(agent.value(name, program=READ_ONLY) or 0 for name in names)


def expect(agent: AgentProcess, expected: int) -> None:
    wait_for(lambda: total(agent) == expected)
    time.sleep(0.1)
    assert (total(agent), in_flows(agent)) == (expected, expected)


def of_build(path: Path) -> AgentProcess:
    """Return an agent of this build, which starts with the first instruction of its Python."""
    return AgentProcess(PINNING, environment={"PYTHONPATH": str(path)})


@pytest.mark.one_kernel
@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("upgraded", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_agents_come_and_go_and_the_account_goes_on(lab: Lab, upgraded: bool) -> None:
    """Killed, restarted, upgraded, with traffic all the time; then by one that cannot go on."""
    veth, program = lab.veth("xst0"), lab.load(READ_ONLY, "flows")
    program_id = program.info().id
    lab.attach(program, veth)
    traffic = Drizzle([(veth.sender(), udp(4000))])
    try:
        with AgentProcess(PINNING) as agent:
            agent.ready()
            wait_for(lambda: traced(agent, READ_ONLY) and settled(PATH, program_id))
            traffic.start()
            wait_for(lambda: traffic.sent > 100)
            agent.send(signal.SIGKILL)
            assert agent.wait() == -signal.SIGKILL
        (state,) = PATH.iterdir()
        at_the_end = traffic.sent
        wait_for(lambda: traffic.sent > at_the_end + 100)
        with AgentProcess(PINNING) as agent:
            agent.ready()
            wait_for(lambda: (total(agent) or 0) > at_the_end + 100)
            began = time.monotonic()
            assert agent.stop() == 0
            print(f"ended in {time.monotonic() - began:.2f} s of the guest's time")
        with of_build(newer_build()) if upgraded else AgentProcess(PINNING) as agent:
            agent.ready()
            assert bool(agent.value("xdpscope_build_info", version="99.0")) == upgraded
            traffic.stop()
            expect(agent, traffic.sent - veth.lost)
            assert agent.stop() == 0
        print(f"{traffic.sent} packets over three agents and the time between them")
    finally:
        traffic.stop()
    assert [*PATH.iterdir()] == [state]
    if upgraded:
        veth.send(udp(4000), times=8)
        _begin_again(veth, program_id, state)


def _begin_again(veth: Veth, program_id: int, state: Path) -> None:
    """Start an agent that cannot go on from what the others have left."""
    with of_build(other_build()) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, READ_ONLY) and settled(PATH, program_id))
        said = [entry for entry in agent.log if "counters start again" in str(entry["event"])]
        assert [(entry["path"], entry["programs"]) for entry in said] == [(str(state), 1)]
        assert not state.exists()
        wait_for(lambda: tracers_of(program_id) == 1)  # no other is left
        veth.send(udp(4000), times=9)
        expect(agent, 9)
        assert agent.stop() == 0


def least_objects() -> dict[str, int]:
    """Return what the kernel holds beside the iterators of a scan, which come and go.

    A probe may still attach its programs: two readings must agree.
    """

    def least() -> dict[str, int]:
        readings = []
        for _ in range(10):
            readings.append(kernel_objects())
            time.sleep(0.07)
        return {kind: min(each[kind] for each in readings) for kind in readings[0]}

    before, now = least(), least()
    while before != now:
        before, now = now, least()
    return now


@pytest.mark.matrix
@pytest.mark.every_kernel
def test_a_directory_is_one_agents_until_it_is_cleaned(lab: Lab) -> None:
    veth, program = lab.veth("xst0"), lab.load(READ_ONLY, "flows")
    program_id = program.info().id
    lab.attach(program, veth)
    before = settled_objects()
    with AgentProcess(PINNING) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, READ_ONLY) and settled(PATH, program_id))
        running = tree(PATH), least_objects()
        with AgentProcess(PINNING) as second:
            assert second.wait() == 1
            said = second.failure().splitlines()
        assert f"{PATH} is in use" in said[0] and "directory of its own" in said[1]
        refused = doctor(PINNING, "--clean")
        assert refused.status == 1
        assert f"{PATH} is in use" in refused.stderr
        assert len(refused.stderr.splitlines()) == 2
        findings = json.loads(doctor(PINNING, "--json").stdout)["checks"]
        assert findings[-1]["check"] == "state.pin_path" and findings[-1]["status"] == "ok"
        assert "in use" in findings[-1]["found"]
        assert running == (tree(PATH), least_objects())
        veth.send(udp(4000), times=5)
        expect(agent, 5)
        assert agent.stop() == 0
    assert kernel_objects() != before
    (state,) = PATH.iterdir()
    done = doctor(PINNING, "--clean")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == f"removed {state}, with the counts of 1 program\n"
    wait_for(lambda: kernel_objects() == before)
    assert not PATH.exists()
    again = doctor(PINNING, "--clean")
    assert (again.status, again.stdout) == (0, "")
    unset = doctor(QUICK, "--clean")
    assert unset.status == 2 and "state.pin_path" in unset.stderr


@pytest.mark.first_kernel
@pytest.mark.every_kernel
@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/tmp/xst", 2, ("not on a bpffs", "mount -t bpf")),
        ("/sys/fs/bpf/xst.d", 1, ("cannot be used", "no dots")),
        ("/sys/fs/bpf", 1, ("others may write", "/sys/fs/bpf/xdpscope")),
    ],
)
def test_a_path_that_cannot_be_used(path: str, status: int, words: tuple[str, ...]) -> None:
    before, pinned = settled_objects(), tree(BPFFS)
    with AgentProcess(f"state: {{pin_path: {path}}}\n") as agent:
        assert agent.wait() == status
        said = agent.failure().splitlines()
    assert len(said) == 2, said
    for word in words:
        assert word in "\n".join(said)
    assert kernel_objects() == before
    assert tree(BPFFS) == pinned


@pytest.mark.every_kernel
def test_without_a_path_nothing_is_pinned(lab: Lab) -> None:
    lab.attach(lab.load(READ_ONLY, "flows"), lab.veth("xst0"))
    before, pinned = settled_objects(), tree(BPFFS)
    with AgentProcess(QUICK) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, READ_ONLY))
        assert tree(BPFFS) == pinned
        agent.send(signal.SIGKILL)
        agent.wait()
    wait_for(lambda: kernel_objects() == before)
