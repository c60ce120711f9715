# SPDX-License-Identifier: Apache-2.0
"""A scan that hangs in the kernel: what the running agent says of it, and what it goes on with."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.lab import Lab, frame
from tests.waiting import wait_for

MOUNT_POINT = Path("/run/netns/xsthang")
MNT_DETACH = 2  # include/linux/fs.h

_libc = ctypes.CDLL(None, use_errno=True)


def judge_soon() -> None:
    """What a ``before`` may be: a scan hangs after two seconds, and is too old after three."""
    from xdpscope import scans

    scans._OVERDUE_SECONDS, scans._OVERDUE_INTERVALS = 3.0, 1
    scans._HANG_SECONDS, scans._CHECK_SECONDS = 2.0, 0.2


@contextmanager
def silent_server() -> Iterator[None]:
    """Mount a FUSE file system among the names of namespaces, whose server never answers.

    Who asks for the status of its root waits in the kernel, until the server ends.
    """
    subprocess.run(["modprobe", "fuse"], check=False)  # it may be part of the kernel
    MOUNT_POINT.parent.mkdir(exist_ok=True)
    MOUNT_POINT.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
        if _libc.mount(b"xst", os.fsencode(MOUNT_POINT), b"fuse", 0, options):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        yield
    finally:
        os.close(server)
        _libc.umount2(os.fsencode(MOUNT_POINT), MNT_DETACH)
        with suppress(OSError):
            MOUNT_POINT.rmdir()


def hangs(agent: AgentProcess) -> list[str]:
    """Return where scans hang by the log, in FUSE: loading takes more than two seconds here,
    too.
    """
    return [where for each in agent.log if "fuse" in (where := str(each.get("where")))]


@pytest.mark.matrix
@pytest.mark.one_kernel
def test_a_scan_that_hangs_is_seen_and_packets_are_counted(lab: Lab) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    last = "xdpscope_scan_last_success_timestamp_seconds"
    with AgentProcess(QUICK, before=judge_soon) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        wait_for(lambda: agent.status("/healthz") == 200)  # the first scan takes seconds here
        with silent_server():
            wait_for(lambda: agent.status("/healthz") == 503)
            wait_for(lambda: hangs(agent))
            (where,) = hangs(agent)
            assert "thread scan in kernel/netns.py:" in where
            assert "discovery/namespaces.py:" in where
            print(where)

            at = agent.value(last)
            assert at is not None and 3 < time.time() - at < 240
            veth.send(frame(60), times=3)
            assert agent.value("xdp_packets_total", program="decide_drop", verdict="drop") == 3
            agent.send(signal.SIGHUP)
            wait_for(lambda: "configuration reloaded" in agent.events())
            assert b"hangs since" in agent.get("/")
            assert agent.status("/readyz") == 200
            assert agent.value(last) == at, "no scan has succeeded since"
            assert len(hangs(agent)) == 1
        wait_for(lambda: agent.status("/healthz") == 200)
        wait_for(lambda: "a scan that hung has ended" in agent.events())
        assert agent.value(last) > at
        assert agent.value("xdpscope_scan_failures_total") == 0

        with silent_server():
            wait_for(lambda: agent.status("/healthz") == 503)
            assert agent.stop() == 0
