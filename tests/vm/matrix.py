# SPDX-License-Identifier: Apache-2.0
"""Run a command on each kernel in turn and say where it failed."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .fetch import installed
from .kernels import KERNELS, MATRIX, VmError
from .run import FAILED, TIMED_OUT, Machine, add_machine_options, machine_from, run, supervised

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Result:
    """How the command ended on one kernel."""

    name: str
    release: str
    status: int
    seconds: float

    def verdict(self) -> str:
        """Return the exit status in words."""
        return {0: "ok", TIMED_OUT: "time limit", FAILED: "machine failed"}.get(
            self.status, f"failed ({self.status})"
        )


def run_on(name: str, command: Sequence[str], machine: Machine) -> Result:
    """Run the command on one kernel; that it cannot be had is a failure too, and not the end."""
    print(f"== kernel {name}", flush=True)
    started = time.monotonic()
    try:
        status = run(command, kernel=name, machine=machine)
    except VmError as error:
        print(f"vm: {error}", file=sys.stderr, flush=True)
        status = FAILED
    found = installed(name)
    return Result(name, found.release if found else "", status, time.monotonic() - started)


def table(results: Sequence[Result]) -> str:
    """Return the results, one a line."""
    rows = [("kernel", "release", "result", "seconds")]
    rows += [(each.name, each.release, each.verdict(), f"{each.seconds:.1f}") for each in results]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command on each kernel in turn; exit status 1 if it failed on any."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.matrix", description=main.__doc__)
    parser.add_argument(
        *("--kernel", "-k"),
        action="append",
        choices=KERNELS,
        help=f"repeatable; without it {', '.join(MATRIX)}",
    )
    add_machine_options(parser)
    options = parser.parse_args(arguments)
    machine = machine_from(options)

    def all_kernels() -> int:
        results = [run_on(name, options.command, machine) for name in options.kernel or MATRIX]
        print(f"\n{table(results)}", flush=True)
        return int(any(result.status for result in results))

    return supervised(all_kernels)


if __name__ == "__main__":
    sys.exit(main())
