# SPDX-License-Identifier: Apache-2.0
"""The image in a container with all that the DaemonSet gives it, and takes from it."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.container import CRUN, bundle
from tests.kernel.agent import AgentProcess, traced
from tests.kernel.lab import Lab, kernel_objects, settled_objects
from tests.kernel.namespaces import namespace
from tests.kernel.pinned import READ_ONLY, pinned_links, settled, udp, wipe
from tests.waiting import wait_for

pytestmark = pytest.mark.one_kernel

CONFIGURATION = Path("config/kubernetes/base/xdpscope.yaml").read_text()
PATH = Path("/sys/fs/bpf/xdpscope")
NODE = {"NODE_ADDRESS": "127.0.0.1"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()
    for name in ("first", "second"):
        subprocess.run([*CRUN, "delete", "--force", name], check=True)
    wipe(PATH)


def agent(directory: Path, name: str) -> AgentProcess:
    """Return the agent in a container of its own."""
    Path("/run/netns").mkdir(exist_ok=True)  # DirectoryOrCreate, says the manifest
    return AgentProcess(command=in_front(name, bundle(directory / name, CONFIGURATION, NODE)))


@pytest.mark.timeout(900)
def test_an_update_of_the_daemonset(lab: Lab, tmp_path: Path) -> None:
    """Agents follow each other as pods do: no packet is missed. Then what is pinned is removed."""
    before = settled_objects()
    veth, program = lab.veth("xst0"), lab.load(READ_ONLY, "flows")
    program_id = program.info().id
    lab.attach(program, veth)
    with namespace("xst1", program) as other:
        began = time.monotonic()
        with agent(tmp_path, "first") as first:
            wait_for(lambda: first.process.poll() is not None or first.listens())
            assert first.process.poll() is None, first.stderr
            first.ready()
            print(f"ready after {time.monotonic() - began:.1f} s of the guest's time")
            wait_for(lambda: traced(first, READ_ONLY) and settled(PATH, program_id))
            # So what SYSLOG is for works through the runtime's profile, too.
            assert pinned_links(PATH, program_id) == {"exit_only"}
            veth.send(udp(4000), times=7)
            other.send(5, udp(4000))
            expect(first, {"host": 7, "xst1": 5})
            print(f"memory: {memory()}")
            subprocess.run([*CRUN, "kill", "first", "TERM"], check=True)
            assert first.wait() == 0, first.stderr
            assert [each for each in first.log if each["level"] != "info"] == []

        veth.send(udp(4000), times=4)

        with agent(tmp_path, "second") as second:
            second.ready()
            wait_for(lambda: traced(second, READ_ONLY))
            other.send(2, udp(4000))
            expect(second, {"host": 11, "xst1": 7})
            subprocess.run([*CRUN, "kill", "second", "TERM"], check=True)
            assert second.wait() == 0, second.stderr

        arguments = ("doctor", "--json", "--config=/etc/xdpscope/xdpscope.yaml")
        examined = in_a_container(tmp_path, "examined", *arguments)
        findings = {each["check"]: each for each in json.loads(examined)["checks"]}
        for check in ("capabilities", "fentry/fexit on BPF programs", "bpffs", "state.pin_path"):
            assert findings[check]["status"] == "ok", findings[check]
        assert not [each for each in findings.values() if each["status"] == "fail"]

        cleaned = in_a_container(tmp_path, "cleaned", "doctor", "--clean", arguments[-1])
        assert cleaned.startswith("removed ") and "the counts of 1 program" in cleaned
        assert not PATH.exists()
    lab.attach(None, veth)
    program.close()
    wait_for(lambda: kernel_objects() == before)


def in_front(name: str, directory: Path) -> list[str]:
    """Return the command that runs a bundle, with its output and its end as its own."""
    return [*CRUN, "run", "--bundle", str(directory), name]


def expect(agent: AgentProcess, packets: dict[str, int]) -> None:
    def counted() -> dict[str, float | None]:
        return {
            name: agent.value("xdp_packets_total", netns=name, verdict="drop") for name in packets
        }

    wait_for(lambda: counted() == packets)
    time.sleep(0.2)
    assert counted() == packets


def in_a_container(directory: Path, name: str, *command: str) -> str:
    done = subprocess.run(
        in_front(name, bundle(directory / name, CONFIGURATION, NODE, *command)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def memory() -> str:
    """Return what the container takes of its limit, the kernel's maps included."""
    group = Path("/sys/fs/cgroup/xdpscope")
    return " of ".join(
        f"{int((group / f'memory.{name}').read_text()) / 2**20:.0f} MiB"
        for name in ("current", "max")
    )
