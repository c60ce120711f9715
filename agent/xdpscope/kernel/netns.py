# SPDX-License-Identifier: Apache-2.0
"""Network namespaces: their list, their names, and how to enter one.

A namespace lives as long as a process is in it, or a name, a descriptor or a socket holds it. No
function of this module holds one after it has returned.
"""

import ctypes
import os
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from errno import EINVAL, ENOENT, ESRCH, ESTALE
from functools import cache
from pathlib import Path

HOST = "host"

# The directory in which ip-netns(8) keeps its names, as bind mounts of the namespaces.
_NAMED = Path("/run/netns")
_OWN = "/proc/self/ns/net"

# The number of paths that are kept for each namespace: the first process may end.
_WAYS = 4

# The errors of reading the link to the namespace of a process that has ended, or is about to.
_ENDED = (ENOENT, ESRCH, EINVAL)

_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_INODE_DIGITS = 10  # what the kernel gives namespaces begins at 0xf0000000

_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h

_libc = ctypes.CDLL(None, use_errno=True)


def own_inode() -> int:
    """Return the inode number of this process's network namespace."""
    return Path(_OWN).stat().st_ino


def cookie_of(opened: socket.socket) -> int | None:
    """Return the cookie of the namespace that a socket was opened in; None before Linux 5.14.

    No other namespace ever has the same until the next boot.
    """
    try:
        cookie = opened.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return None
    return int.from_bytes(cookie, sys.byteorder)


@cache
def has_cookies() -> bool:
    """Return whether namespaces are identified by their cookies, else by their inode numbers.

    The kernel has cookies since 5.12. Both sides, the tracers and discovery, must go by the same.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        return cookie_of(opened) is not None


@dataclass(frozen=True, slots=True)
class Found:
    """The network namespaces of one moment, by inode number."""

    # Paths that lead into each. A process may have gone since, or be in another by now.
    ways: Mapping[int, Sequence[str]] = field(default_factory=dict)
    # The names of ip-netns(8). A namespace with several has the first in the alphabet.
    names: Mapping[int, str] = field(default_factory=dict)
    unreadable: int = 0  # processes that would not say in which one they are
    # False: the kernel refused to report some process's namespace, for a reason that may pass.
    complete: bool = True
    named: Mapping[str, int] = field(default_factory=dict)  # paths of ip-netns(8)


def find(before: Mapping[str, int] | None = None) -> Found:
    """Return every namespace that has a name or a process, our own included.

    A namespace that only a descriptor or a socket holds is not found.

    Args:
        before: The targets of the paths at the last scan, for paths that cannot be read now.

    Raises:
        OSError: names or processes cannot be listed.
    """
    named = _named(before or {})
    ways: dict[int, list[str]] = defaultdict(list)
    names: dict[int, str] = {}
    for path, inode in named.items():
        ways[inode].append(path)
        name = os.path.basename(path)  # noqa: PTH119 - hundreds of them, every few seconds
        if _is_plain(name):
            names.setdefault(inode, name)
    unreadable, complete = 0, True
    for pid in os.listdir("/proc"):  # noqa: PTH208
        if not pid[0].isdigit():
            continue
        path = f"/proc/{pid}/ns/net"
        try:
            # "net:[4026531840]". Asking the link takes half of what asking the file does.
            inode = int(os.readlink(path)[5:-1])  # noqa: PTH115
        except PermissionError:
            unreadable += 1
            continue
        except OSError as error:
            complete &= error.errno in _ENDED
            continue
        into = ways[inode]
        if len(into) < _WAYS:
            into.append(path)
    return Found(ways, names, unreadable, complete, named)


def _named(before: Mapping[str, int]) -> dict[str, int]:
    """Return the inode of each namespace that ip-netns(8) has named, by path, sorted."""
    found = {}
    device = os.stat(_OWN).st_dev  # noqa: PTH116
    try:
        paths = sorted(map(str, _NAMED.iterdir()))
    except FileNotFoundError:  # no namespace was ever named here
        return {}
    except PermissionError:
        return dict(before)
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:  # deleted since the listing
            continue
        except OSError:
            if path in before:
                found[path] = before[path]
            continue
        # A file that is no namespace: the mount on it is gone, or is not to be seen from here.
        if status.st_dev == device:
            found[path] = status.st_ino
    return found


def _is_plain(name: str) -> bool:
    """Return whether a name is text that cannot become another namespace's label."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name != HOST and not (name.isdecimal() and len(name) >= _INODE_DIGITS)


def register_loopback() -> None:
    """Make a network namespace and leave it; the kernel registers a loopback device.

    A thread of its own does that. The namespace ends with the thread.

    Raises:
        OSError: EPERM: CAP_SYS_ADMIN is missing, or a filter forbids it. ENOSPC: the limit of
            namespaces is reached.
    """
    errors: list[int] = []

    def run() -> None:
        if _libc.unshare(_CLONE_NEWNET) < 0:
            errors.append(ctypes.get_errno())

    thread = threading.Thread(target=run, name="loopback", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise OSError(errors[0], os.strerror(errors[0]))


def enter(path: str, inode: int) -> None:
    """Move the calling thread, and no other, into the namespace that a path leads to.

    Args:
        path: The path.
        inode: The inode number that the namespace must have.

    Raises:
        OSError: the thread stayed where it was. ESTALE: the path leads to another namespace now.
            EPERM: CAP_SYS_ADMIN is missing, here or in the namespace's own user namespace.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_ino != inode:
            raise OSError(ESTALE, os.strerror(ESTALE), path)
        if _libc.setns(descriptor, _CLONE_NEWNET) < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno), path)
    finally:
        os.close(descriptor)
