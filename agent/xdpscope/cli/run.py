# SPDX-License-Identifier: Apache-2.0
"""``xdpscope run``."""

import argparse

from xdpscope import agent, log
from xdpscope.config import load


def run(arguments: argparse.Namespace) -> int:
    """Runs the agent until a signal ends it."""
    config = load(arguments.config)
    log.configure(
        arguments.log_level or config.log.level, arguments.log_format or config.log.format
    )
    agent.run(config, arguments.config, arguments.listen)
    return 0
