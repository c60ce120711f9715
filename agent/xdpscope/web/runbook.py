# SPDX-License-Identifier: Apache-2.0
"""The runbook at ``/?runbook``: what each alert means, and what to do. Alerts link to its anchors.

The agent carries it, so that the link works where nobody serves the documentation. docs/generate.py
writes runbook.html from docs/runbook.md.
"""

from pathlib import Path
from typing import Final

from xdpscope.web.page import STYLE

__all__ = ["RUNBOOK"]

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>xdpscope runbook</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header>
<h1>xdpscope runbook</h1>
<nav aria-label="Pages">
<ul>
<li><a href="?">Programs and flows</a></li>
</ul>
</nav>
</header>
<main class="prose">
{content}
</main>
</body>
</html>
"""

RUNBOOK: Final = _PAGE.format(
    style=STYLE,
    content=Path(__file__).with_name("runbook.html").read_text(encoding="utf-8"),
).encode()
"""The whole page, in UTF-8."""
