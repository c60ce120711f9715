# SPDX-License-Identifier: Apache-2.0
"""Wait for packets that the kernel processes now."""

import ctypes
import platform
import time

# membarrier(2), by machine. With this command, it waits for a grace period of RCU.
_NUMBERS = {"x86_64": 324, "aarch64": 283}
_GLOBAL = 1

# Seconds to wait where the kernel refuses: with nohz_full, or in a sandbox.
_LONG = 0.1

_libc = ctypes.CDLL(None, use_errno=True)


def synchronize() -> None:
    """Return when all BPF programs that ran at the call have ended.

    The kernel runs XDP programs and their tracers under rcu_read_lock.
    """
    number = _NUMBERS.get(platform.machine())
    if number is None or _libc.syscall(number, _GLOBAL, 0) < 0:
        time.sleep(_LONG)
