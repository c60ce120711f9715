# SPDX-License-Identifier: Apache-2.0
"""Agents forked off a process that has read their modules: there sooner.

An emulated machine takes eight seconds for Python to read what the agent needs. Each is a process
of its own all the same, child of a server that has no descriptor of the tests'.
"""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import NamedTuple, TextIO

_PR_SET_THP_DISABLE = 41  # linux/prctl.h

_COMMANDS = ("run", "doctor", "list", "flows", "trace", "capture")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "xdpscope.__main__",
        "xdpscope.agent",
        *(f"xdpscope.cli.{each}" for each in _COMMANDS),
        __name__,  # each forked process needs it
    ]
)


class Started:
    """``xdpscope`` with some arguments; of ``subprocess.Popen`` what tests need."""

    def __init__(
        self,
        arguments: Sequence[str],
        before: Callable[[], object] = bool,
        stdout: int | None = None,
    ) -> None:
        """Start it.

        Args:
            arguments: Those of the command line.
            before: What it calls first. It is pickled.
            stdout: A descriptor, or ``subprocess.PIPE``; None: the standard output of the tests.
        """
        with ExitStack() as stack:
            reader, writer = map(stack.enter_context, _context.Pipe(duplex=False))
            self.stderr: TextIO = os.fdopen(os.dup(reader.fileno()))
            self.stdout: TextIO | None = None
            output = None
            if stdout == subprocess.PIPE:
                printed, output = map(stack.enter_context, _context.Pipe(duplex=False))
                self.stdout = os.fdopen(os.dup(printed.fileno()))
            elif stdout is not None:
                output = stack.enter_context(Connection(os.dup(stdout), readable=False))
            self._process = _context.Process(
                target=_run, args=(list(arguments), writer, output, before)
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status; negative: the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("xdpscope", timeout)
        return status

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Read both streams to their ends, and wait for the end."""
        with ThreadPoolExecutor() as pool:
            output = pool.submit(self.stdout.read) if self.stdout is not None else None
            errors = self.stderr.read()
            self.wait(timeout)
            return output.result() if output is not None else "", errors


class Finished(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def finished(*arguments: str, before: Callable[[], object] = bool) -> Finished:
    """Run ``xdpscope`` with some arguments to its end; it calls ``before`` first."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        names = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (stdout, stderr)]
        process = _context.Process(target=_run_into, args=(list(arguments), names, before))
        process.start()
        process.join()
        assert process.exitcode is not None
        for file in (stdout, stderr):
            file.seek(0)
        return Finished(process.exitcode, stdout.read(), stderr.read())


def retain(seconds: float) -> None:
    """What a ``before`` may be: what is gone stays on the page for so long, not for a minute."""
    from xdpscope import scanner
    from xdpscope.probes.cost import totals

    scanner._RETENTION = totals.RETENTION = seconds


def forget_soon_in_small_pages() -> None:
    """What a ``before`` may be: what is gone leaves the page after two scans.

    And resident memory says what is used: a huge page counts whole when a part of it is.
    """
    retain(0.0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_THP_DISABLE)")


def _run_into(arguments: list[str], files: list[str], before: Callable[[], object]) -> None:
    for number, name in enumerate(files, start=1):
        file = os.open(name, os.O_WRONLY)
        os.dup2(file, number)
        os.close(file)
    before()
    from xdpscope.__main__ import main

    status = main(arguments)
    sys.stdout.flush()
    sys.exit(status)


def _run(
    arguments: list[str],
    stderr: Connection,
    stdout: Connection | None,
    before: Callable[[], object],
) -> None:
    os.dup2(stderr.fileno(), sys.stderr.fileno())
    stderr.close()
    if stdout is not None:
        os.dup2(stdout.fileno(), sys.stdout.fileno())
        stdout.close()
    before()
    from xdpscope.__main__ import main

    status = main(arguments)
    sys.stdout.flush()
    sys.exit(status)
