# SPDX-License-Identifier: Apache-2.0
"""The processes that have a BPF program open."""

import os
from contextlib import suppress
from pathlib import Path


def holders_of(program_id: int) -> list[str]:
    """Return each process with a descriptor of this program, as "loader (123)".

    Read all of ``/proc``, and skip processes that this one may not read.
    """
    wanted = f"prog_id:\t{program_id}\n"
    found = []
    for pid in os.listdir("/proc"):  # noqa: PTH208 - of thousands of processes
        if pid.isdigit() and int(pid) != os.getpid():
            with suppress(OSError):
                if _has(pid, wanted):
                    name = Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
                    found.append(f"{name} ({pid})")
    return found


def _has(pid: str, wanted: str) -> bool:
    for descriptor in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
        with suppress(OSError):
            # Only for BPF programs: the kernel may take long to write the information of other
            # files.
            if os.readlink(f"/proc/{pid}/fd/{descriptor}") == "anon_inode:bpf-prog":  # noqa: PTH115
                text = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
                if wanted in text:
                    return True
    return False
