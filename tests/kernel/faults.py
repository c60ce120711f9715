# SPDX-License-Identifier: Apache-2.0
"""Errors that are injected into the calls that the agent makes into the kernel."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EACCES, EAGAIN, EIO, EMFILE, ENODEV, ENOENT, ENOMEM
from typing import Any

import pytest
from xdpscope.libbpf._raw import ffi

from xdpscope.discovery import interfaces
from xdpscope.kernel import netns
from xdpscope.libbpf import btf, descriptor, link, map, program

ERRORS = (EACCES, ENOENT, ENODEV, EMFILE, ENOMEM, EAGAIN, EIO)

_NEGATIVE = {
    "bpf_prog_get_next_id", "bpf_prog_get_fd_by_id", "bpf_prog_load", "bpf_link_get_next_id",
    "bpf_link_get_fd_by_id", "bpf_link_create", "bpf_iter_create", "bpf_obj_get_info_by_fd",
    "bpf_map_create", "bpf_map_lookup_elem", "bpf_map_update_elem", "bpf_map_delete_elem",
    "bpf_map_lookup_and_delete_elem", "bpf_map_lookup_batch", "bpf_map_get_next_key",
}  # fmt: skip
"""Functions of libbpf that return -errno."""

_END_IS_ENOENT = {"bpf_prog_get_next_id", "bpf_link_get_next_id", "bpf_map_lookup_batch"}
"""There it is no error."""

_NULL = {"btf__load_from_kernel_by_id"}
"""Those that return NULL."""

_OF_OS = {"listdir", "readlink", "stat", "open", "fstat", "read"}


class Faults:
    """Counts calls; one of them fails."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._at = -1
        self._errno = 0
        self.done = False
        """Whether the call that was to fail was never made."""

    @contextmanager
    def injected(self, at: int, errno: int) -> Iterator[None]:
        """Let the call of this number, from here on, fail."""
        self.calls, self._at, self._errno = [], at, errno
        try:
            yield
        finally:
            self.done, self._at = len(self.calls) <= at, -1

    def fails(self, name: str) -> int:
        """Return the errno of this call; 0: it is to be done."""
        self.calls.append(name)
        return self._errno if len(self.calls) - 1 == self._at else 0


class _Through:
    """Another object, but that some of its functions may fail."""

    def __init__(self, behind: Any, replaced: dict[str, Callable[..., Any]]) -> None:
        self._behind, self._replaced = behind, replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name) or getattr(self._behind, name)


def _libbpf(behind: Any, faults: Faults) -> _Through:
    def checked(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            errno = faults.fails(name)
            if not errno or (errno == ENOENT and name in _END_IS_ENOENT):
                return getattr(behind, name)(*arguments)
            ffi.errno = errno
            return -errno if name in _NEGATIVE else ffi.NULL

        return call

    names = [name for name in (*_NEGATIVE, *_NULL) if hasattr(behind, name)]
    return _Through(behind, {name: checked(name) for name in names})


def _raising(behind: Any, names: set[str], faults: Faults) -> _Through:
    def checked(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if errno := faults.fails(name):
                raise OSError(errno, os.strerror(errno))
            return getattr(behind, name)(*arguments, **named)

        return call

    return _Through(behind, {name: checked(name) for name in names if hasattr(behind, name)})


class _Socket(socket.socket):
    faults: Faults

    def __init__(self, *arguments: int) -> None:
        self._check("socket")
        super().__init__(*arguments)

    def _check(self, name: str) -> None:
        if errno := self.faults.fails(name):
            raise OSError(errno, os.strerror(errno))

    def send(self, *arguments: Any) -> int:
        self._check("send")
        return super().send(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self._check("recv_into")
        return super().recv_into(*arguments)


def faulty(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Count every call from now on."""
    faults = Faults()
    for module in (btf, descriptor, link, map, program):
        monkeypatch.setattr(module, "lib", _libbpf(module.lib, faults))
    for module in (netns, link):
        monkeypatch.setattr(module, "os", _raising(os, _OF_OS, faults))
    checked = type("_Socket", (_Socket,), {"faults": faults})
    monkeypatch.setattr(interfaces, "socket", _Through(socket, {"socket": checked}))
    return faults
