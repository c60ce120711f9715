# SPDX-License-Identifier: Apache-2.0
"""``xdpscope help``."""

import argparse

from xdpscope.cli.parser import build


def run(arguments: argparse.Namespace) -> int:
    """Print what ``--help`` prints."""
    parser, commands = build()
    (commands[arguments.about] if arguments.about else parser).print_help()
    return 0
