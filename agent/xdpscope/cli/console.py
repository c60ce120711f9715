# SPDX-License-Identifier: Apache-2.0
"""Where commands print for people."""

import sys

from rich.console import Console


def console() -> Console:
    """Standard output: as wide as the terminal; wide enough for anything where it is none."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def note(text: str) -> None:
    """A remark for people, kept off standard output so that pipes get none of it."""
    print(text, file=sys.stderr)
