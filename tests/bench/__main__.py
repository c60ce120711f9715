# SPDX-License-Identifier: Apache-2.0
"""Instructions that observing adds to a packet, on each kernel, against what a tracer takes that
does nothing. Exit status 1 if it is too much, or if a count was not exact.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tests.bench.compiled import BUILT, compile_all
from tests.bench.guest import EMPTY_EXIT, ONE_DEVICE
from tests.bench.table import insert, markdown
from tests.vm.kernels import KERNELS, MATRIX, VmError
from tests.vm.run import Machine, run, supervised

LIMIT = 1.5
"""What verdict tracing may add, in terms of what an empty fexit adds."""

# Its empty fexit costs a third of later ones', for the kernel does less around it: shown only.
UNLIMITED = {"5.10"}


@dataclass(frozen=True)
class Cost:
    """What was measured on one kernel, in instructions a packet."""

    kernel: str
    release: str
    recognised_by_epoch: bool
    untraced: int
    added: dict[str, int]

    @classmethod
    def measure(cls, kernel: str) -> Self:
        """Boots the kernel and measures; raises VmError if that fails."""
        with tempfile.TemporaryDirectory(dir=BUILT) as directory:
            result = Path(directory) / "result.json"
            command = ["python", "-m", "tests.bench.guest", str(result)]
            machine = Machine(icount=True, timeout=300)
            if status := run(command, kernel=kernel, machine=machine):
                raise VmError(f"measuring on kernel {kernel} failed with status {status}")
            found: dict[str, Any] = json.loads(result.read_text())
        return cls(kernel, **found)

    @property
    def ratio(self) -> float:
        return self.added[ONE_DEVICE] / self.added[EMPTY_EXIT]

    @property
    def dear(self) -> bool:
        return self.kernel not in UNLIMITED and self.ratio > LIMIT


def report(costs: list[Cost]) -> str:
    """One column a kernel."""
    rows = [["added to a packet, instructions", *(cost.release for cost in costs)]]
    rows += [[name, *(str(cost.added[name]) for cost in costs)] for name in costs[0].added]
    rows += [[f"{ONE_DEVICE} : {EMPTY_EXIT}", *(f"**{cost.ratio:.2f}**" for cost in costs)]]
    rows += [["limit", *("none" if c.kernel in UNLIMITED else f"{LIMIT:.2f}" for c in costs)]]
    rows += [["the packet untraced", *(str(cost.untraced) for cost in costs)]]
    return f"Measured on {datetime.now(UTC):%Y-%m-%d}.\n\n{markdown(rows)}"


def bench(options: argparse.Namespace) -> int:
    compile_all()
    costs = []
    for kernel in options.kernel or MATRIX:
        print(f"bench: measuring on kernel {kernel}", file=sys.stderr, flush=True)
        costs.append(Cost.measure(kernel))
    text = report(costs)
    print(text)
    if options.json:
        values = [{**vars(cost), "ratio": cost.ratio, "limit": LIMIT} for cost in costs]
        options.json.write_text(json.dumps(values, indent=2) + "\n")
    if options.write:
        insert(options.write, "packets", text)
    for cost in costs:
        if cost.dear:
            print(f"bench: kernel {cost.release}: {cost.ratio:.3f} > {LIMIT}", file=sys.stderr)
        if not cost.recognised_by_epoch:
            print(f"bench: kernel {cost.release} lets no epochs be kept", file=sys.stderr)
    return int(any(cost.dear for cost in costs))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for machines")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="between its markers")
    options = parser.parse_args()
    return supervised(lambda: bench(options))


if __name__ == "__main__":
    sys.exit(main())
