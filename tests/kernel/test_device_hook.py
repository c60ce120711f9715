# SPDX-License-Identifier: Apache-2.0
"""The hook that tells of new devices falls silent, and what is counted stays exact."""

import json
import time
from collections.abc import Iterator
from errno import EBUSY, EOPNOTSUPP
from pathlib import Path

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.lab import Lab, Veth, frame
from tests.kernel.namespaces import counted, expect, in_service, inside, path_of
from tests.kernel.nursery import finished
from tests.kernel.observing import Observer
from tests.kernel.test_flows import udp4
from tests.waiting import wait_for
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.variants import FlowSizes
from xdpscope.discovery.inventory import Inventory
from xdpscope.kernel import netns
from xdpscope.libbpf.stats import run_time_stats

pytestmark = pytest.mark.every_kernel

FTRACE = Path("/proc/sys/kernel/ftrace_enabled")
FLOWS = FlowSizes(sets=64, sample_rate=1)


@pytest.fixture(autouse=True)
def ftrace() -> Iterator[None]:
    """Leave it on."""
    yield
    FTRACE.write_text("1")


@pytest.fixture(params=[None, FLOWS], ids=["verdicts", "flows"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine(request.param) as engine:
        assert engine.watches_devices
        yield engine


@pytest.fixture
def observer(engine: Engine) -> Iterator[Observer]:
    with Inventory() as inventory, Observer(engine, inventory, Selection()) as observer:
        yield observer


def switch_ftrace(state: str) -> None:
    try:
        FTRACE.write_text(state)
    except OSError as error:
        if error.errno not in (EBUSY, EOPNOTSUPP):
            raise
        pytest.skip(f"this kernel does not switch ftrace off: {error.strerror}")


def move(lab: Lab, veth: Veth, to: str) -> None:
    """Move an interface from our namespace into another, and set it up there."""
    lab.route.link("set", index=veth.index, net_ns_fd=to)
    with inside(path_of(to)) as there:
        there.route.link("set", index=there.index(veth.name), state="up")


def test_a_device_moves_while_ftrace_is_off(lab: Lab, observer: Observer) -> None:
    """And another one once it is on again. The first of them was recognised before."""
    program, first, second = lab.load("decide_drop"), lab.veth("xst0"), lab.veth("xst1")
    in_service(lab, program)
    with lab.namespace("xstns"):
        for veth in (first, second):
            lab.attach(program, veth)
        observer.scan(1000)
        for veth in (first, second):
            veth.send(udp4(1, 60), times=3)
        expect(observer, {("host", "xst0"): 3, ("host", "xst1"): 3})

        switch_ftrace("0")
        move(lab, first, "xstns")
        observer.scan(1000)
        assert not observer.watches_devices
        for veth in (first, second):
            veth.send(udp4(1, 60), times=5)
        expected = {("host", "xst0"): 3, ("host", "xst1"): 8, ("xstns", "xst0"): 5}
        expect(observer, expected)

        switch_ftrace("1")
        observer.scan(1000)
        assert observer.watches_devices
        move(lab, second, "xstns")
        observer.scan(1000)
        for veth in (first, second):
            veth.send(udp4(1, 60), times=7)
        expected |= {("xstns", "xst0"): 12, ("xstns", "xst1"): 7}
        expect(observer, expected)
        report = observer.flow_counts()
        if report is not None:
            named = sum(flow.packets for flow in report.exported)
            others = sum(sum(count.tally.packets) for count in report.others)
            assert named + others == sum(expected.values()), "each is in a flow"


@pytest.mark.first_kernel
def test_no_packet_is_lost_when_the_hook_falls_silent(lab: Lab, observer: Observer) -> None:
    program, veth = lab.load("decide_drop"), lab.veth("xst0")
    lab.attach(program, veth)
    observer.scan(1000)
    with run_time_stats(), veth.sending(frame(60)) as traffic:
        before = counted(observer).get(("host", "xst0"), 0)
        for state in "0101":
            switch_ftrace(state)
            observer.scan(1000)
            assert observer.watches_devices == (state == "1")
            enough = traffic.sent + 20
            wait_for(lambda enough=enough: traffic.sent > enough)
            now = counted(observer)["host", "xst0"]
            assert now > before
            before = now
    time.sleep(0.2)
    assert counted(observer) == {("host", "xst0"): traffic.sent - veth.lost}


@pytest.mark.first_kernel
def test_an_agent_that_starts_while_ftrace_is_off(lab: Lab) -> None:
    program, veth = lab.load("decide_drop"), lab.veth("xst0")
    in_service(lab, program)
    lab.attach(program, veth)
    switch_ftrace("0")
    with (
        lab.namespace("xstns"),
        Engine(FLOWS) as engine,
        Inventory() as inventory,
        Observer(engine, inventory, Selection()) as observer,
    ):
        assert not engine.watches_devices
        observer.scan(1000)
        veth.send(frame(60), times=3)
        expect(observer, {("host", "xst0"): 3})
        move(lab, veth, "xstns")
        observer.scan(1000)
        veth.send(frame(60), times=5)
        expect(observer, {("host", "xst0"): 3, ("xstns", "xst0"): 5})


@pytest.mark.first_kernel
def test_a_hook_that_falls_silent_without_a_word(lab: Lab, engine: Engine) -> None:
    """A new device that it did not tell of gives it away."""
    program, veth = lab.load("decide_drop"), lab.veth("xst0")
    in_service(lab, program)
    lab.attach(program, veth)
    with (
        lab.namespace("xstns"),
        Inventory() as inventory,
        Observer(engine, inventory, Selection()) as observer,
    ):
        observer.scan(1000)
        observer.scan(1000)
        assert observer.watches_devices
        veth.send(frame(60), times=3)
        expect(observer, {("host", "xst0"): 3})
        engine.templates._hooks["device_appears"].close()
        move(lab, veth, "xstns")
        observer.scan(1000)
        assert not observer.watches_devices
        veth.send(frame(60), times=5)
        expect(observer, {("host", "xst0"): 3, ("xstns", "xst0"): 5})


@pytest.mark.parametrize("flows", [None, FLOWS], ids=["verdicts", "flows"])
def test_a_hook_that_never_runs(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, flows: FlowSizes | None
) -> None:
    """As on a kernel with the function inlined; here, no device appears for the test of it."""
    monkeypatch.setattr(netns, "register_loopback", lambda: None)
    program, veth = lab.load("decide_drop"), lab.veth("xst0")
    lab.attach(program, veth)
    with (
        Engine(flows) as engine,
        Inventory() as inventory,
        Observer(engine, inventory, Selection()) as observer,
    ):
        assert not engine.templates.variant.watches_devices
        assert "inlined" in engine.hook_failure
        observer.scan(1000)
        veth.send(frame(60), times=3)
        expect(observer, {("host", "xst0"): 3})


def doctor() -> dict[str, str]:
    """Return what it says of tracing."""
    findings = json.loads(finished("doctor", "--json").stdout)["checks"]
    found: dict[str, str] = next(f for f in findings if f["check"].startswith("fentry/fexit"))
    return found


@pytest.mark.matrix
def test_the_agent_reports_it(lab: Lab) -> None:
    lab.attach(lab.load("decide_drop"), lab.veth("xst0"))
    with AgentProcess(QUICK) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        assert agent.value("xdpscope_device_hook_active") == 1
        assert doctor()["status"] == "ok"
        switch_ftrace("0")
        wait_for(lambda: agent.value("xdpscope_device_hook_active") == 0)
        found = doctor()
        assert (found["status"], found["hint"]) == ("warn", "sysctl kernel.ftrace_enabled=1")
        switch_ftrace("1")
        wait_for(lambda: agent.value("xdpscope_device_hook_active") == 1)
        assert agent.stop() == 0  # all is logged
        warnings = [entry for entry in agent.log if entry["level"] == "warning"]
        assert [entry["error"] for entry in warnings] == ["kernel.ftrace_enabled is 0"]
