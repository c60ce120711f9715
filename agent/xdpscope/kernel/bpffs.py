# SPDX-License-Identifier: Apache-2.0
"""The location of bpffs mounts."""

import os
from pathlib import Path

USUAL_MOUNT = Path("/sys/fs/bpf")


def is_on_bpffs(path: Path) -> bool:
    """Return whether this path is on a bpffs, or would be if it were created; follow links.

    Raises:
        OSError: the answer is unknown, for example because permission is denied for a parent.
    """
    path = path.resolve()
    existing = next(each for each in (path, *path.parents) if each.exists())
    device = existing.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    # proc(5): the device, and after a hyphen the type of the file system. Every path of one
    # file system has its device, wherever and however often it is mounted.
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-", 6) + 1] == "bpf"
    return False
