# SPDX-License-Identifier: Apache-2.0
"""A CPU that is stopped does not keep its machine from ending."""

import subprocess
import sys

import pytest
from tests.vm import stall

# A process with a thread that is named as QEMU names those that emulate CPUs.
_MACHINE = f"""
import ctypes, os, threading, time

def cpu():
    ctypes.CDLL(None).prctl(15, b"{stall.THREAD_NAME}0/TCG")  # PR_SET_NAME
    time.sleep(60)

threading.Thread(target=cpu, daemon=True).start()
time.sleep(1)
os._exit(7)
"""


@pytest.mark.parametrize("stopped", [0.5, 0.0001])
def test_a_machine_ends_although_its_cpu_is_stopped(
    monkeypatch: pytest.MonkeyPatch, stopped: float
) -> None:
    """Half a second: it ends during a stop. A moment: it may end at any step of one."""
    monkeypatch.setattr(stall, "STOPPED", stopped)
    monkeypatch.setattr(stall, "_BETWEEN", 0.0)
    machine = subprocess.Popen([sys.executable, "-c", _MACHINE], start_new_session=True)
    try:
        with stall.stalling(machine.pid):
            assert machine.wait(20) == 7
    finally:
        machine.kill()
        machine.wait()
