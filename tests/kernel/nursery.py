# SPDX-License-Identifier: Apache-2.0
"""Agents forked off a process that has read their modules: there sooner.

An emulated machine takes eight seconds for Python to read what the agent needs. Each is a process
of its own all the same, child of a server that has no descriptor of the tests'.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TextIO

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["xdpscope.__main__", "xdpscope.agent", "xdpscope.cli.run"])


class Started:
    """``xdpscope`` with some arguments; of ``subprocess.Popen`` what tests need."""

    def __init__(self, arguments: Sequence[str], before: Callable[[], object] = bool) -> None:
        """Starts it; it calls ``before`` first, which is pickled."""
        reader, writer = _context.Pipe(duplex=False)
        with reader, writer:
            self._process = _context.Process(target=_run, args=(list(arguments), writer, before))
            self._process.start()
            self.stderr: TextIO = os.fdopen(os.dup(reader.fileno()))
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("xdpscope", timeout)
        return status


def forget_soon() -> None:
    """What a ``before`` may be: what is gone leaves the page after two scans."""
    from xdpscope import agent

    agent._RETENTION = 0.0


def _run(arguments: list[str], stderr: Connection, before: Callable[[], object]) -> None:
    os.dup2(stderr.fileno(), sys.stderr.fileno())
    stderr.close()
    before()
    from xdpscope.__main__ import main

    sys.exit(main(arguments))
