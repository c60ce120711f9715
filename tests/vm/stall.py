# SPDX-License-Identifier: Apache-2.0
"""Stop one CPU of a virtual machine for a moment, again and again, as a busy host does.

The other CPUs then see a CPU that stops between two instructions.
"""

from __future__ import annotations

import ctypes
import os
import random
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STOPPED = 0.02
"""Seconds."""
_BETWEEN = 0.02
"""Seconds, at most, that all run between two stops."""

THREAD_NAME = "CPU "
"""How QEMU's threads that emulate CPUs begin, with ``-name debug-threads=on``."""

# include/uapi/linux/ptrace.h
_PTRACE_DETACH, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 17, 0x4206, 0x4207
_WALL = 0x40000000  # waitpid(2): threads too

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@contextmanager
def stalling(group: int) -> Iterator[None]:
    """Stop CPUs of the machine whose processes are in this process group, until the end."""
    ended = threading.Event()
    thread = threading.Thread(target=_stall, args=(group, ended), name="stall")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _stall(group: int, ended: threading.Event) -> None:
    # In one thread: a stopped thread obeys the one that has stopped it.
    while not ended.wait(random.uniform(0, _BETWEEN)):
        cpus = _cpus(group)
        if not cpus:
            ended.wait(1)
            continue
        _stop(random.choice(cpus), ended)


def _stop(cpu: int, ended: threading.Event) -> None:
    """Stop a thread for a moment.

    A thread that ends while it is traced must be waited for: else its process does not end.
    """
    if not _ptrace(_PTRACE_SEIZE, cpu):
        return
    _ptrace(_PTRACE_INTERRUPT, cpu)
    _, status = os.waitpid(cpu, _WALL)
    if os.WIFSTOPPED(status):
        ended.wait(STOPPED)
        # What it was about to get when it stopped, if it was not our own stop.
        received = os.WSTOPSIG(status) if status >> 16 == 0 else 0
        if not _ptrace(_PTRACE_DETACH, cpu, received):
            os.waitpid(cpu, _WALL)


def _ptrace(request: int, thread: int, data: int = 0) -> bool:
    """Return whether it was done: the thread may have ended."""
    return bool(_libc.ptrace(request, thread, None, data or None) == 0)


def _cpus(group: int) -> list[int]:
    found = []
    for name in Path("/proc").glob("[0-9]*/task/[0-9]*/comm"):
        try:
            if name.read_text().startswith(THREAD_NAME) and os.getpgid(int(name.parts[2])) == group:
                found.append(int(name.parts[4]))
        except OSError:  # it has ended
            continue
    return found
