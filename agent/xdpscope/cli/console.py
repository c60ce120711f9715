# SPDX-License-Identifier: Apache-2.0
"""Print for people."""

import sys

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_UNITS = "kMGTPEZ"


def console() -> Console:
    """Return standard output's console: as wide as the terminal, else COLUMNS or 80."""
    return Console(highlight=False)


def first_that_fits(screen: Console, *tables: Table) -> Table:
    """Return the first table whose lines need no folding; the last one if each needs it."""
    for table in tables[:-1]:
        if Measurement.get(screen, screen.options, table).maximum < screen.width:
            return table
    return tables[-1]


def short(number: int) -> str:
    """Return a number in at most six characters: ``99,999``, ``1.23M``."""
    if number < 100_000:
        return f"{number:,}"
    power = min((len(str(number)) - 1) // 3, len(_UNITS))
    text = f"{number / 1000**power:.3g}"
    if text == "1e+03":  # rounded up to the next unit
        power, text = power + 1, "1"
    return f"{text}{_UNITS[power - 1]}"


def note(text: str) -> None:
    """Print a remark on standard error, so that pipes do not get it."""
    print(text, file=sys.stderr)
