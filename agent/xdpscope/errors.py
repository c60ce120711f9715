# SPDX-License-Identifier: Apache-2.0
"""Every error this package raises on purpose. Imports nothing of ours.

    XdpscopeError
    ├── ConfigError          the configuration cannot be used
    ├── UsageError           what was typed cannot be done; exit code 2
    ├── ObserverBusyError    a scan keeps others from reading, for long
    ├── TracingUnavailable   this host cannot trace BPF programs at all
    │   └── UnsupportedHostError  … and no setting or right will change that
    └── KernelError          the kernel refused; carries its errno
        ├── LoadError        … a BPF program; carries the verifier's log
        ├── NotPermitted     … because a capability is missing
        └── Vanished         … because the object is gone

Each can be copied and pickled: positional arguments of the constructor are in ``args``.
"""

from __future__ import annotations

import os
from errno import EAGAIN, EINTR, EMFILE, ENFILE, ENOENT, ENOMEM, errorcode
from typing import ClassVar

__all__ = [
    "ConfigError",
    "KernelError",
    "LoadError",
    "NotPermittedError",
    "ObserverBusyError",
    "TracingUnavailableError",
    "UnsupportedHostError",
    "UsageError",
    "VanishedError",
    "XdpscopeError",
]

_LOG_LINES_SHOWN = 10
_TRANSIENT = (EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM)


class XdpscopeError(Exception):
    """The base of all: ``str()`` says what went wrong, ``hint`` what to do about it."""

    exit_status: ClassVar[int] = 1
    """Of a command that ends with this error."""
    hint: str | None

    def __init__(self, message: str, *args: object, hint: str | None = None) -> None:
        super().__init__(message, *args)
        self.hint = hint

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigError(XdpscopeError):
    """A configuration cannot be used; one line a problem, each naming file, line and key."""

    exit_status = 2


class UsageError(XdpscopeError):
    """What was typed cannot be done, on any host."""

    exit_status = 2


class ObserverBusyError(XdpscopeError):
    """A scan keeps others from reading the counts; it may hang in the kernel."""


class TracingUnavailableError(XdpscopeError):
    """This host cannot trace any BPF program."""


class UnsupportedHostError(TracingUnavailableError):
    """This host can never trace: neither rights nor settings are missing."""

    exit_status = 3


class KernelError(XdpscopeError):
    """The kernel refused something; ``errno`` is its reason, a positive number."""

    errno: int

    def __init__(self, message: str, errno: int, *args: object, hint: str | None = None) -> None:
        super().__init__(message, errno, *args, hint=hint)
        self.errno = errno

    def __str__(self) -> str:
        return self.summary

    @property
    def summary(self) -> str:
        """Return one line: the failed action and the errno, without the verifier's log."""
        name = errorcode.get(self.errno, f"errno {self.errno}")
        return f"{self.args[0]}: {os.strerror(self.errno)} ({name})"

    @property
    def transient(self) -> bool:
        """Return whether the same may succeed later: something was short, such as descriptors."""
        return self.errno in _TRANSIENT


class LoadError(KernelError):
    """The kernel refused a BPF program; ``log`` is the verifier's whole log, which may be empty.

    ``str()`` shows the log's last lines, where the verifier names the refused instruction.
    """

    log: str

    def __init__(self, message: str, errno: int, log: str = "", *, hint: str | None = None) -> None:
        super().__init__(message, errno, log, hint=hint)
        self.log = log

    def __str__(self) -> str:
        lines = self.log.rstrip().splitlines()
        shown = [f"    {line}" for line in lines[-_LOG_LINES_SHOWN:]]
        if len(lines) > len(shown):
            shown.insert(0, f"    … {len(lines) - len(shown)} lines before")
        return "\n".join([self.summary, *shown])


class NotPermittedError(KernelError):
    """The kernel refused because a capability is missing: EPERM or EACCES."""


class VanishedError(KernelError):
    """The object was there and is gone; every walk over kernel objects must expect it."""

    def __init__(self, message: str, errno: int = ENOENT, *, hint: str | None = None) -> None:
        super().__init__(message, errno, hint=hint)
