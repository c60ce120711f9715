# SPDX-License-Identifier: Apache-2.0
"""A capture that is killed leaves nothing in the kernel, and a file that can be read."""

import signal
import time
from pathlib import Path
from random import Random

import pytest

from tests.kernel import pcapng
from tests.kernel.lab import Drizzle, Lab, kernel_objects, settled_objects
from tests.kernel.sessions import KEEP, Command, instructed

_PATIENCE = 60


def _has_packets(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 4096


@pytest.mark.parametrize("kills", [2, pytest.param(200, marks=pytest.mark.nightly)])
@pytest.mark.timeout(1800)
@pytest.mark.one_kernel
def test_a_kill_at_any_moment(lab: Lab, tmp_path: Path, kills: int) -> None:
    """From its start until it has captured for a while; packets come all the time."""
    veth, packet = lab.veth("xst0"), instructed(KEEP, 7)
    lab.attach(lab.load("decide_pass"), veth)
    before, random, captured = settled_objects(), Random(kills), 0

    def started(name: str) -> tuple[Command, Path]:
        path = tmp_path / f"{name}.pcapng"
        return Command("capture", "-w", str(path), "--program", "decide_pass"), path

    traffic = Drizzle([(veth.sender(), packet)])
    traffic.start()
    try:
        command, path = started("first")
        began = time.monotonic()
        while not _has_packets(path):
            assert time.monotonic() < began + _PATIENCE, command.wait()
            time.sleep(0.01)
        longest = 1.3 * (time.monotonic() - began)
        command.finish(signal.SIGKILL)
        for number in range(kills):
            command, path = started(str(number))
            time.sleep(random.uniform(0, longest))
            command.finish(signal.SIGKILL)
            assert command.process.returncode == -signal.SIGKILL
            if path.exists():
                packets = pcapng.read(path, cut=True).packets
                assert {each.data for each in packets} <= {packet}
                captured += bool(packets)
            end = time.monotonic() + _PATIENCE
            while (left := kernel_objects()) != before:
                assert time.monotonic() < end, (left, before)
                time.sleep(0.05)
    finally:
        traffic.stop()
    assert settled_objects() == before
    assert captured
