# SPDX-License-Identifier: Apache-2.0
"""Instructions that observing adds to a packet, on each kernel, against what tracers take that
do nothing. Exit status 1 if it is too much, more than was recorded, or if a count was not exact.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.compiled import compile_all
from tests.bench.cost import FLOWS, VERDICTS, Cost, Ratio
from tests.bench.inputs import unchanged
from tests.bench.recorded import add_options, judge
from tests.bench.table import insert, markdown
from tests.vm.kernels import KERNELS, MATRIX
from tests.vm.run import supervised

RATIOS = (VERDICTS, *FLOWS)


def shown(ratio: Ratio, cost: Cost) -> str:
    """Return a ratio and its limit, if it has one."""
    value, limit = ratio.of(cost), ratio.limit(cost)
    if value is None:
        return "-"
    if limit is None:
        return f"{value:.2f}"
    return f"**{value:.2f}** {'>' if ratio.passed(cost) else '≤'} {limit:.2f}"


def report(costs: list[Cost]) -> str:
    """Tables of one column a kernel."""
    releases = [cost.release for cost in costs]
    verdicts = [["added to a packet, instructions", *releases]]
    verdicts += [[name, *(str(cost.added[name]) for cost in costs)] for name in costs[0].added]
    verdicts += [[VERDICTS.name, *(shown(VERDICTS, cost) for cost in costs)]]
    verdicts += [["the packet untraced", *(str(cost.untraced) for cost in costs)]]
    flows = [["with flows: added to a packet, instructions", *releases]]
    flows += [
        [name, *("-" if (n := cost.added_with_flows[name]) is None else str(n) for cost in costs)]
        for name in costs[0].added_with_flows
    ]
    ratios = [["times an empty fentry and fexit", *releases]]
    ratios += [[ratio.name, *(shown(ratio, cost) for cost in costs)] for ratio in FLOWS]
    tables = "\n\n".join(map(markdown, (verdicts, flows, ratios)))
    return f"Measured on {datetime.now(UTC):%Y-%m-%d}.\n\n{tables}"


def for_machines(cost: Cost) -> dict[str, object]:
    ratios = {
        ratio.name: {"measured": ratio.of(cost), "limit": ratio.limit(cost)} for ratio in RATIOS
    }
    return {**vars(cost), "ratios": ratios}


def bench(options: argparse.Namespace) -> int:
    kernels = options.kernel or MATRIX
    if options.changed and unchanged("packets", kernels):
        return 0
    compile_all()
    costs = []
    for kernel in kernels:
        print(f"bench: measuring on kernel {kernel}", file=sys.stderr, flush=True)
        costs.append(Cost.measure(kernel))
    text = report(costs)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(list(map(for_machines, costs)), indent=2) + "\n")
    if options.write:
        insert(options.write, "packets", text)
    for cost in costs:
        if not cost.recognised_by_epoch:
            print(f"bench: kernel {cost.release} lets no epochs be kept", file=sys.stderr)
    return judge("packets", costs, RATIOS, options)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for machines")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="between its markers")
    add_options(parser)
    options = parser.parse_args()
    return supervised(lambda: bench(options))


if __name__ == "__main__":
    sys.exit(main())
