# SPDX-License-Identifier: Apache-2.0
"""The PID namespace of this process."""

from pathlib import Path

_HOSTS = 0xEFFFFFFC  # PROC_PID_INIT_INO of include/linux/proc_ns.h


def is_hosts() -> bool:
    """Return whether it is the initial PID namespace."""
    return Path("/proc/self/ns/pid").stat().st_ino == _HOSTS
