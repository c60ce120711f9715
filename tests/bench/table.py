# SPDX-License-Identifier: Apache-2.0
"""Measurements as tables, and tables into the document that keeps them."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first row is its head, the first column text and the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Iterable[str]) -> str:
        padded = [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if not index else "-" * (width - 1) + ":" for index, width in enumerate(widths)
    ]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])


def insert(document: Path, part: str, text: str) -> None:
    """Put ``text`` between the markers of ``part``.

    Raises:
        ValueError: the document does not have them.
    """
    begin, end = f"<!-- {part}: begin, written by make bench -->", f"<!-- {part}: end -->"
    before, found, rest = document.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{document} has no markers of {part!r}")
    document.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")
