# SPDX-License-Identifier: Apache-2.0
"""Generate the texts of the dashboards' files."""

import json
import re
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.agent import agent
from dashboards.overview import overview
from dashboards.program import program

FOLDER: Final = Path(__file__).parents[1] / "dashboards" / "grafana" / "dashboards"
"""The folder of the files. It has dashboards only, so that Grafana can provision it."""

GRAFANA: Final = "10.4.0"
"""The oldest Grafana with all features that the dashboards use. Grafana's import shows it."""

_SCHEMA: Final = 39
"""The schema of that Grafana. A newer Grafana migrates a dashboard from this schema. An older
Grafana would not migrate it back."""

_PANEL: Final = re.compile(r"/d/([a-z-]+)\?viewPanel=<([^>]+)>")


def generated() -> dict[str, str]:
    """Return the text of each file by its name."""
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
