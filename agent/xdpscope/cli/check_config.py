# SPDX-License-Identifier: Apache-2.0
"""``xdpscope check-config``."""

import argparse

from xdpscope.config import load
from xdpscope.web.policy import PolicyFile


def run(arguments: argparse.Namespace) -> int:
    """Loads the file; an error in it ends in exit code 2."""
    config = load(arguments.file)
    if config.web_config is not None:
        PolicyFile(config.web_config)
    print(f"{arguments.file}: ok")
    return 0
