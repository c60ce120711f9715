# SPDX-License-Identifier: Apache-2.0
"""The dashboards as files."""

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.agent import agent
from dashboards.overview import overview
from dashboards.program import program

FOLDER: Final = Path(__file__).parent


def generated() -> dict[str, str]:
    """The text of each file."""
    made = {"overview.json": overview(), "program.json": program(), "agent.json": agent()}
    return {
        name: json.dumps(board, cls=JSONEncoder, indent=2, ensure_ascii=False, sort_keys=True)
        + "\n"
        for name, board in made.items()
    }
