# SPDX-License-Identifier: Apache-2.0
"""A real agent keeps its budget in a flood, and counts flows again afterwards."""

import signal
import threading
import time
from collections import Counter
from contextlib import closing, suppress

import pytest

from tests.kernel.agent import AgentProcess
from tests.kernel.flows import TEST_RUN_DEVICE
from tests.kernel.lab import Lab
from tests.kernel.pinned import udp
from tests.kernel.test_flows import WRITING
from tests.waiting import wait_for
from xdpscope.errors import VanishedError
from xdpscope.libbpf import Program

pytestmark = [pytest.mark.every_kernel, pytest.mark.timeout(900)]

# The agent has nothing to do without traffic: no scan, and a budget that it never reaches.
CALM = "discovery: {interval: 1h}\nbudget: {cpu_percent: 100}\n"
ITSELF = "itself"
EVENTS = [
    "above the budget: flows are sampled harder",
    "above the budget: no packet is taken for flows",
    "below half of the budget: flows are sampled again",
    "flows are counted as configured again",
]
# While the tracers are replaced, there are two at the exit: the second is the first to be attached.
FOR_FLOWS = Counter(xdpscope_entry=1, xdpscope_exit=1)
PAUSE = 0.005  # seconds between bursts: each window of the kernel's statistics has some


class Flood(threading.Thread):
    """Runs a program on bursts of packets, until the end of the block."""

    def __init__(self, program: Program, burst: int) -> None:
        super().__init__(daemon=True)
        self._program, self.burst = program, burst
        self._end = threading.Event()
        self.sent = 0

    def run(self) -> None:
        while not self._end.wait(PAUSE):
            self._program.test_run(udp(1), self.burst)
            self.sent += self.burst

    def __enter__(self) -> "Flood":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def cost(agent: AgentProcess, part: str) -> float:
    return agent.value("xdpscope_cpu_ratio", part=part) or 0.0


def settled(agent: AgentProcess) -> tuple[float, float]:
    """Return the shares of agent and tracers, each the mean of some measurements."""
    found = []
    time.sleep(12)  # the mean of the agent is of ten seconds
    for _ in range(5):
        found.append((cost(agent, "agent"), cost(agent, "tracers")))
        time.sleep(2)
    of_agent, of_tracers = zip(*found, strict=True)
    return sum(of_agent) / len(found), sum(of_tracers) / len(found)


def in_flows(agent: AgentProcess) -> float:
    return agent.value("xdp_flow_packets_total", program=WRITING) or 0.0


def calibrated(agent: AgentProcess, program: Program) -> tuple[float, int, int]:
    """Return a budget, packets in a burst, and how many were sent.

    The budget is twice what the agent takes itself while there is traffic. In the flood, the
    tracers cost twice as much as the agent, so all is above the budget; and within it without
    flows, for less than half of the tracers' cost is left then.
    """
    with Flood(program, burst := 400) as sample:
        own, tracers = settled(agent)
    return 2 * own, round(burst * 2 * own / tracers), sample.sent


def tracers() -> Counter[str]:
    """Return the names of the tracing programs that are loaded, attached or not."""
    found: Counter[str] = Counter()
    for id in Program.ids():
        with suppress(VanishedError), closing(Program.open(id)) as program:
            name = program.info().name
            if name in FOR_FLOWS:
                found[name] += 1
    return found


@pytest.mark.matrix
@pytest.mark.parametrize(
    "ends",
    ["reload", pytest.param(ITSELF, marks=[pytest.mark.nightly, pytest.mark.paced])],
)
def test_a_flood(lab: Lab, ends: str) -> None:
    """It ends itself, or the short way: a reload ends a budget that no agent can keep."""
    program = lab.load(WRITING, "flows")
    lab.attach(program, lab.veth("xst0"))
    with AgentProcess(CALM).ready() as agent:
        wait_for(lambda: agent.value("xdp_flow_packets_total", program=WRITING) is not None)
        budget, burst, sent = calibrated(agent, program) if ends == ITSELF else (0.001, 20, 0)
        agent.configure(CALM.replace("100", f"{100 * budget:.2f}"))
        with Flood(program, burst) as flood:
            agent.send(signal.SIGHUP)
            began = time.monotonic()
            wait_for(lambda: agent.value("xdpscope_budget_level") == 2)
            if ends == ITSELF:
                time.sleep(max(0.0, began + 30 - time.monotonic()))
                shares = [sum(settled(agent)) for _ in range(2)]
                assert max(shares) <= 1.1 * budget
            wait_for(lambda: not tracers()["xdpscope_entry"])
            taken, at = in_flows(agent), flood.sent
            wait_for(lambda: flood.sent > at + 5 * burst)
            assert in_flows(agent) == taken
        sent += flood.sent
        counted = {"program": WRITING, "interface": TEST_RUN_DEVICE}
        assert agent.value("xdp_packets_total", **counted) == sent
        if ends != ITSELF:
            agent.configure(CALM.replace("100", "null"))
            agent.send(signal.SIGHUP)
        # Each page costs the agent, too.
        wait_for(lambda: agent.value("xdpscope_budget_level") == 0, interval=5)
        wait_for(lambda: tracers() == FOR_FLOWS)
        program.test_run(udp(1), 50)
        assert agent.value("xdp_packets_total", **counted) == sent + 50
        assert in_flows(agent) == taken + 50
    found = [event for event in agent.events() if event in EVENTS]
    assert found == (EVENTS if ends == ITSELF else [*EVENTS[:2], EVENTS[-1]])
