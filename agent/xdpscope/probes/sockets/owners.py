# SPDX-License-Identifier: Apache-2.0
"""Processes that have AF_XDP sockets open."""

import os
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from xdpscope.probes.sockets.report import Owner

DESCRIPTORS_LIMIT = 200_000
"""Descriptors that one search reads, at most: about 0.3 s."""

SEARCH_INTERVAL = 60.0
"""Seconds after which sockets without a known owner are searched for again."""


class SocketOwners:
    """Finds the process of each socket by its inode, and remembers it.

    Of several processes the one with the lowest id is shown. A search reads the descriptors of all
    processes. So there is one only when a socket is new or its process gave it up, and once a
    minute for sockets without an owner.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, Owner]] = {}  # by inode; the descriptor's path
        self._searched: set[int] = set()
        self._searched_at = 0.0

    def of(self, inodes: Collection[int]) -> dict[int, Owner]:
        """Return the owner of each of these sockets, by inode; a socket may have none."""
        wanted = set(inodes)
        self._known = {
            inode: known
            for inode, known in self._known.items()
            if inode in wanted and _is_socket(known[0], inode)
        }
        missing = wanted - self._known.keys()
        now = time.monotonic()
        due = now - self._searched_at >= SEARCH_INTERVAL
        if missing and (due or missing - self._searched):
            self._known.update(_search(missing))
            self._searched_at = now
        self._searched = missing
        found = {}
        for inode, (path, owner) in self._known.items():
            # The command may have changed: exec() keeps descriptors.
            with suppress(OSError):
                owner = Owner(owner.pid, _comm(owner.pid))
                self._known[inode] = path, owner
            found[inode] = owner
        return found


def _search(inodes: Collection[int]) -> dict[int, tuple[str, Owner]]:
    """Return the descriptor and the process of each socket that is found, by inode.

    Leaves out processes that end meanwhile, or whose descriptors may not be read.
    """
    links = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, tuple[str, Owner]] = {}
    for pid, path in islice(_descriptors(), DESCRIPTORS_LIMIT):
        with suppress(OSError):
            inode = links.get(os.readlink(path))  # noqa: PTH115 - of thousands of descriptors
            if inode is not None and inode not in found:
                found[inode] = path, Owner(pid, _comm(pid))
                if len(found) == len(links):
                    break
    return found


def _descriptors() -> Iterator[tuple[int, str]]:
    """Yield (process id, path) of every descriptor, by ascending process id."""
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):  # noqa: PTH208
        descriptors: list[str] = []
        with suppress(OSError):
            descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208
        for descriptor in descriptors:
            yield pid, f"/proc/{pid}/fd/{descriptor}"


def _is_socket(path: str, inode: int) -> bool:
    try:
        return os.readlink(path) == f"socket:[{inode}]"  # noqa: PTH115
    except OSError:
        return False


def _comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n").decode(errors="replace")
