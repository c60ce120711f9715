# SPDX-License-Identifier: Apache-2.0
"""What each row took when it was recorded, by kernel build: no row may grow unnoticed.

Another build of a kernel may take other numbers for the same code. So a row is compared with the
figure of exactly its build, and a build without figures is recorded first.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from tests.bench import inputs
from tests.bench.cost import Cost, Ratio, report_passed

RECORDED = Path(__file__).with_name("recorded.json")

Rows = dict[str, int]
"""Instructions a packet, by the row's name."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what a benchmark can do with its figures."""
    add = parser.add_argument
    add("--record", action="store_true", help="no row may exceed these figures by 1 %%")
    add(
        "--changed",
        action="store_true",
        help="measure only if what decides the figures has changed since they were recorded",
    )
    add("--check", action="store_true", help="fail for a row that has grown, and for no limit")


def judge(
    benchmark: str, costs: Sequence[Cost], ratios: Sequence[Ratio], options: argparse.Namespace
) -> int:
    """Record or compare the figures; return the exit status."""
    grown = False
    if options.record:
        record(costs)
        inputs.note(benchmark, [cost.release for cost in costs])
    else:
        grown = report_grown(costs)
    if not options.check:
        grown |= report_passed(costs, ratios)
    return int(grown)


def _read(path: Path) -> dict[str, Rows]:
    return cast(dict[str, Rows], json.loads(path.read_text())) if path.exists() else {}


def _ours(cost: Cost) -> Rows:
    """Return the rows that are not of another program, whose next version may take more."""
    return {row: figure for row, figure in cost.rows().items() if not row.startswith("xdpdump")}


def record(costs: Sequence[Cost], path: Path = RECORDED) -> None:
    """Keep these figures. Rows that were not measured keep theirs."""
    recorded = _read(path)
    for cost in costs:
        recorded[cost.release] = recorded.get(cost.release, {}) | _ours(cost)
    path.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")


def _allowed(figure: int) -> int:
    """Return the most that a row may take that took ``figure`` before: one percent more.

    One instruction is accepted in any case: the kernel's hash of devices differs by so much.
    """
    return figure + max(1, figure // 100)


def report_grown(costs: Sequence[Cost], path: Path = RECORDED) -> bool:
    """Print each row that takes more than it may; return whether any does."""
    recorded = _read(path)
    grown = False
    for cost in costs:
        before = recorded.get(cost.release)
        if before is None:
            print(
                f"bench: nothing is recorded for kernel {cost.release}, so nothing is compared. "
                f"Record it with python -m tests.bench and python -m tests.bench.sessions: "
                f"--kernel {cost.kernel} --record",
                file=sys.stderr,
            )
            continue
        for row, figure in _ours(cost).items():
            if row not in before:
                print(f"bench: kernel {cost.release}: {row}: {figure}, new", file=sys.stderr)
            elif figure > _allowed(before[row]):
                grown = True
                print(
                    f"bench: kernel {cost.release}: {row}: {figure} instructions a packet, "
                    f"recorded are {before[row]}",
                    file=sys.stderr,
                )
    return grown
