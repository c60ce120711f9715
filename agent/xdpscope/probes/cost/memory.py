# SPDX-License-Identifier: Apache-2.0
"""The kernel memory of the maps that the agent holds."""

import os
from pathlib import Path

_DESCRIPTORS = "/proc/self/fd"
_FDINFO = Path("/proc/self/fdinfo")
_MAP = "anon_inode:bpf-map"  # kernel/bpf/syscall.c: bpf_map_new_fd


def of_own_maps() -> int:
    """Return the bytes that the kernel reports for all maps that this process has open.

    From Linux 6.4 on it is the present memory. Before, it is an estimate for full maps.
    """
    found: dict[str, int] = {}
    for descriptor in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - hundreds of them
        try:
            # To read the link takes much less than to read the information.
            if os.readlink(f"{_DESCRIPTORS}/{descriptor}") != _MAP:  # noqa: PTH115
                continue
            text = (_FDINFO / descriptor).read_text()
        except OSError:  # closed meanwhile
            continue
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if "map_id" in fields:
            found[fields["map_id"]] = int(fields.get("memlock", 0))
    return sum(found.values())
