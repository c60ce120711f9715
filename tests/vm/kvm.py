# SPDX-License-Identifier: Apache-2.0
"""Whether KVM boots a kernel on this machine, found out once.

That /dev/kvm exists is not enough: a hypervisor may offer it and then run no ordinary guest. So a
kernel is booted, without a root file system: it prints its version, finds no root, panics, and the
emulator ends. The answer is kept in the cache, with what identifies the machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .fetch import SBIN_PATH, cache_directory

if TYPE_CHECKING:
    from .kernels import InstalledKernel

DEVICE = Path("/dev/kvm")
LIMIT = 5.0
"""Seconds. Where KVM works, a kernel needs about one to get there."""

_REACHED = b"Kernel panic - not syncing: VFS"


def works(kernel: InstalledKernel) -> bool:
    """Return whether KVM boots kernels here; at most :data:`LIMIT` seconds, the first time."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return False
    cache = cache_directory() / "kvm.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several machines start at once: one of them finds out
        file.seek(0)
        try:
            answers = json.load(file)
        except ValueError:
            answers = {}
        machine = _machine()
        if machine not in answers:
            answers = {machine: boots(kernel, "kvm", LIMIT)}
            file.truncate(0)
            json.dump(answers, file)
        return bool(answers[machine])


def boots(kernel: InstalledKernel, accelerator: str, limit: float) -> bool:
    """Return whether the kernel starts to search a root file system within ``limit`` s."""
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35"]
    command += ["-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else "max"]
    command += ["-m", "512M", "-display", "none", "-serial", "stdio", "-no-reboot"]
    command += ["-kernel", str(kernel.image), "-append", "console=ttyS0 panic=-1"]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": SBIN_PATH},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return _REACHED in done.stdout


def _machine() -> str:
    """Return what tells this machine, as it runs now, from others."""
    facts = [platform.node(), *platform.uname(), str(DEVICE.stat().st_rdev)]
    for path in ("/etc/machine-id", "/proc/sys/kernel/random/boot_id"):
        if Path(path).is_file():
            facts.append(Path(path).read_text())
    facts += [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model" in line][
        :2
    ]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
