# SPDX-License-Identifier: Apache-2.0
"""The interfaces of every network namespace of the host.

A socket keeps the namespace alive in which it was opened. The agent therefore opens a socket for
each scan and closes it again, except in its own namespace. A thread is created for each scan,
visits the namespaces, and ends with the scan. So no thread stays in another namespace.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from errno import EAGAIN, ENOENT, ESRCH, ESTALE
from typing import Self, TypeVar

import structlog

from xdpscope.discovery.interfaces import Decoder, Interface, InterfaceSource
from xdpscope.errors import KernelError
from xdpscope.kernel import netns
from xdpscope.kernel.netns import HOST

_log = structlog.get_logger(__name__)

_SERIAL_MASK = 0xFFFFFFFF

# The errors of entering a namespace that is gone, or whose process is gone.
_GONE = (ENOENT, ESRCH, ESTALE)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace that was scanned, and the interfaces in it."""

    # As bpf/common/counting.h has it: given once and never again, where an inode number is given
    # to the next namespace as soon as it is free. The inode number itself before Linux 5.14.
    serial: int
    inode: int
    name: str  # the value of the label
    interfaces: Sequence[Interface]


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The namespaces of one moment."""

    seen: Sequence[Namespace]
    names: Mapping[int, str]  # by inode number; includes some that could not be scanned


class NamespaceSource:
    """Scans our own namespace and, if ``everywhere``, all the others."""

    def __init__(self, *, everywhere: bool = True) -> None:
        self.everywhere = everywhere
        self._decoder = Decoder()
        self._inode = netns.own_inode()
        self._own = InterfaceSource(self._decoder)
        self._last: dict[int, Namespace] = {}
        self._named: dict[str, int] = {}
        self._complaints: set[str] = set()

    def close(self) -> None:
        self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> Namespaces:
        """Return all namespaces that can be scanned.

        A namespace that cannot be scanned for a moment is returned as the last scan found it. A
        namespace that is gone, or that the agent may not enter, is omitted.

        Raises:
            KernelError: our own cannot be scanned, and could not be before.
            OSError: the same.
        """
        found = self.find()
        names = {**found.names, self._inode: HOST}
        seen = [self._read(self._own, self._inode, HOST)]
        others = {inode: ways for inode, ways in found.ways.items() if inode != self._inode}
        if others:
            seen += _in_a_thread_of_its_own(lambda: list(self._visit(others, names)))
        if not found.complete:
            # The process that would not say where it is may be in one of these.
            there = {self._inode, *found.ways}
            seen += [each for each in self._last.values() if each.inode not in there]
        self._last = {each.serial: each for each in seen}
        self._decoder.forget_unused()
        return Namespaces(seen, names)

    def find(self) -> netns.Found:
        """Return the namespaces to scan, with paths that lead into each except our own."""
        if not self.everywhere:
            return netns.Found()
        found = netns.find(self._named)
        self._named = dict(found.named)
        if found.unreadable:
            self._complain(
                "cannot read the network namespaces of some processes",
                processes=found.unreadable,
                hint="CAP_SYS_PTRACE is missing, or a security module forbids it",
            )
        return found

    def _visit(
        self, others: Mapping[int, Sequence[str]], names: Mapping[int, str]
    ) -> Iterator[Namespace]:
        before = {each.inode: each for each in self._last.values()}
        for inode, ways in others.items():
            name = names.get(inode, str(inode))
            found: Namespace | None = None
            try:
                if self._enter(inode, ways):
                    found = self._scan_namespaces(inode, name)
            except (KernelError, OSError):
                # It may still be there: descriptors or memory may be used up.
                if inode in before:
                    found = replace(before[inode], name=name)
            if found is not None:
                yield found

    def _enter(self, inode: int, ways: Sequence[str]) -> bool:
        """Return whether one of the ways leads there; False if it is gone.

        Raises:
            OSError: it may be there, but cannot be entered.
        """
        problem: OSError | None = None
        for way in ways:
            try:
                netns.enter(way, inode)
            except OSError as error:
                if error.errno not in _GONE:
                    problem = error
            else:
                return True
        if isinstance(problem, PermissionError):
            self._complain(
                "cannot scan some network namespaces",
                error=str(problem),
                hint="CAP_SYS_ADMIN is missing, or a security module forbids it",
            )
        if problem is not None:
            raise problem
        return False

    def _scan_namespaces(self, inode: int, name: str) -> Namespace:
        with InterfaceSource(self._decoder) as source:
            return self._read(source, inode, name)

    def _read(self, source: InterfaceSource, inode: int, name: str) -> Namespace:
        """Read a namespace's interfaces; if that fails, return the interfaces of the last scan.

        Raises:
            KernelError: it fails, and there was no scan before.
            OSError: the same.
        """
        serial = _serial(source, inode)
        try:
            return Namespace(serial, inode, name, source.read())
        except (KernelError, OSError) as error:
            last = self._last.get(serial)
            if last is None:
                raise
            self._complain(
                "cannot list the interfaces of a network namespace; its last list is used",
                netns=name,
                error=str(error),
            )
            return replace(last, name=name)

    def _complain(self, event: str, **facts: object) -> None:
        """Warn once, because the reason does not change."""
        if event not in self._complaints:
            self._complaints.add(event)
            _log.warning(event, **facts)


def _serial(source: InterfaceSource, inode: int) -> int:
    cookie = source.namespace_cookie
    return inode if cookie is None else cookie & _SERIAL_MASK


def _in_a_thread_of_its_own(task: Callable[[], T]) -> T:
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(task())
        except BaseException as error:  # noqa: BLE001 - raised again below
            result.set_exception(error)

    thread = threading.Thread(target=run, name="namespaces", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # as many threads as may be, or no memory
        raise OSError(EAGAIN, str(error)) from error
    thread.join()
    return result.result()
