# SPDX-License-Identifier: Apache-2.0
"""``xdpscope check-config``."""

import argparse
import sys

from xdpscope.config import load, warnings
from xdpscope.web.policy import policy_source


def run(arguments: argparse.Namespace) -> int:
    """Load the file; an error in it ends in exit code 2, a warning does not."""
    config = load(arguments.file)
    policy_source(config.web_config, arguments.file)
    doubtful = warnings(config)
    for warning in doubtful:
        print(f"{arguments.file}: warning: {warning}", file=sys.stderr)
    count = f", with {len(doubtful)} warning{'s' if len(doubtful) > 1 else ''}" if doubtful else ""
    print(f"{arguments.file}: ok{count}")
    return 0
