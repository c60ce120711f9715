# SPDX-License-Identifier: Apache-2.0
"""Limit a process that was forked: what setpriv, prlimit and unshare do before a command."""

import ctypes
import os
import resource
from collections.abc import Collection
from pathlib import Path

# Numbers of include/uapi/linux/capability.h.
CAPABILITIES = {
    "NET_BROADCAST": 11,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_RESOURCE": 24,
    "SYSLOG": 34,
}
LOCKED_MEMORY = 64 * 1024
"""Bytes."""

# include/uapi/linux/prctl.h
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
# include/uapi/linux/sched.h and mount.h
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
# include/uapi/linux/capability.h
_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def confine(capabilities: Collection[str]) -> None:
    """Leave this process the rights of root in a container, with 64 KiB of memory to lock.

    Args:
        capabilities: Those that it keeps, without CAP_.

    Raises:
        OSError: the kernel refused.
    """
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (LOCKED_MEMORY, LOCKED_MEMORY))
    kept = {CAPABILITIES[name] for name in capabilities}
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in set(range(last + 1)) - kept:
        _check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))
    sets = [0] * 6  # effective, permitted, inheritable: the low halves, then the high ones
    for number in kept:
        for which in (0, 1):
            sets[number // 32 * 3 + which] |= 1 << number % 32
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(*sets)))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def limit_descriptors(soft: int, hard: int) -> None:
    """Let this process open so many files."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def hide_btf() -> None:
    """Hide the kernel's BTF from this process.

    Raises:
        OSError: the kernel refused.
    """
    _check(_libc.unshare(_CLONE_NEWNS))
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check(_libc.mount(b"none", b"/sys/kernel/btf", b"tmpfs", 0, None))


def _check(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
