# SPDX-License-Identifier: Apache-2.0
"""The page for humans at ``/``: hand-written HTML, no script, readable without its style."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape

from xdpscope.log import printable

__all__ = ["CONTENT_SECURITY_POLICY", "render"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --line: #d0d7de;
  --link: #0550ae; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --paper: #0d1117; --line: #30363d; --link: #79c0ff; }
}
body { margin: 0 auto; padding: 1.5rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
h1 { margin: 0; font-size: 1.5rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; padding: 0; list-style: none; }
dl div { display: grid; grid-template-columns: minmax(8rem, 14rem) 1fr; gap: 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { padding: .5rem 0; text-align: start; font-weight: 600; }
th, td { padding: .375rem .75rem .375rem 0; border-bottom: 1px solid var(--line);
  text-align: start; vertical-align: top; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
"""


def _hash(text: str) -> str:
    """The source that a Content-Security-Policy names something inline by."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do; for all else that is served, more than it can."""

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>xdpscope</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>xdpscope</h1>
<nav aria-label="Endpoints">
<ul>
<li><a href="/metrics">Metrics</a></li>
<li><a href="/api/v1/programs">Programs as JSON</a></li>
<li><a href="/healthz">Health</a></li>
<li><a href="/readyz">Readiness</a></li>
</ul>
</nav>
</header>
<main>
{status}
{programs}
</main>
</body>
</html>
"""


def render(programs: Sequence[Mapping[str, object]], status: Mapping[str, object]) -> bytes:
    """The page, in UTF-8: whatever facts and programs hold, escaped, in the order given."""
    page = _PAGE.format(style=_STYLE, status=_facts(status), programs=_table(programs))
    return page.encode()


def _facts(status: Mapping[str, object]) -> str:
    rows = "\n".join(
        f"<div><dt>{_name(name)}</dt><dd>{_value(value)}</dd></div>"
        for name, value in status.items()
    )
    return f"<dl>\n{rows}\n</dl>" if rows else ""


def _table(programs: Sequence[Mapping[str, object]]) -> str:
    if not programs:
        return "<p>No XDP program is loaded on this host.</p>"
    # Each key any program has, in the order of first appearance.
    columns = dict.fromkeys(key for program in programs for key in program)
    head = "".join(f'<th scope="col">{_name(column)}</th>' for column in columns)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{_value(program.get(column))}</td>' for column in columns)}</tr>"
        for program in programs
    )
    # A region that scrolls must be reachable by keyboard, and then needs a name.
    return (
        '<div class="scroll" role="region" aria-labelledby="programs" tabindex="0">\n'
        f'<table>\n<caption id="programs">XDP programs ({len(programs)})</caption>\n'
        f"<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _name(key: str) -> str:
    return escape(printable(key.replace("_", " ")))


def _value(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case str():
            return escape(printable(value))
        case Mapping():
            return " ".join(filter(None, map(_value, value.values())))
        case Sequence():
            return "<br>".join(map(_value, value))
        case _:
            return escape(printable(str(value)))
