# SPDX-License-Identifier: Apache-2.0
"""Keep counts and tracers that outlive the agent, pinned in a directory on a bpffs.

    PIN_PATH/                          locked by the agent that uses it
      state_ID/                        one state; ID identifies the build and its settings
        maps/NAME                      the maps that all targets share
        links/NAME                     the links that all targets share
        targets/NUMBER_PROGRAM/        one target: its number, and the program's id
          counts                       its counts
          NAME                         the link of each of its tracing programs
        next_NUMBER/                   the number for the next target; created last, removed
                                       first: without it the state is not valid

The agent may end between any two steps, so a name exists or does not. The meaning of each set of
names is defined once: here for a state, in ``tracer.py`` for a target.
"""

import fcntl
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from xdpscope.errors import ConfigError, KernelError, VanishedError, XdpscopeError
from xdpscope.kernel import bpffs
from xdpscope.libbpf import Link, Map

_log = structlog.get_logger(__name__)


class InUseError(XdpscopeError):
    """Report that another process has locked the directory."""


_STATE = "state_"
_NEXT = "next_"
_TARGET = re.compile("[0-9]+_[0-9]+")
_COUNTS = "counts"

_EXAMPLE = bpffs.USUAL_MOUNT / "xdpscope"


class PinPath:
    """Hold the directory ``state.pin_path``, locked for this process until it is closed."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: Path) -> Self:
        """Create the directory if it does not exist, and lock it.

        Raises:
            ConfigError: the path is not on a bpffs.
            InUseError: another process has locked the directory.
            XdpscopeError: the directory cannot be used. The hint says what to do.
        """
        try:
            if not bpffs.is_on_bpffs(path):
                raise ConfigError(
                    f"state.pin_path: {path} is not on a bpffs",
                    hint=f"use a directory on one, such as {_EXAMPLE}"
                    f" (to mount one: mount -t bpf bpf {bpffs.USUAL_MOUNT})",
                )
            while True:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                with ExitStack() as stack:
                    stack.callback(os.close, fd)
                    cls._lock(fd, path)
                    # The previous owner may have removed the directory, and another process may
                    # have created it again.
                    if os.path.exists(path) and os.path.samestat(os.fstat(fd), path.stat()):  # noqa: PTH110
                        cls._check(fd, path)
                        stack.pop_all()
                        return cls(path, fd)
        except OSError as error:
            raise XdpscopeError(
                f"state.pin_path: {path} cannot be used: {error.strerror}",
                hint="run as root, with the bpffs writable; names on it have no dots",
            ) from error

    @staticmethod
    def _lock(fd: int, path: Path) -> None:
        # The kernel releases the lock when the process ends in any way.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(
                f"state.pin_path: {path} is in use by another xdpscope",
                hint="stop that one first, or give each agent a directory of its own",
            ) from None

    @staticmethod
    def _check(fd: int, path: Path) -> None:
        # The agent trusts all pins in this directory.
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise XdpscopeError(
                f"state.pin_path: others may write to {path}",
                hint=f"use a directory that is the agent's alone, such as {_EXAMPLE}",
            )

    def close(self) -> None:
        """Unlock the directory. The pins stay."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state(self, id: str) -> "State":
        """Return the state with this id. It may not exist yet."""
        return State(self.path / f"{_STATE}{id}")

    def states(self) -> list["State"]:
        """Return all states, of any build."""
        return [State(each) for each in sorted(self.path.glob(f"{_STATE}*"))]

    def retain(self, wanted: "State") -> None:
        """Remove every other state."""
        for state in self.states():
            if state.path != wanted.path:
                _log.warning(
                    "pinned by another build or configuration: removed, counters start again",
                    path=str(state.path),
                    programs=len(state.targets()),
                )
                state.remove()

    def remove(self) -> None:
        """Remove the directory itself if it is empty."""
        if not any(self.path.iterdir()):
            _removed(self.path)


@dataclass(frozen=True, slots=True)
class Shared:
    """Hold the maps and links that all targets share, by name."""

    maps: Mapping[str, Map]
    links: Mapping[str, Link]


class State:
    """Manage the pins of one build with one set of settings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = 1

    def targets(self) -> list["TargetPins"]:
        """Return the pins of each target, by ascending number."""
        paths = (self.path / "targets").glob("*")
        found = [TargetPins(each) for each in paths if _TARGET.fullmatch(each.name)]
        return sorted(found, key=lambda pins: pins.number)

    def open(self, maps: Iterable[str], links: Iterable[str]) -> Shared | None:
        """Open the shared maps and links, to adopt them.

        Returns:
            The maps and links. None if they are not complete: this call then removes the state.
        """
        marks = self._marks()
        try:
            if not marks:
                raise VanishedError(f"{self.path} was not completed")
            with ExitStack() as stack:
                shared = Shared(
                    {n: stack.enter_context(Map.pinned(self._map(n))) for n in maps},
                    {n: stack.enter_context(Link.pinned(self._link(n))) for n in links},
                )
                stack.pop_all()
        except KernelError as error:
            if self.path.exists():
                _log.warning("pinned, but not whole: removed", error=str(error))
                self.remove()
            return None
        self._next = max(marks)
        return shared

    def create(self, shared: Shared) -> None:
        """Pin the shared maps and links.

        Raises:
            KernelError: a pin cannot be created. This call then removes the state.
        """
        try:
            for part in ("maps", "links", "targets"):
                (self.path / part).mkdir(mode=0o700, parents=True)
            for name, each in shared.maps.items():
                each.pin(self._map(name))
            for name, link in shared.links.items():
                link.pin(self._link(name))
            self._mark.mkdir(mode=0o700)
        except OSError as error:
            self.remove()
            raise KernelError(f"making {self.path} failed", error.errno or 0) from error
        except KernelError:
            self.remove()
            raise

    def next_number(self) -> int:
        """Return a number that no target of this state has had. No other target ever gets it.

        Raises:
            KernelError: the number could not be recorded.
        """
        number, before = self._next, self._mark
        self._next += 1
        try:
            before.rename(self._mark)
        except OSError as error:
            raise KernelError(f"renaming {before} failed", error.errno or 0) from error
        return number

    def new_target(self, number: int, program: int) -> "TargetPins":
        """Create the directory for the pins of one target.

        Raises:
            KernelError: the directory cannot be created.
        """
        path = self.path / "targets" / f"{number}_{program}"
        try:
            path.mkdir(mode=0o700)
        except OSError as error:
            raise KernelError(f"making {path} failed", error.errno or 0) from error
        return TargetPins(path)

    def remove(self) -> None:
        """Unpin the whole state. The kernel detaches the tracers a moment later."""
        for number in self._marks():
            _removed(self.path / f"{_NEXT}{number}")
        _removed(self.path)

    def _marks(self) -> list[int]:
        names = (each.name.removeprefix(_NEXT) for each in self.path.glob(f"{_NEXT}*"))
        return [int(name) for name in names if name.isdecimal()]

    @property
    def _mark(self) -> Path:
        return self.path / f"{_NEXT}{self._next}"

    def _map(self, name: str) -> Path:
        return self.path / "maps" / name.strip(".").replace(".", "_")  # names have no dots here

    def _link(self, name: str) -> Path:
        return self.path / "links" / name


class TargetPins:
    """Manage the pins of one target. Without ``counts``, the agent does not adopt them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.number, self.program = map(int, path.name.split("_"))

    @property
    def has_counts(self) -> bool:
        """Return whether ``counts`` exists."""
        return (self._path / _COUNTS).exists()

    def counts(self) -> Map:
        """Open the map with the counts of the target.

        Raises:
            VanishedError: the pin does not exist.
        """
        return Map.pinned(self._path / _COUNTS)

    def links(self) -> list[str]:
        """Return the names of the tracing programs whose links are pinned."""
        return [each.name for each in self._path.iterdir() if each.name != _COUNTS]

    def link(self, name: str) -> Link:
        """Open the link of one tracing program.

        Raises:
            VanishedError: the pin does not exist.
        """
        return Link.pinned(self._path / name)

    def put_counts(self, counts: Map) -> None:
        """Pin the counts of the target. The caller attaches tracing programs only after this.

        Raises:
            KernelError: the counts cannot be pinned.
        """
        counts.pin(self._path / _COUNTS)

    def put(self, name: str, link: Link) -> None:
        """Pin the link of a tracing program.

        Raises:
            KernelError: the link cannot be pinned.
        """
        link.pin(self._path / name)

    def drop(self, name: str) -> None:
        """Unpin the link of a tracing program. The kernel detaches it a moment later."""
        _removed(self._path / name)

    def remove(self) -> None:
        """Unpin everything, ``counts`` first: without it, no agent adopts the rest."""
        _removed(self._path / _COUNTS)
        _removed(self._path)


def _removed(path: Path) -> None:
    """Remove a pin, or a directory with its content. Log each path that cannot be removed."""
    try:
        if path.is_dir() and not path.is_symlink():
            for each in path.iterdir():
                _removed(each)
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("cannot be unpinned", path=str(path), error=error.strerror)
