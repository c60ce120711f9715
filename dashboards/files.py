# SPDX-License-Identifier: Apache-2.0
"""The dashboards as files."""

import json
import re
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.agent import agent
from dashboards.overview import overview
from dashboards.program import program

FOLDER: Final = Path(__file__).parents[1] / "dashboards" / "grafana" / "dashboards"
"""Has dashboards only, so that Grafana can provision it."""

GRAFANA: Final = "10.4.0"
"""The oldest Grafana that has all that the dashboards use; it is shown where one is imported."""

_SCHEMA: Final = 39
"""Of that Grafana. A newer one migrates a dashboard from there, an older one would not go back."""

_PANEL: Final = re.compile(r"/d/([a-z-]+)\?viewPanel=<([^>]+)>")


def generated() -> dict[str, str]:
    """Return the text of each file."""
    made = {"overview.json": overview(), "program.json": program(), "agent.json": agent()}
    boards = {
        name: json.loads(json.dumps(board, cls=JSONEncoder))
        | {"__requires": _requires(), "schemaVersion": _SCHEMA}
        for name, board in made.items()
    }
    ids = {
        (board["uid"], panel["title"]): panel["id"]
        for board in boards.values()
        for panel in board["panels"]
        if panel["type"] != "row"
    }
    return {
        name: _PANEL.sub(
            lambda found: f"/d/{found[1]}?viewPanel={ids[found[1], found[2]]}",
            json.dumps(board, indent=2, ensure_ascii=False, sort_keys=True) + "\n",
        )
        for name, board in boards.items()
    }


def _requires() -> list[dict[str, Any]]:
    return [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": GRAFANA},
        {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
    ]
