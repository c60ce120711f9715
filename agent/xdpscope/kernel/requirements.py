# SPDX-License-Identifier: Apache-2.0
"""What tracing BPF programs needs of a kernel, and which of it this kernel lacks.

The agent finds out by trying. These functions explain a failure, and are checks of ``doctor``.
"""

import platform
import re
from dataclasses import dataclass
from pathlib import Path

from xdpscope.kernel import capabilities

OLDEST = (5, 10)
"""The oldest version of Linux that the tests run on."""

_BTF = Path("/sys/kernel/btf/vmlinux")
_JIT = Path("/proc/sys/net/core/bpf_jit_enable")
_LOCKDOWN = Path("/sys/kernel/security/lockdown")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing that keeps this host from tracing."""

    problem: str
    hint: str
    permanent: bool = True
    """Whether neither a right nor a setting of the running kernel removes it."""


NO_BTF = Obstacle(
    f"this kernel has no BTF: {_BTF} is missing",
    "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are",
)
NO_TRAMPOLINES = Obstacle(
    "this kernel cannot attach fentry and fexit to BPF programs", "use Linux 5.10 or newer"
)


def btf() -> Obstacle | None:
    """Return the obstacle that the kernel's own BTF is missing."""
    return None if _BTF.exists() else NO_BTF


def capability() -> Obstacle | None:
    """Return the obstacle that this process may not open other people's programs."""
    if capabilities.may_open_programs():
        return None
    return Obstacle(
        f"{capabilities.OPEN_PROGRAMS} is missing",
        "run as root, or give the process that capability",
        permanent=False,
    )


def jit() -> Obstacle | None:
    """Return the obstacle that the kernel interprets BPF programs.

    Raises:
        PermissionError: only root may read the setting.
    """
    try:
        setting = _JIT.read_text().strip()
    except FileNotFoundError:
        return Obstacle("this kernel has no BPF JIT", "use a kernel built with CONFIG_BPF_JIT=y")
    if setting != "0":
        return None
    return Obstacle(
        "the BPF JIT is off: interpreted programs cannot be traced",
        "sysctl net.core.bpf_jit_enable=1, then load the XDP programs again",
        permanent=False,
    )


def lockdown_level() -> str:
    """Return the level of lockdown, such as ``none``; empty if this kernel does not have it."""
    try:
        return _LOCKDOWN.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return ""


def lockdown() -> Obstacle | None:
    """Return the obstacle that lockdown forbids BPF to read the kernel's memory.

    LOCKDOWN_BPF_READ_KERNEL belongs to this level (security/security.c). A level is never lowered
    before the next boot (``lock_kernel_down``, security/lockdown/lockdown.c).
    """
    if lockdown_level() != "confidentiality":
        return None
    return Obstacle(
        "lockdown is in the mode confidentiality, which forbids BPF to read kernel memory",
        "boot with lockdown=integrity",
    )


def version() -> Obstacle | None:
    """Return the obstacle that this version of Linux is older than all that are tested."""
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None or (int(match[1]), int(match[2])) >= OLDEST:
        return None
    oldest = ".".join(map(str, OLDEST))
    return Obstacle(f"Linux {release} is too old", f"use Linux {oldest} or newer")
