# SPDX-License-Identifier: Apache-2.0
"""Run the commands of the README on bare systems, as several users, in several places.

    make fresh                                   all combinations, with a short choice of tests
    make fresh FRESH=debian-12                   those of one system
    make fresh FRESH='debian-12-user --quick'    of one account; no virtual machine
    make fresh FRESH='debian-13-root-tmp --full' one combination, with all of `make test`

Needs root and debootstrap. Every two of system, account and place occur together at least once.
The output of each step is in build/fresh.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.fresh.system import (
    REPOSITORY,
    SYSTEMS,
    USER,
    FreshError,
    remove_leftovers,
    unpacked,
)
from tests.vm.fetch import ensure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.fresh.system import Root

KERNEL = "6.1"
LOGS = REPOSITORY / "build" / "fresh"
LOCATIONS = {"home": "{home}/xdpscope", "tmp": "/tmp/xdpscope", "space": "/opt/a space/xdpscope"}
PAIRS = (("user", "home"), ("root", "tmp"), ("user", "space"))
"""Account and place on every other system; the rest swap the accounts."""

# Short, and each of what has failed on a fresh machine: a virtual machine, and the service in it.
_KERNEL_TESTS = "test_all_of_it_works_behind_what_the_unit_shuts or test_two_verdicts_in_one_flow"
_START = (
    ("packages", "{sudo}apt-get update && {sudo}apt-get install -y make git", 600.0),
    ("clone", "git clone -q /mnt/source {place}", 120.0),
)
# First, with nothing there that only tests install. The service cannot be started without systemd.
_INSTALL = (
    "install",
    "make install && ls dist/xdpscope-*-cp311-abi3-*.whl && cd / &&"
    " xdpscope --version && xdpscope check-config /etc/xdpscope/xdpscope.yaml &&"
    " test -f /etc/systemd/system/xdpscope.service &&"
    " test -f /usr/local/share/man/man8/xdpscope.8 &&"
    " test -f /usr/local/share/bash-completion/completions/xdpscope &&"
    " test -f /usr/local/share/zsh/site-functions/_xdpscope &&"
    " test -f /etc/fish/completions/xdpscope.fish &&"
    " ! dpkg-query -W -f '${db:Status-Status}\\n' qemu-system-x86 chromium llvm 2>/dev/null |"
    " grep -qx installed",
    1200.0,
)
_QUICK = (_INSTALL, ("unit", "make unit", 1800.0))
_SHORT = (
    *_QUICK,
    (
        "kernel",
        f"make kernel-test KERNELS={KERNEL} PYTEST=\"-k '{_KERNEL_TESTS}'\"",
        1800.0,
    ),
    ("demo", "make demo DEMO_SECONDS=10", 900.0),
)
_FULL = (_INSTALL, ("test", "make test", 14400.0), _SHORT[-1])


@dataclass(frozen=True)
class Combination:
    """Where the commands run."""

    system: str
    account: str
    place: str

    @property
    def name(self) -> str:
        return f"{self.system}-{self.account}-{self.place}"


@dataclass(frozen=True)
class Outcome:
    """Of one step."""

    combination: Combination
    step: str
    result: str
    seconds: float


def combinations() -> list[Combination]:
    other = {"user": "root", "root": "user"}
    return [
        Combination(system, account if number % 2 == 0 else other[account], place)
        for number, system in enumerate(SYSTEMS)
        for account, place in PAIRS
    ]


def run(combination: Combination, steps: Sequence[tuple[str, str, float]]) -> Iterator[Outcome]:
    """Run the steps, up to the first that fails. Raises FreshError."""
    user = "root" if combination.account == "root" else USER
    began = time.monotonic()
    with unpacked(SYSTEMS[combination.system], user) as root:
        yield Outcome(combination, "unpack", "ok", time.monotonic() - began)
        for name, command, limit in (*_START, *steps):
            yield _step(root, combination, name, command, limit)


def _step(root: Root, combination: Combination, name: str, command: str, limit: float) -> Outcome:
    place = LOCATIONS[combination.place].format(home=root.home)
    text = command.replace("{sudo}", "" if root.user == "root" else "sudo ")
    text = text.replace("{place}", f"'{place}'")
    there = Path("/") if name in ("packages", "clone") else Path(place)
    began = time.monotonic()
    status, output = root.run(text, there, limit)
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / f"{combination.name}.{name}.log").write_text(f"$ {text}\n{output}")
    if status:
        print("\n".join(output.splitlines()[-40:]))
    result = "ok" if status == 0 else "time limit" if status == 124 else f"failed ({status})"
    return Outcome(combination, name, result, time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make fresh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="how the names of combinations begin")
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--quick", action="store_true", help="only what needs no virtual machine")
    depth.add_argument("--full", action="store_true", help="all of `make test`: hours in emulation")
    options = parser.parse_args()
    chosen = [
        each
        for each in combinations()
        if not options.names or any(each.name.startswith(name) for name in options.names)
    ]
    if not chosen:
        parser.error("choose from " + ", ".join(each.name for each in combinations()))
    if os.geteuid() != 0:
        print("fresh: needs root, for chroot and mounts", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=REPOSITORY).returncode:
        print("fresh: clones HEAD, without the changes that are not committed", file=sys.stderr)
    steps = _FULL if options.full else _QUICK if options.quick else _SHORT
    if not options.quick:
        for kernel in (KERNEL, "default"):
            ensure(kernel)
    remove_leftovers()
    failed = False
    table = Table("system", "account", "place", "step", "result", "seconds")
    for combination in chosen:
        print(f"fresh: {combination.name}", flush=True)
        try:
            for outcome in run(combination, steps):
                print(
                    f"fresh:   {outcome.step}: {outcome.result}, {outcome.seconds:.0f} s",
                    flush=True,
                )
                _add(table, outcome)
                failed = failed or outcome.result != "ok"
                if outcome.step in ("packages", "clone", "unit") and outcome.result != "ok":
                    break
        except FreshError as error:
            skipped = combination.system.startswith("ubuntu")
            print(f"fresh:   {error}", flush=True)
            _add(table, Outcome(combination, "unpack", "not run" if skipped else "failed", 0))
            failed = failed or not skipped
    Console(width=100).print(table)
    print(f"fresh: {'FAILED, see above and build/fresh' if failed else 'all passed'}")
    return failed


def _add(table: Table, outcome: Outcome) -> None:
    each = outcome.combination
    table.add_row(
        each.system,
        each.account,
        each.place,
        outcome.step,
        outcome.result,
        f"{outcome.seconds:.0f}",
    )


if __name__ == "__main__":
    sys.exit(main())
