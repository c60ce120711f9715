# SPDX-License-Identifier: Apache-2.0
"""The capabilities of this process, by name."""

import re
from collections.abc import Mapping
from pathlib import Path

# include/uapi/linux/capability.h, the ones that matter here.
_BITS = {
    "CAP_NET_BROADCAST": 11,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
    "CAP_SYSLOG": 34,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}

OPEN_PROGRAMS = "CAP_SYS_ADMIN"
"""Opening other people's programs by id takes this, on every kernel so far."""

WITHOUT: Mapping[str, str] = {
    "CAP_SYS_PTRACE": "network namespaces are found by name alone, not by their processes",
    "CAP_NET_BROADCAST": "what happens in other network namespaces is seen at the next scan only",
    "CAP_SYSLOG": "every program is traced at its entry too, which costs more",
}
"""The capabilities that the agent can do without, each with the effect of its absence."""


def may_open_programs() -> bool:
    """Return whether this process has the capability to open other people's programs."""
    return OPEN_PROGRAMS in effective()


def effective() -> frozenset[str]:
    """Return the effective capabilities, of those that the agent uses."""
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    mask = int(match.group(1), 16) if match else 0
    return frozenset(name for name, bit in _BITS.items() if mask >> bit & 1)
