# SPDX-License-Identifier: Apache-2.0
"""``xdpscope check-config``."""

import argparse

from xdpscope.config import load


def run(arguments: argparse.Namespace) -> int:
    """Loads the file; an error in it ends in exit code 2."""
    load(arguments.file)
    print(f"{arguments.file}: ok")
    return 0
