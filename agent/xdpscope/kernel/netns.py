# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: their inode numbers and the names people know them by."""

from pathlib import Path

HOST = "host"

# Where ip-netns(8) keeps its names, as bind mounts of the namespaces.
_NAMED = Path("/run/netns")
_REMEMBERED = 4096


def own_inode() -> int:
    """The inode number of this process's network namespace."""
    return Path("/proc/self/ns/net").stat().st_ino


class NamespaceNames:
    """Inode numbers to names: ``host``, a name of ip-netns(8), else the number itself."""

    def __init__(self) -> None:
        self._own = own_inode()
        self._names: dict[int, str] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads the names anew. A namespace that is gone keeps its last one for a time."""
        try:
            entries = list(_NAMED.iterdir())
        except OSError:  # no namespace was ever named here
            entries = []
        for entry in entries:
            try:
                inode = entry.stat().st_ino
            except OSError:  # deleted meanwhile
                continue
            self._names.pop(inode, None)  # to the end: the last that is forgotten
            self._names[inode] = entry.name
        while len(self._names) > _REMEMBERED:
            del self._names[next(iter(self._names))]

    def __call__(self, inode: int) -> str:
        return HOST if inode == self._own else self._names.get(inode, str(inode))
