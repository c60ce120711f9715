# SPDX-License-Identifier: Apache-2.0
"""Instructions that trace and capture add to a packet, on each kernel: filters that do not match,
and a packet that is captured. Exit status 1 if it is too much, more than was recorded, or if a
count was not exact.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import filters
from tests.bench.__main__ import shown
from tests.bench.compiled import compile_all
from tests.bench.cost import Cost, Limits, Ratio
from tests.bench.inputs import unchanged
from tests.bench.recorded import add_options, judge
from tests.bench.table import insert, markdown
from tests.vm.kernels import KERNELS
from tests.vm.run import supervised

_DEFAULT = ("6.1", "6.12", "newest")


def _ratio(row: str, other: str, limits: Limits = ()) -> Ratio:
    return Ratio(f"{row} : {other}", lambda cost: cost.ratio(row, other), limits)


_PAIR = (((6, 1), 1.6), ((6, 12), 1.3))

RATIOS = (
    _ratio(filters.NOTHING4, filters.EMPTY_PAIR, _PAIR),
    _ratio(filters.NOTHING6, filters.EMPTY_PAIR, _PAIR),
    _ratio(filters.EXIT4, filters.EMPTY_EXIT, (((6, 1), 1.5),)),
    _ratio(filters.EXIT6, filters.EMPTY_EXIT, (((6, 1), 1.5),)),
    _ratio(filters.EXPENSIVE4, filters.EMPTY_PAIR, (((6, 1), 2.0),)),
    _ratio(filters.EXPENSIVE6, filters.EMPTY_PAIR, (((6, 1), 2.0),)),
    _ratio(filters.SLOW4, filters.EMPTY_PAIR, (((6, 1), 2.0),)),
    _ratio(filters.SLOW6, filters.EMPTY_PAIR, (((6, 1), 2.0),)),
    _ratio(filters.INNER4, filters.EMPTY_PAIR),
    _ratio(filters.INNER_VXLAN, filters.EMPTY_PAIR),
    _ratio(filters.CAPTURED, filters.XDPDUMP, (((6, 1), 0.5),)),
    _ratio(filters.ALTERED, filters.XDPDUMP, (((6, 1), 0.5),)),
)
"""In terms of tracers that do nothing, and of xdpdump."""


def report(costs: list[Cost]) -> str:
    """Return tables of one column a kernel."""
    releases = [cost.release for cost in costs]
    rows = [["added to a packet, instructions", *releases]]
    for name in costs[0].added_with_filters:
        added = [cost.added_with_filters[name] for cost in costs]
        rows.append([name, *("-" if each is None else str(each) for each in added)])
    ratios = [["ratio", *releases]]
    ratios += [[ratio.name, *(shown(ratio, cost) for cost in costs)] for ratio in RATIOS]
    tables = "\n\n".join(map(markdown, (rows, ratios)))
    return f"Measured on {datetime.now(UTC):%Y-%m-%d}.\n\n{tables}"


def bench(options: argparse.Namespace) -> int:
    kernels = options.kernel or _DEFAULT
    if options.changed and unchanged("sessions", kernels):
        return 0
    compile_all()
    costs = []
    for kernel in kernels:
        print(f"bench: measuring on kernel {kernel}", file=sys.stderr, flush=True)
        costs.append(Cost.measure(kernel, "tests.bench.filters"))
    text = report(costs)
    print(text)
    if options.write:
        insert(options.write, "sessions", text)
    return judge("sessions", costs, RATIOS, options)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sessions", description=__doc__)
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="repeatable")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="between its markers")
    add_options(parser)
    options = parser.parse_args()
    return supervised(lambda: bench(options))


if __name__ == "__main__":
    sys.exit(main())
