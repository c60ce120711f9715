# SPDX-License-Identifier: Apache-2.0
"""What ``growth`` found, as a table with a column for each number of programs."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.bench.table import markdown

# How much more it may grow than the number of programs does, for what is noise.
_TOLERANCE = 1.1

# (title, key, seconds in a unit, the unit, limit of the largest number in that unit)
_MEASURED = (
    ("attaching", "attaching", 1.0, "s", 5.0),
    ("having their flows counted too", "flows", 1.0, "s", None),
    ("a scan without changes", "scan", 1e-3, "ms", 250.0),
    ("of it finding programs", "finding", 1e-3, "ms", 250.0),
)


@dataclass(frozen=True)
class Row:
    """One measurement of all numbers of programs."""

    what: str
    values: list[float]
    limits: list[float | None]

    @property
    def holds(self) -> bool:
        pairs = zip(self.values, self.limits, strict=True)
        return all(limit is None or value <= limit for value, limit in pairs)

    def cells(self) -> Iterator[str]:
        yield self.what
        for value, limit in zip(self.values, self.limits, strict=True):
            shown = f"{value:.3g}" if value < 100 else f"{value:.0f}"
            if limit is None:
                yield shown if value else ""
            else:
                yield f"**{shown}** {'≤' if value <= limit else '>'} {limit:.3g}"


def rows(clock: dict[str, Any], counted: dict[str, Any]) -> list[Row]:
    """Of one kernel: in a guest with a clock, and in one where an instruction is a nanosecond."""
    sizes = [each["programs"] for each in counted["sizes"]]
    first = len(sizes) - 1
    nothing: list[float | None] = [None] * len(sizes)
    steps = [most / least * _TOLERANCE for least, most in pairwise(sizes)]
    found = []
    for what, key, second, unit, limit in _MEASURED:
        last: list[float | None] = [*nothing[:first], limit]
        for guest, kind, name, limits in (
            (clock, "clock", f"{unit} of the guest's clock", last),
            (clock, "cpu", f"{unit} of its CPU", nothing),
            (counted, "clock", f"{unit} at 1 GHz and 1 instruction a cycle", last),
        ):
            values = [each[key][kind] / second for each in guest["sizes"]]
            found.append(Row(f"{what}, {name}", values, limits))
        ratios = [more / less for less, more in pairwise(values)]
        found.append(Row("… times that of fewer", [0.0, *ratios], [None, *steps]))
    return found


def table(clock: dict[str, Any], counted: dict[str, Any]) -> str:
    """For people."""
    head = ["", *(f"{each['programs']} programs" for each in counted["sizes"])]
    return markdown([head, *(list(row.cells()) for row in rows(clock, counted))])
