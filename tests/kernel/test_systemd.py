# SPDX-License-Identifier: Apache-2.0
"""The agent as systemd runs it: by a real systemd, behind all that the unit shuts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.agent import LOG_LINES, AgentAt, AgentEnded, traced
from tests.kernel.lab import Lab
from tests.kernel.namespaces import namespace
from tests.kernel.pinned import BPFFS, READ_ONLY, pinned_links, settled, udp, wipe
from tests.kernel.programs import REPOSITORY
from tests.waiting import wait_for, witness

pytestmark = pytest.mark.one_kernel

SYSTEMD = Path("/lib/systemd/systemd")
UNIT = REPOSITORY / "config" / "systemd" / "xdpscope.service"
LOCATION = Path("/run/systemd/system")
LOG = Path("/run/xdpscope.log")
END = Path("/run/xdpscope.end")
PATH = BPFFS / "xst"
# What the test puts in the unit's place: where things are, and a note of how the service ended.
DROP_IN = f"""
[Unit]
DefaultDependencies=no
[Service]
ExecStart=
ExecStart="{sys.executable}" -m xdpscope run --config /etc/xdpscope/xdpscope.yaml
ExecStopPost=+/bin/sh -c 'echo "$$SERVICE_RESULT, $$EXIT_CODE $$EXIT_STATUS" >{END}'
StandardError=append:{LOG}
"""
# The unit hides homes and temporary files; the work tree or the Python may be among them.
HIDDEN = [Path(path) for path in ("/home", "/root", "/run/user", "/tmp", "/var/tmp")]
SHOWN = [
    path
    for path in dict.fromkeys([REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)])
    if any(path.is_relative_to(hidden) for hidden in HIDDEN)
]


class Service(AgentAt):
    """The agent that systemd runs."""

    def check(self) -> None:
        if END.exists():
            raise AgentEnded(f"the service has ended ({END.read_text().strip()})\n{self.said()}")

    def said(self) -> str:
        """Return the end of its log."""
        return "\n".join(["log of the service:", *log().splitlines()[-LOG_LINES:]])


@contextmanager
def booted() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a systemd that is the first process of a namespace, with the service as its only
    goal.
    """
    # As on every host with systemd: what is mounted is seen by services, too.
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    command = ["unshare", "--fork", "--pid", "--kill-child", "--mount-proc"]
    command += ["--propagation=slave", str(SYSTEMD)]
    command += ["--system", "--unit=xdpscope.service", "--log-target=console"]
    environment = {"PATH": os.environ["PATH"], "container": "test", "SYSTEMD_LOG_LEVEL": "warning"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def service(config: str) -> Iterator[Service]:
    """Yield the unit as it is shipped, with this configuration."""
    LOCATION.mkdir(parents=True, exist_ok=True)
    (LOCATION / UNIT.name).write_text(UNIT.read_text())
    (LOCATION / f"{UNIT.name}.d").mkdir(exist_ok=True)
    shown = "".join(f'BindReadOnlyPaths="{path}"\n' for path in SHOWN)
    (LOCATION / f"{UNIT.name}.d/test.conf").write_text(f"{DROP_IN}ProtectHome=tmpfs\n{shown}")
    Path("/etc/xdpscope").mkdir(exist_ok=True)
    Path("/etc/xdpscope/xdpscope.yaml").write_text(config)
    LOG.unlink(missing_ok=True)
    END.unlink(missing_ok=True)
    found = Service("http://127.0.0.1:10091")
    with booted(), witness(found.said):
        yield found
        print(log())


@pytest.fixture
def agent() -> Iterator[AgentAt]:
    with service(f"state: {{pin_path: {PATH}}}\n") as agent:
        yield agent
    wipe(PATH)


def log() -> str:
    return LOG.read_text() if LOG.exists() else ""


@pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is missing: make setup")
@pytest.mark.timeout(300)
def test_all_of_it_works_behind_what_the_unit_shuts(lab: Lab, agent: AgentAt) -> None:
    veth, program = lab.veth("xst0"), lab.load(READ_ONLY, "flows")
    program_id = program.info().id
    lab.attach(program, veth)
    with namespace("xst1", program) as other:
        wait_for(lambda: agent.status("/readyz") == 200)
        wait_for(lambda: traced(agent, READ_ONLY) and settled(PATH, program_id))
        assert pinned_links(PATH, program_id) == {"entry_flows", "exit_flows"}
        wait_for(lambda: agent.value("xdp_program_attachment_info", netns="xst1") == 1)
        veth.send(udp(4000), times=7)
        other.send(5, udp(4000))
        for name, packets in (("host", 7), ("xst1", 5)):
            wait_for(
                lambda name=name, packets=packets: (
                    agent.value("xdp_packets_total", netns=name, verdict="drop") == packets
                )
            )
    wait_for(lambda: '"event": "started"' in log())  # at the end of the first scan
    said = [json.loads(line) for line in log().splitlines()]
    # For this systemd is the first process of a PID namespace of its own.
    warned = {each["event"] for each in said if each["level"] not in ("debug", "info")}
    assert warned == {"devices cannot be watched: tracing costs a little more"}


@pytest.mark.matrix
@pytest.mark.skipif(not SYSTEMD.exists(), reason="systemd is missing: make setup")
def test_a_service_that_fails_is_reported_at_once() -> None:
    with service("nonsense: 1\n") as agent:
        with pytest.raises(AssertionError, match="exit-code, exited 2") as failure:
            wait_for(lambda: agent.status("/readyz") == 200)
        assert "nonsense" in str(failure.value)
