# SPDX-License-Identifier: Apache-2.0
"""``xdpscope run`` as a process: its page, its signals, its errors, its end."""

import json
import random
import re
import signal
import socket
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.confinement import confine, hide_btf, limit_descriptors
from tests.kernel.lab import Lab, frame, kernel_objects, loaded_programs, settled_objects
from tests.kernel.nursery import finished, forget_soon_in_small_pages
from tests.waiting import wait_for
from xdpscope.attach.engine import Engine

SHELL = "sh", "-c", '"$@" & wait', "sh"
"""Runs a command as its child."""


@pytest.mark.one_kernel
def test_programs_are_traced_upon_netlinks_word(lab: Lab) -> None:
    with AgentProcess("discovery: {interval: 1h}\n") as agent:
        agent.ready()
        veth = lab.veth("xst0")
        program = lab.load("decide_drop")
        began = time.monotonic()
        lab.attach(program, veth)
        # The next scan is due in an hour. An emulator on a busy host needs seconds for this.
        wait_for(lambda: "tracing" in agent.events(), patience=30)
        print(f"traced after {time.monotonic() - began:.2f} s of the guest's time")


@pytest.mark.first_kernel
@pytest.mark.every_kernel
def test_killed_under_traffic_it_leaves_nothing(lab: Lab) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    before = settled_objects()
    with AgentProcess(QUICK) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        assert kernel_objects() != before
        with veth.sending(frame(60)) as traffic:
            wait_for(lambda: traffic.sent > 100)
            agent.send(signal.SIGKILL)
            assert agent.wait() == -signal.SIGKILL
            at_the_end = traffic.sent
            wait_for(lambda: kernel_objects() == before)
            wait_for(lambda: traffic.sent > at_the_end + 100)
    assert lab.attached_program(veth) is not None


@pytest.mark.parametrize(
    "first",
    [
        pytest.param((), id="itself", marks=[pytest.mark.every_kernel, pytest.mark.matrix]),
        pytest.param(SHELL, id="shell", marks=[pytest.mark.one_kernel, pytest.mark.nightly]),
    ],
)
def test_killed_with_its_pid_namespace_it_keeps_nobody_waiting(
    lab: Lab, first: tuple[str, ...]
) -> None:
    """Before Linux 6.9 whoever then hooked a kernel function or loaded a module waited for ever."""
    lab.attach(lab.load("decide_drop"), lab.veth("xst0"))
    before = settled_objects()
    unshare = "unshare", "--fork", "--pid", "--kill-child", "--mount-proc"
    with AgentProcess(QUICK, prefix=(*unshare, *first)) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        agent.send(signal.SIGKILL)
        assert agent.wait() == -signal.SIGKILL
    wait_for(lambda: kernel_objects() == before, patience=60)
    with Engine() as engine:
        assert engine.watches_devices
    wait_for(lambda: kernel_objects() == before, patience=60)


@pytest.mark.matrix
@pytest.mark.one_kernel
@pytest.mark.parametrize("ends", [2, pytest.param(8, marks=pytest.mark.nightly)])
def test_ended_at_any_moment_it_leaves_nothing_and_takes_no_time(lab: Lab, ends: int) -> None:
    """Kill it between its first line of Python and the end of its first scan."""
    for number in range(3):
        lab.attach(lab.load("decide_drop"), lab.veth(f"xst{number}"))
    before = settled_objects()
    chance = random.Random(1)
    slowest = 0.0
    for number in (signal.SIGTERM, signal.SIGINT) * (ends // 2):
        with AgentProcess(QUICK, forked=False) as agent:
            time.sleep(chance.uniform(0.1, 6))
            began = time.monotonic()
            agent.send(number)
            status = agent.wait()
            slowest = max(slowest, time.monotonic() - began)
            # An interrupt before main() is Python's own matter; before it reads a line of ours,
            # its status is 1.
            ours = any("agent/xdpscope/" in line for line in agent.stderr)
            interrupted = -signal.SIGINT if ours else status
            if (status, agent.stderr[-1:]) != (interrupted, ["KeyboardInterrupt"]):
                assert status in (0, -number), agent.stderr
                assert not any("Traceback" in line for line in agent.stderr), agent.stderr
        wait_for(lambda: kernel_objects() == before)
    print(f"slowest end: {slowest:.2f} s of the guest's time")
    assert slowest < 1.5


@pytest.mark.one_kernel
def test_reload(lab: Lab) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    with AgentProcess(QUICK) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        veth.send(frame(60), times=3)
        agent.configure(QUICK + "programs: {exclude: [decide_drop]}\n")
        agent.send(signal.SIGHUP)
        wait_for(lambda: agent.value("xdp_program_traced", reason="excluded") is not None)
        assert "configuration is suspicious" not in agent.events()
        agent.configure(QUICK + "programs: {include: [decide_drop, '^xdp_.*$']}\n")
        agent.send(signal.SIGHUP)
        wait_for(lambda: "configuration is suspicious" in agent.events())
        agent.configure(QUICK + "programmes: {}\n")
        agent.send(signal.SIGHUP)
        wait_for(lambda: "configuration not reloaded" in agent.events())
        agent.configure(QUICK)
        agent.send(signal.SIGHUP)
        wait_for(lambda: traced(agent, "decide_drop"))
        veth.send(frame(60), times=4)
        assert agent.value("xdp_packets_total", program="decide_drop", verdict="drop") == 7

        assert measured(agent) is None
        agent.configure(QUICK + "latency: {enabled: true}\n")
        agent.send(signal.SIGHUP)
        # While the agent switches, no packet is measured.
        wait_for(lambda: veth.send(frame(60)) and measured(agent))
        before = measured(agent)
        veth.send(frame(60), times=5)
        wait_for(lambda: measured(agent) == before + 5)
        agent.configure(QUICK)
        agent.send(signal.SIGHUP)
        wait_for(lambda: agent.events().count("configuration reloaded") == 5)
        wait_for(lambda: measured(agent) == (veth.send(frame(60)) and measured(agent)))
        assert agent.stop() == 0


def measured(agent: AgentProcess) -> float | None:
    """Return the number of times in the histogram; None if there is none."""
    return agent.value("xdp_program_run_seconds_count", program="decide_drop")


@pytest.mark.matrix
@pytest.mark.one_kernel
def test_list_has_the_counts_of_the_agent(lab: Lab) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    with AgentProcess(QUICK) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        veth.send(frame(60), times=7)
        printed = finished("list", "--connect", agent.address)
        assert (printed.status, printed.stderr) == (0, "")
        assert re.search(r"decide_drop .* 7 +100\.0% +yes", printed.stdout), printed.stdout
        assert agent.stop() == 0


def failure(
    config: str = "", port: int = 0, before: Callable[[], object] = bool
) -> tuple[int, str]:
    """Return the exit status and what was said of an agent that cannot start."""
    with AgentProcess(config, port=port, before=before) as agent:
        return agent.wait(), agent.failure()


@pytest.mark.one_kernel
def test_a_port_in_use() -> None:
    before = settled_objects()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, said = failure(port=taken.getsockname()[1])
    assert status == 1
    assert re.search(r"127\.0\.0\.1:\d+.*in use", said), said
    assert "Traceback" not in said
    assert kernel_objects() == before


@pytest.mark.one_kernel
def test_a_wrong_configuration() -> None:
    before = settled_objects()
    status, said = failure("discovery: {intervall: 5s}\n")
    assert status == 2
    assert "discovery.intervall" in said and "interval" in said
    assert kernel_objects() == before


@pytest.mark.one_kernel
def test_many_targets_need_many_descriptors(lab: Lab) -> None:
    """The limit that it is started with, 1,024 as a rule, is not one of programs."""
    lab.attach(lab.load("decide_pass"), lab.veth("xst0"))
    with AgentProcess(before=partial(limit_descriptors, 24, 4096)) as agent:
        agent.ready()
        assert traced(agent, "decide_pass")


@pytest.mark.one_kernel
def test_no_privileges() -> None:
    status, said = failure(before=partial(confine, ()))
    assert status == 1
    assert "CAP_SYS_ADMIN" in said
    assert len(said.splitlines()) <= 2, said


@pytest.mark.one_kernel
def test_a_kernel_without_btf(lab: Lab) -> None:
    status, said = failure(before=hide_btf)
    assert status == 3
    assert "no BTF" in said
    assert "CONFIG_DEBUG_INFO_BTF" in said
    assert len(said.splitlines()) <= 2, said


@pytest.mark.every_kernel
def test_doctor_is_content() -> None:
    output = finished("doctor", "--json").stdout
    found = json.loads(output)
    findings = {each["check"]: each["status"] for each in found["checks"]}
    # On a healthy host nothing is left to complain about.
    assert set(findings.values()) == {"ok"}, found
    assert found["works"] is True
    printed = finished("doctor").stdout
    assert printed.splitlines()[-1] == "xdpscope works on this host."


@pytest.mark.first_kernel
@pytest.mark.timeout(900)
@pytest.mark.every_kernel
@pytest.mark.parametrize("rounds", [10, pytest.param(1000, marks=pytest.mark.nightly)])
def test_rounds(lab: Lab, rounds: int) -> None:
    """Load, attach, send, detach, unload, while the agent runs."""
    veth = lab.veth("xst0")
    before = settled_objects()
    scans = "discovery: {interval: 200ms}\n"
    with AgentProcess(scans, before=forget_soon_in_small_pages) as agent:

        def flows_are_counted() -> bool:
            veth.send(frame(60))
            labels = {"program": "come_and_go", "reason": "not_ip"}
            return bool(agent.value("xdp_flow_unaccounted_packets_total", **labels))

        agent.ready()
        # What is loaded once, with the first program and its flows, is no leak.
        with lab.load("come_and_go", "single") as program:
            lab.attach(program, veth)
            wait_for(flows_are_counted)
            agent.get("/metrics")
            lab.attach(None, veth)
        early: tuple[int, int] | None = None
        for number in range(rounds):
            with lab.load("come_and_go", "single") as program:
                lab.attach(program, veth, ("native", "generic")[number % 2])
                veth.send(frame(60), times=3)
                lab.attach(None, veth, ("native", "generic")[number % 2])
            if number % (rounds // 10) == 0:
                agent.get("/metrics")
            if number == rounds // 2:
                early = agent.memory(), agent.descriptors()
        ended = time.monotonic()
        wait_for(lambda: "come_and_go" not in loaded_programs(), patience=60)
        detached = time.monotonic() - ended
        agent.get("/metrics")
        wait_for(lambda: b"come_and_go" not in agent.get("/metrics"))
        late = agent.memory(), agent.descriptors()
        print(f"detached after {detached:.2f} s; (memory, descriptors) {early}, then {late}")
        assert early is not None
        most = early[1]
        assert late[0] <= early[0] + 2**20
        # A scan or a request may have some open for a moment.
        wait_for(lambda: agent.descriptors() <= most)
        assert [entry for entry in agent.log if entry["level"] != "info"] == []
        assert agent.stop() == 0
    wait_for(lambda: kernel_objects() == before)
