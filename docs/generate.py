# SPDX-License-Identifier: Apache-2.0
"""Writes the parts of the documentation that the code knows better.

    python -m docs.generate            # says which pages are not current
    python -m docs.generate --write    # makes them so

Each page has such a part between two comments; all else on it is written by hand. The agent's
runbook, and the files of docs/commands.py, are written as a whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml
from docs.commands import FILES, SHARE

from xdpscope._schema import declared
from xdpscope.config import Config
from xdpscope.scanner import ScanThread
from xdpscope.source import AgentSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

PAGES = Path(__file__).parent
ALERTS = PAGES.parent / "config" / "prometheus" / "alerts.yml"
RUNBOOK = PAGES.parent / "agent" / "xdpscope" / "web" / "runbook.html"


class _EmptyHost:
    """Stands for the observer: no programs, and no failures."""

    watches_devices = True

    def statuses(self) -> list[object]:
        return []

    def attach_failures(self) -> dict[object, int]:
        return {}


def families() -> list[Metric]:
    """Return every metric that an agent may serve, in the page's order."""
    scan_thread = ScanThread(Config())
    scan_thread.observer = cast("Any", _EmptyHost())
    found = list(AgentSource(scan_thread).registry.collect())
    failed = [
        sample.labels
        for family in found
        if family.name == "xdpscope_collector_success"
        for sample in family.samples
        if not sample.value
    ]
    if failed:
        raise SystemExit(f"cannot collect from an empty host: {failed}; teach {_EmptyHost} more")
    return found


def exposed_name(family: Metric) -> str:
    """Return the name that queries use."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def metrics() -> str:
    """Return a section for each metric."""
    return "\n".join(
        f"### `{exposed_name(family)}`\n\n"
        f"{family.type.capitalize()}. {_sentence(family.documentation)}\n\n"
        f"{_labels(family)}\n"
        for family in families()
    )


def _labels(family: Metric) -> str:
    # The library has no public name for it; it is the same in every family.
    names: Iterable[str] = getattr(family, "_labelnames", ())
    return f"Labels: {', '.join(f'`{name}`' for name in names)}." if names else "No labels."


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def configuration() -> str:
    """Return a table for each section, the topmost keys first."""
    return "\n".join(_section(Config, ""))


def _section(section: Any, path: str) -> Iterator[str]:
    inner: list[tuple[str, Any, str]] = []
    rows = []
    for each in dataclasses.fields(section):
        doc = each.metadata["doc"]
        if dataclasses.is_dataclass(each.type):
            inner.append((each.name, each.type, doc))
        else:
            restart = "yes" if each.metadata["restart"] else "no"
            rule = declared(each.type)
            may_be = rule.allowed.replace("|", "\\|") if rule else ""
            rows.append(
                f"| `{each.name}` | `{_yaml(each.default)}` | {may_be} | {restart} | {doc} |"
            )
    if rows:
        yield "| key | default | may be | restart | what for |"
        yield "|---|---|---|---|---|"
        yield from rows
        yield ""
    for name, below, doc in inner:
        yield f"{'#' * (3 + path.count('.'))} `{path}{name}`"
        yield ""
        yield doc
        yield ""
        yield from _section(below, f"{path}{name}.")


def _yaml(value: object) -> str:
    """Return a default as one writes it; only durations are floats."""
    if isinstance(value, float):
        return f"{value:g}s"
    if isinstance(value, bool | tuple | None):
        return json.dumps(value)
    return str(value)


def alerts() -> str:
    """Return a table of all alerts, each with its section of the runbook."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    thresholds = {rule["record"]: rule.get("labels", {}) for rule in rules if "record" in rule}

    def severity(rule: dict[str, Any]) -> str:
        """Return its own, or that of the threshold that has one."""
        taken = [thresholds[name] for name in thresholds if re.search(rf"{name}\b", rule["expr"])]
        (found,) = [each["severity"] for each in (rule.get("labels", {}), *taken) if each]
        return str(found)

    rows = [
        f"| [{rule['alert']}](runbook.md#{rule['alert'].lower()}) | {severity(rule)} "
        f"| {rule['for']} | {rule['annotations']['summary']} |"
        for rule in rules
        if "alert" in rule
    ]
    return "\n".join(["| alert | severity | after | summary |", "|---|---|---|---|", *rows, ""])


def runbook() -> str:
    """Return the runbook as HTML, for the agent's page, without parts for the whole site."""
    # Only those who write documentation have it installed.
    from markdown import markdown

    text = (PAGES / "runbook.md").read_text().partition("# Runbook\n")[2]
    text = re.sub(r"\[([^]]*)\]\((?!#)[^)]*\)", r"\1", text)
    plain = {"pymdownx.highlight": {"use_pygments": False}}
    extensions = ["tables", "toc", "pymdownx.superfences", "pymdownx.highlight"]
    return markdown(text, extensions=extensions, extension_configs=plain) + "\n"


PARTS = {"metrics.md": metrics, "configuration.md": configuration, "prometheus.md": alerts}


def renewed(page: str) -> str:
    """Return what a page should be."""
    text = (PAGES / page).read_text()
    begin, end = "<!-- begin, written by docs/generate.py -->\n", "<!-- end -->"
    part = re.compile(f"(?<={re.escape(begin)}).*(?={re.escape(end)})", re.DOTALL)
    written, count = part.subn(lambda _: f"\n{PARTS[page]()}\n", text)
    assert count == 1, f"{page} has no place for what is generated"  # noqa: S101
    return written


def outdated() -> list[str]:
    """Pages that are not what the code says."""
    found = [page for page in PARTS if renewed(page) != (PAGES / page).read_text()]
    return [*found, *(str(path) for path, text in _whole().items() if _now(path) != text)]


def _now(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _whole() -> dict[Path, str]:
    """Return the files that are generated as a whole."""
    return {RUNBOOK: runbook(), **{SHARE / name: made() for name, made in FILES.items()}}


def main() -> int:
    """Exit code 1 if a page is, or was, not current and is not written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the pages")
    write = parser.parse_args().write
    whole = {str(path): text for path, text in _whole().items()}
    for page in (pages := outdated()):
        if write and page in whole:
            Path(page).parent.mkdir(parents=True, exist_ok=True)
            Path(page).write_text(whole[page])
        elif write:
            (PAGES / page).write_text(renewed(page))
        print(f"{page}: {'written' if write else 'not current'}")
    return int(bool(pages) and not write)


if __name__ == "__main__":
    sys.exit(main())
