# SPDX-License-Identifier: Apache-2.0
"""Run the kernel suites in virtual machines, two at a time, and report failures as they happen.

    python -m tests.suites                            # `make kernel-test`
    python -m tests.suites --kernel 6.12 -- -k name   # these tests alone
    python -m tests.suites --matrix                   # every kernel that is supported
    python -m tests.suites --nightly                  # the long variants

A test that depends on the kernel (marker ``every_kernel``) runs on each kernel. A test of user
space or of other software (marker ``one_kernel``) runs on the first kernel only, or in the matrix
on each.

An emulated machine keeps one CPU busy, so as many suites run at once as there are CPUs. Every line
is printed as it comes, with the suite's name in front. The exit status is 1 if any suite failed.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from tests.kernel import programs
from tests.vm.kernels import KERNELS, MATRIX
from tests.vm.run import TIMED_OUT

LONGEST = 4200
"""Seconds that one suite may take."""

_DEFAULT = ("6.1", "6.12")
_AT_ONCE = "6.1"
_PYTEST = ("python", "-m", "pytest", "-v", "-p", "no:cacheprovider")
_NOTHING_SELECTED = 5  # pytest's exit status


@dataclass(frozen=True)
class Suite:
    """Tests that run in one machine."""

    name: str
    kernel: str
    """Where it runs; empty: on this machine, for it starts virtual machines itself."""
    marker: str
    """pytest's expression for the tests that belong to it."""
    paths: tuple[str, ...] = ("tests/kernel",)
    machine: tuple[str, ...] = ()
    """More options of tests.vm.run."""

    def pytest(self, selection: list[str]) -> list[str]:
        """Return pytest's arguments: the suite's tests, of which ``selection`` takes some."""
        return [*(("-m", self.marker) if self.marker else ()), *self.paths, *selection]

    def command(self, timeout: float, selection: list[str]) -> list[str]:
        """Return the command that runs the suite."""
        tests = [*_PYTEST, *self.pytest(selection)]
        if not self.kernel:
            return [sys.executable, *tests[1:]]
        options = ["--kernel", self.kernel, "--timeout", f"{timeout:g}", *self.machine]
        return [sys.executable, "-m", "tests.vm.run", *options, "--", *tests]


def suites(kernels: list[str], *, nightly: bool = False, matrix: bool = False) -> list[Suite]:
    """Return the suites to run on ``kernels``, those that take longest first."""
    if nightly:
        return [Suite(f"{each} long", each, "nightly") for each in kernels]
    if matrix:
        return [Suite(each, each, "not nightly") for each in kernels]
    first = kernels[0]
    found = [Suite(each, each, "every_kernel and not nightly") for each in kernels]
    found.append(Suite(f"{first} alone", first, "one_kernel and not nightly"))
    if _AT_ONCE in kernels:
        at_once = ("--parallel", "--cpus", "4")
        found.append(Suite("at once", _AT_ONCE, "at_once and not nightly", machine=at_once))
    found.append(Suite("harness", "", "", paths=("tests/vm",)))
    return found


def has_tests(suite: Suite, selection: list[str]) -> bool:
    """Whether pytest finds tests of the suite; a guest that has none to run need not be started."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, *suite.pytest(selection)], capture_output=True, text=True, check=False
    )
    if found.returncode not in (0, _NOTHING_SELECTED):
        sys.exit(f"{found.stdout}{found.stderr}")
    return found.returncode == 0


@dataclass(frozen=True)
class Result:
    """How a suite ended."""

    suite: Suite
    status: int
    seconds: float

    def __str__(self) -> str:
        outcome = {0: "passed", TIMED_OUT: "time limit"}.get(self.status, f"failed ({self.status})")
        return f"{self.suite.name:12} {outcome:12} {self.seconds:6.0f} s"


class Runner:
    """Runs commands, some at a time."""

    def __init__(self, lanes: int, timeout: float, selection: list[str]) -> None:
        self._lanes = lanes
        self._timeout = timeout
        self._selection = selection
        self._waiting: queue.SimpleQueue[Suite] = queue.SimpleQueue()
        self._running: dict[Suite, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()
        self.results: list[Result] = []

    def run(self, chosen: list[Suite]) -> list[Result]:
        """Run all suites; return their results in the order in which they ended."""
        for suite in chosen:
            self._waiting.put(suite)
        threads = [threading.Thread(target=self._lane, daemon=True) for _ in range(self._lanes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.results

    def stop(self) -> None:
        """End what runs, and start no more."""
        with self._lock:
            with suppress(queue.Empty):
                while True:
                    self._waiting.get_nowait()
            for process in self._running.values():
                process.terminate()

    def _lane(self) -> None:
        while True:
            with self._lock:
                try:
                    suite = self._waiting.get_nowait()
                except queue.Empty:
                    return
                began = time.monotonic()
                process = subprocess.Popen(
                    suite.command(self._timeout, self._selection),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                )
                self._running[suite] = process
            assert process.stdout is not None
            for line in process.stdout:
                print(f"{suite.name:>10} | {line}", end="", flush=True)
            result = Result(suite, process.wait(), time.monotonic() - began)
            with self._lock:
                del self._running[suite]
                self.results.append(result)
            print(f"== {result}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the suites that the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.suites",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--kernel",
        "-k",
        action="append",
        choices=KERNELS,
        help="repeatable; the first is that of "
        f"tests that need one kernel; without it {' and '.join(_DEFAULT)}",
    )
    add("--nightly", action="store_true", help="the long variants only")
    add("--matrix", action="store_true", help=f"all tests on each kernel: {', '.join(MATRIX)}")
    add("--timeout", type=float, default=LONGEST, metavar="SECONDS", help="for one suite")
    add("--lanes", type=int, default=os.cpu_count() or 1, metavar="N", help="suites at a time")
    add("selection", nargs="*", metavar="PYTEST", help="after --; more arguments of pytest")
    options = parser.parse_args(arguments)
    kernels = options.kernel or list(MATRIX if options.matrix else _DEFAULT)
    chosen = suites(kernels, nightly=options.nightly, matrix=options.matrix)
    if options.selection:
        chosen = [suite for suite in chosen if has_tests(suite, options.selection)]
        if not chosen:
            print("suites: no test is selected", file=sys.stderr)
            return _NOTHING_SELECTED
    programs.compile_all()
    runner = Runner(options.lanes, options.timeout, options.selection)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: runner.stop())
    began = time.monotonic()
    results = runner.run(chosen)
    print("\nsuite        result       time")
    for result in results:
        print(result)
    print(f"{'all':25} {time.monotonic() - began:6.0f} s", flush=True)
    complete = len(results) == len(chosen)
    return int(not complete or any(result.status for result in results))


if __name__ == "__main__":
    sys.exit(main())
