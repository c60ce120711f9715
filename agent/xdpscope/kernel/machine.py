# SPDX-License-Identifier: Apache-2.0
"""The machine that this host is, and whether counts are exact on it."""

import platform

from xdpscope.errors import UnsupportedHostError

SUPPORTED = "x86_64"


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
