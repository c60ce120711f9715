# SPDX-License-Identifier: Apache-2.0
"""Run the kernel suites in virtual machines, some at a time, and report failures as they happen.

    python -m tests.suites                            # `make kernel-test`
    python -m tests.suites --kernel 6.12 -- -k name   # these tests alone
    python -m tests.suites --matrix                   # every kernel that is supported
    python -m tests.suites --nightly                  # the long variants
    python -m tests.suites --image                    # with `make image-test`, once a CPU is free

A test that depends on the kernel (marker ``every_kernel``) runs on each kernel. A test of user
space or of other software (marker ``one_kernel``) runs on the first kernel only. Without
``--matrix`` and without arguments of pytest, what has the marker ``first_kernel`` too runs on the
first kernel, and what has ``matrix`` is left out.

An emulated machine waits for a quarter of its time or more, so two suites more than there are CPUs
run at once. Every line is printed as it comes, with the suite's name and its seconds so far in
front. The exit status is 1 if any suite failed.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.kernels import KERNELS, MATRIX
from tests.vm.run import TIMED_OUT

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 4200
"""Seconds that one suite may take."""

_DEFAULT = ("6.1", "6.12")
_AT_ONCE = "6.1"
_IMAGE = ("make", "image-test")
# Plugins that no kernel test needs. In an emulated machine pytest takes a third of its start to
# import that of hypothesis.
_WITHOUT = ("-p", "no:cacheprovider", "-p", "no:anyio", "-p", "no:hypothesispytest")
_PYTEST = ("python", "-m", "pytest", "-v", *_WITHOUT)
_BYTES_A_SECOND = 450
"""So large is a file of tests that takes a second on an emulated machine."""
_SECONDS = {
    "test_agent.py": 50,
    "test_capture.py": 55,
    "test_dashboards.py": 90,
    "test_flow_totals.py": 10,
    "test_flows.py": 60,
    "test_namespaces_change.py": 45,
    "test_outcomes.py": 45,
    "test_pin_path.py": 50,
    "test_pins.py": 75,
    "test_prometheus.py": 80,
    "test_torture.py": 40,
    "test_xdp_tools.py": 30,
}
"""Files whose size does not tell how long they take."""
_SECONDS_NIGHTLY = {
    "test_agent.py": 340,
    "test_alerts.py": 470,
    "test_bcc.py": 460,
    "test_capture_kills.py": 270,
    "test_faults.py": 450,
    "test_overflow.py": 800,
    "test_pins.py": 330,
}
"""The same of the long variants, those that take minutes."""
_NOTHING_SELECTED = 5  # pytest's exit status
_SHOWN = 60  # lines of failures, at the end
_FAILURES = ("FAILED ", "ERROR ", "E   ")
"""How lines begin that name a failed test or say why it failed."""


class SuiteError(Exception):
    """pytest cannot collect tests; the message is its output."""


@dataclass(frozen=True)
class Suite:
    """Tests that run in one machine."""

    name: str
    kernel: str
    """Where it runs; empty: on this machine, for it starts virtual machines itself."""
    marker: str
    """pytest's expression for the tests that belong to it."""
    path: str = "tests/kernel"
    machine: tuple[str, ...] = ()
    """More options of tests.vm.run."""
    part: int = 0
    parts: int = 1
    """Its files are dealt out to so many suites: two lanes then end at about the same time."""
    nightly: bool = False
    """They are the long variants."""
    other: tuple[str, ...] = ()
    """A command that runs instead, without pytest's arguments."""

    def command(self, timeout: float, selection: list[str]) -> list[str] | None:
        """Return the command that runs the suite; None if ``selection`` takes none of its tests."""
        if self.other:
            return list(self.other)
        marker = ["-m", self.marker] if self.marker else []
        files = _files([*marker, self.path, *selection])
        seconds = _SECONDS_NIGHTLY if self.nightly else _SECONDS
        files = _dealt(files, self.parts, seconds)[self.part]
        if not files:
            return None
        tests = [*_PYTEST, *marker, *files, *selection]
        if not self.kernel:
            return [sys.executable, *tests[1:]]
        options = ["--kernel", self.kernel, "--timeout", f"{timeout:g}", *self.machine]
        return [sys.executable, "-m", "tests.vm.run", *options, "--", *tests]


def _files(arguments: list[str]) -> list[str]:
    """Return the files with tests that pytest selects.

    An emulated machine takes seconds to import each file that it need not. What pytest compiles
    here, it need not compile there.
    """
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}  # else it would keep nothing
    found = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if found.returncode not in (0, _NOTHING_SELECTED):
        raise SuiteError(f"{found.stdout}{found.stderr}")
    tests = (line.partition("::") for line in found.stdout.splitlines())
    return list(dict.fromkeys(file for file, separator, _ in tests if separator))


def _dealt(files: list[str], parts: int, seconds: Mapping[str, float]) -> list[list[str]]:
    """Return the files in so many lists that take about as long as each other."""

    def takes(file: str) -> float:
        path = Path(file)
        return seconds.get(path.name, path.stat().st_size / _BYTES_A_SECOND)

    found: list[list[str]] = [[] for _ in range(parts)]
    for file in sorted(files, key=takes, reverse=True):
        min(found, key=lambda part: sum(map(takes, part))).append(file)
    return found


def suites(
    kernels: list[str], *, nightly: bool = False, everything: bool = False, image: bool = False
) -> list[Suite]:
    """Return the suites to run on ``kernels``, those that take longest first."""
    first, *others = kernels
    if nightly:
        long = "nightly and not stalled and not paced"
        found = _parts(first, long, 3, nightly=True)
        for each in others:
            found += _parts(each, f"every_kernel and {long}", nightly=True)
        found += [Suite(f"{each} paced", each, "paced", machine=("--paced",)) for each in kernels]
        found.append(Suite("unit", "", "nightly", path="tests/unit"))
        if _AT_ONCE in kernels:
            stalled = ("--parallel", "--stall")
            found.append(Suite("stalled", _AT_ONCE, "stalled", machine=stalled))
        return [*found, Suite("harness", "", "nightly", path="tests/vm")]
    if everything:
        found = _parts(first, "not nightly")
        for each in others:
            found += _parts(each, "every_kernel and not nightly")
    else:
        short = "not nightly and not matrix"
        found = _parts(first, f"{short} and not at_once" if first == _AT_ONCE else short)
        found += [
            Suite(each, each, f"every_kernel and not first_kernel and {short}") for each in others
        ]
    if image:
        found.append(Suite("image", "", "", other=_IMAGE))
    if _AT_ONCE in kernels:
        at_once = ("--parallel", "--cpus", "4")
        found.append(Suite("at once", _AT_ONCE, "at_once and not nightly", machine=at_once))
    found.append(Suite("harness", "", "not nightly", path="tests/vm"))
    return found


def _parts(kernel: str, marker: str, parts: int = 2, *, nightly: bool = False) -> list[Suite]:
    return [
        Suite(f"{kernel} {letter}", kernel, marker, part=part, parts=parts, nightly=nightly)
        for part, letter in enumerate("abc"[:parts])
    ]


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
        self.stopped = False
        self.results: list[Result] = []
        self.failures: list[str] = []
        """What pytest's summaries say, for the end of the output: logs are cut there last."""

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
            self.stopped = True
            for process in self._running.values():
                process.terminate()

    def _lane(self) -> None:
        while not self.stopped:
            try:
                suite = self._waiting.get_nowait()
            except queue.Empty:
                return
            began = time.monotonic()
            try:
                command = suite.command(self._timeout, self._selection)
            except SuiteError as error:
                print(error, file=sys.stderr, flush=True)
                status = 1
            else:
                if command is None:
                    continue
                status = self._run(suite, command)
            result = Result(suite, status, time.monotonic() - began)
            self.results.append(result)
            print(f"== {result}", flush=True)

    def _run(self, suite: Suite, command: list[str]) -> int:
        with self._lock:
            if self.stopped:
                return 1
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            self._running[suite] = process
        assert process.stdout is not None
        began = time.monotonic()
        for line in process.stdout:
            if line.startswith(_FAILURES):
                self.failures.append(f"{suite.name}: {line.rstrip()}")
            print(f"{suite.name:>10} {time.monotonic() - began:5.0f} | {line}", end="", flush=True)
        status = process.wait()
        with self._lock:
            del self._running[suite]
        return status


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
    add("--matrix", action="store_true", help=f"on all of {', '.join(MATRIX)}")
    add("--image", action="store_true", help="and build the image and run it")
    add("--timeout", type=float, default=LONGEST, metavar="SECONDS", help="for one suite")
    lanes = (os.cpu_count() or 1) + 2
    add("--lanes", type=int, default=lanes, metavar="N", help="suites at a time")
    add("selection", nargs="*", metavar="PYTEST", help="after --; more arguments of pytest")
    options = parser.parse_args(arguments)
    kernels = options.kernel or list(_DEFAULT)
    if options.matrix:
        kernels = list(dict.fromkeys([*kernels, *MATRIX]))
    everything = options.matrix or bool(options.selection)
    chosen = suites(kernels, nightly=options.nightly, everything=everything, image=options.image)
    # An emulated machine takes minutes for that.
    subprocess.run([sys.executable, "-m", "tests.kernel.programs"], check=True)
    runner = Runner(options.lanes, options.timeout, options.selection)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: runner.stop())
    began = time.monotonic()
    results = runner.run(chosen)
    if not results:
        print("suites: no test was selected, or none was started", file=sys.stderr)
        return 1
    if runner.failures:
        print("\n== failures", *list(dict.fromkeys(runner.failures))[:_SHOWN], sep="\n")
    print("\nsuite        result       time")
    for result in results:
        print(result)
    print(f"{'all':25} {time.monotonic() - began:6.0f} s", flush=True)
    return int(runner.stopped or any(result.status for result in results))


if __name__ == "__main__":
    sys.exit(main())
