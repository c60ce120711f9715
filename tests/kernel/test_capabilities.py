# SPDX-License-Identifier: Apache-2.0
"""The agent with the capabilities that the DaemonSet gives it, and with each of them taken away."""

import json
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.kernel.agent import AgentEnded, AgentProcess, traced
from tests.kernel.confinement import confine
from tests.kernel.conftest import kernel
from tests.kernel.lab import Lab, Veth
from tests.kernel.namespaces import UNSHARE, Namespace, Tether, inside, namespace, path_of
from tests.kernel.nursery import finished
from tests.kernel.pinned import BPFFS, READ_ONLY, pinned_links, settled, udp, wipe
from tests.kernel.programs import REPOSITORY
from tests.waiting import wait_for
from xdpscope.kernel import netns

pytestmark = pytest.mark.every_kernel

KUBERNETES = REPOSITORY / "config" / "kubernetes"
PATH = BPFFS / "xst"
# Nothing is found by the clock here.
CONFIG = f"discovery: {{interval: 1h}}\nstate: {{pin_path: {PATH}}}\n"

RUNS, PROCESSES, WORD, EXIT = "it runs", "processes' places", "word of others", "exit alone"
EVERYTHING = {RUNS, PROCESSES, WORD, EXIT}
LOST = {
    "SYS_ADMIN": EVERYTHING,
    "SYS_PTRACE": {PROCESSES},
    "NET_BROADCAST": {WORD},
    "SYSLOG": {EXIT},
    "SYS_RESOURCE": EVERYTHING,
}
"""What does not work any more without each."""


def granted() -> list[str]:
    """Return the capabilities that the manifests give the agent on this kernel."""
    manifest = yaml.safe_load((KUBERNETES / "base/daemonset.yaml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    names: list[str] = container["securityContext"]["capabilities"]["add"]
    if kernel() < (5, 11):
        old = yaml.safe_load((KUBERNETES / "components/linux-5.10/kustomization.yaml").read_text())
        names += [each["value"] for each in yaml.safe_load(old["patches"][0]["patch"])]
    return names


class Scene:
    """A program in three namespaces: our own, one with a name, and one that only a process is in.

    The second has a pair of interfaces with ours, as containers have.
    """

    def __init__(self, program_id: int, here: Veth, named: Namespace, unnamed: Namespace) -> None:
        self.program_id = program_id
        self._here, self._named, self._unnamed = here, named, unnamed

    @property
    def unnamed(self) -> str:
        """Return what the second without a name is called."""
        return str(self._unnamed.inode)

    def send(self) -> dict[str, int]:
        """Packets by namespace."""
        self._here.send(udp(4000), times=3)
        self._named.send(4, udp(4000))
        self._unnamed.send(5, udp(4000))
        return {"host": 3, "xst1": 4, self.unnamed: 5}

    def detach_named(self) -> None:
        with inside(path_of("xst1")) as there:
            there.attach(None, Veth("eth0", "eth0p", there.index("eth0")))


@pytest.fixture
def scene(lab: Lab) -> Iterator[Scene]:
    process = subprocess.Popen(UNSHARE)
    way = Path(f"/proc/{process.pid}/ns/net")
    try:
        wait_for(lambda: way.stat().st_ino != netns.own_inode())
        program, here = lab.load(READ_ONLY, "flows"), lab.veth("xst0")
        lab.attach(program, here)
        with namespace("xst1", program) as named:
            Tether(lab, path_of("xst1"))
            unnamed = Namespace(str(way), program)
            try:
                yield Scene(program.info().id, here, named, unnamed)
            finally:
                unnamed.close()
    finally:
        process.kill()
        process.wait()
        wipe(PATH)


def working(scene: Scene, capabilities: Sequence[str]) -> set[str]:
    """Return what works with these capabilities. What is counted must be exact in any case."""
    with AgentProcess(CONFIG, before=partial(confine, capabilities)) as agent:
        with suppress(AgentEnded):
            wait_for(lambda: traces(agent))
        if agent.process.poll() is not None:
            assert not any("Traceback" in line for line in agent.stderr), agent.stderr
            return set()
        works = {RUNS}
        wait_for(lambda: settled(PATH, scene.program_id))
        if pinned_links(PATH, scene.program_id) == {"exit_only"}:
            works.add(EXIT)
        sent = scene.send()
        # Each in its own namespace, even if the agent cannot scan there.
        agent.send(
            signal.SIGHUP
        )  # starts a scan: two scans identify a namespace that the agent cannot enter
        wait_for(lambda: counted(agent, sent) == sent)
        locations = {location for location in sent if attached(agent, location)}
        assert {"host", "xst1"} <= locations
        if scene.unnamed in locations:
            works.add(PROCESSES)
        scene.detach_named()
        with suppress(AssertionError):
            # The agent waits for at most five seconds; the next scan by the interval is in an
            # hour.
            wait_for(lambda: not attached(agent, "xst1"), patience=10)
            works.add(WORD)
        assert agent.stop() == 0
        if works == EVERYTHING:
            assert [entry for entry in agent.log if entry["level"] != "info"] == []
    return works


def traces(agent: AgentProcess) -> bool:
    agent.check()
    return agent.listens() and agent.status("/readyz") == 200 and traced(agent, READ_ONLY)


def attached(agent: AgentProcess, location: str) -> bool:
    return agent.value("xdp_program_attachment_info", netns=location) is not None


def counted(agent: AgentProcess, locations: Iterable[str]) -> dict[str, float | None]:
    return {
        location: agent.value("xdp_packets_total", netns=location, verdict="drop")
        for location in locations
    }


def test_with_what_the_daemonset_has_everything_works(scene: Scene) -> None:
    assert set(granted()) <= LOST.keys()
    assert working(scene, granted()) == EVERYTHING


@pytest.mark.parametrize(
    "capability",
    [
        each if LOST[each] == EVERYTHING else pytest.param(each, marks=pytest.mark.matrix)
        for each in LOST
    ],
)
def test_each_of_them_is_needed(scene: Scene, capability: str) -> None:
    names = granted()
    if capability == "SYS_RESOURCE" and capability not in names:
        pytest.skip("from Linux 5.11 on BPF maps do not count as locked memory")
    names.remove(capability)
    assert working(scene, names) == EVERYTHING - LOST[capability]


@pytest.mark.first_kernel
def test_doctor_misses_what_is_missing() -> None:
    def finding(names: Sequence[str]) -> dict[str, str]:
        found = json.loads(finished("doctor", "--json", before=partial(confine, names)).stdout)
        (found,) = [each for each in found["checks"] if each["check"] == "capabilities"]
        return dict(found)

    assert finding(granted())["status"] == "ok"
    assert finding(["SYS_ADMIN"])["status"] == "warn"
    assert "CAP_SYSLOG" in finding(["SYS_ADMIN", "SYS_PTRACE", "NET_BROADCAST"])["found"]
    assert finding(["SYSLOG"])["status"] == "fail"
