# SPDX-License-Identifier: Apache-2.0
"""What was measured on one kernel, and what it may be at most."""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.bench import flows
from tests.bench.compiled import BUILT
from tests.bench.guest import EMPTY_EXIT, EMPTY_PAIR, ONE_DEVICE, TIMED_SAMPLED
from tests.vm.kernels import VmError
from tests.vm.run import Machine, run


@dataclass(frozen=True)
class Cost:
    """What was measured on one kernel, in instructions a packet."""

    kernel: str
    release: str
    recognised_by_epoch: bool = True
    untraced: int = 0
    added: dict[str, int] = field(default_factory=dict)
    added_with_flows: dict[str, int | None] = field(default_factory=dict)
    """None: what cannot be run on this kernel."""
    added_with_filters: dict[str, int | None] = field(default_factory=dict)

    @classmethod
    def measure(cls, kernel: str, part: str = "tests.bench.guest") -> Self:
        """Boot the kernel and measure there; raises VmError if that fails.

        Args:
            kernel: The kernel's name.
            part: The module that measures, and writes these fields to a file.
        """
        with tempfile.TemporaryDirectory(dir=BUILT) as directory:
            result = Path(directory) / "result.json"
            command = ["python", "-m", part, str(result)]
            machine = Machine(icount=True, timeout=900)
            if status := run(command, kernel=kernel, machine=machine):
                raise VmError(f"measuring on kernel {kernel} failed with status {status}")
            found: dict[str, Any] = json.loads(result.read_text())
        return cls(kernel, **found)

    @property
    def version(self) -> tuple[int, int]:
        major, minor = self.release.split(".")[:2]
        return int(major), int(minor.partition("-")[0].partition("+")[0])

    def ratio(self, row: str, floor: str) -> float | None:
        """One row in terms of another."""
        rows = self.rows()
        return rows[row] / rows[floor] if row in rows and rows.get(floor) else None

    def rows(self) -> dict[str, int]:
        """Return each row that was measured, by its name."""
        added = self.added | self.added_with_flows | self.added_with_filters
        return {row: figure for row, figure in added.items() if figure is not None}


Limits = tuple[tuple[tuple[int, int], float], ...]
"""From which kernel on which limit, in ascending order."""

# 5.10 does so much less around a tracer that our own work is more in proportion: shown only.
_EVERYWHERE = (6, 1)


@dataclass(frozen=True)
class Ratio:
    """A figure that is shown in terms of another, and its limit."""

    name: str
    of: Callable[[Cost], float | None]
    limits: Limits = ()

    def limit(self, cost: Cost) -> float | None:
        """None: there is none on this kernel."""
        return next((at for since, at in reversed(self.limits) if cost.version >= since), None)

    def passed(self, cost: Cost) -> bool:
        value, limit = self.of(cost), self.limit(cost)
        return value is not None and limit is not None and value > limit


def report_passed(costs: Sequence[Cost], ratios: Sequence[Ratio]) -> bool:
    """Print each limit that is passed; return whether any is."""
    passed = [(cost, ratio) for cost in costs for ratio in ratios if ratio.passed(cost)]
    for cost, ratio in passed:
        print(
            f"bench: kernel {cost.release}: {ratio.name}: "
            f"{ratio.of(cost):.3f} > {ratio.limit(cost)}",
            file=sys.stderr,
        )
    return bool(passed)


def _flows4(row: str) -> Callable[[Cost], float | None]:
    return lambda cost: cost.ratio(row, flows.EMPTY_PAIR4)


def _flows6(row: str) -> Callable[[Cost], float | None]:
    return lambda cost: cost.ratio(row, flows.EMPTY_PAIR6)


def _beyond_ipv4(cost: Cost) -> float | None:
    one, other = _flows6(flows.STEADY6)(cost), _flows4(flows.STEADY4)(cost)
    return None if one is None or other is None else one - other


VERDICTS = Ratio(
    f"{ONE_DEVICE} : {EMPTY_EXIT}",
    lambda cost: cost.ratio(ONE_DEVICE, EMPTY_EXIT),
    ((_EVERYWHERE, 1.5),),
)
"""What counting verdicts may add, in terms of what an empty fexit adds."""

FLOWS = (
    Ratio(
        flows.STEADY4,
        _flows4(flows.STEADY4),
        ((_EVERYWHERE, 2.15), ((6, 12), 1.8), ((7, 0), 1.9)),
    ),
    Ratio(flows.READ_ONLY4, _flows4(flows.READ_ONLY4), ((_EVERYWHERE, 1.5), ((6, 12), 1.35))),
    Ratio(flows.STEADY6, _flows6(flows.STEADY6)),
    Ratio("… beyond IPv4", _beyond_ipv4, ((_EVERYWHERE, 0.7), ((6, 12), 0.4))),
    Ratio(flows.SAMPLED4, _flows4(flows.SAMPLED4), ((_EVERYWHERE, 1.5),)),
    Ratio(flows.READ_ONLY_SAMPLED4, _flows4(flows.READ_ONLY_SAMPLED4)),
    Ratio(flows.READ_ONLY6, _flows6(flows.READ_ONLY6)),
    Ratio(flows.FLOOD4, _flows4(flows.FLOOD4), ((_EVERYWHERE, 3.0),)),
    Ratio(flows.FLOOD6, _flows6(flows.FLOOD6)),
    Ratio(
        TIMED_SAMPLED,
        lambda cost: cost.ratio(TIMED_SAMPLED, EMPTY_PAIR),
        (((6, 12), 1.35), ((7, 0), 1.45)),
    ),
    Ratio(flows.TIMED4, _flows4(flows.TIMED4)),
    Ratio(flows.TIMED_SAMPLED4, _flows4(flows.TIMED_SAMPLED4)),
    Ratio(flows.LRU, _flows4(flows.LRU)),
    Ratio(flows.XDPDUMP_ENTRY, _flows4(flows.XDPDUMP_ENTRY)),
    Ratio(flows.XDPDUMP_BOTH, _flows4(flows.XDPDUMP_BOTH)),
)
"""In terms of what an empty fentry and an empty fexit add, on the same target."""
