# SPDX-License-Identifier: Apache-2.0
"""The machine that this host is, and whether counts are exact on it."""

import platform
import re
from pathlib import Path

from xdpscope.errors import UnsupportedHostError

SUPPORTED = "x86_64"


def cpus_to_serve() -> int:
    """Return the highest number of a CPU that is online, plus one.

    There may be many more that are possible but not there, where CPUs can be added to a running
    virtual machine.
    """
    # Ranges in ascending order: 0-3,8-11.
    online = Path("/sys/devices/system/cpu/online").read_text().strip()
    return 1 + int(re.split("[-,]", online)[-1])


def require_supported() -> None:
    """Check the machine.

    The BPF programs order their writes to the flow table with compiler barriers alone. That is
    enough on x86, which keeps the order of writes, and not on arm64.

    Raises:
        UnsupportedHostError: it is another one.
    """
    machine = platform.machine()
    if machine != SUPPORTED:
        raise UnsupportedHostError(
            f"{machine} is not supported: counts would not be exact there",
            hint=f"run it on {SUPPORTED}",
        )
