# SPDX-License-Identifier: Apache-2.0
"""The documentation: what is generated is current, and every link and anchor leads somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

from docs.generate import outdated

from xdpscope import bpf
from xdpscope.attach.reason import Reason
from xdpscope.counters.records import REASONS
from xdpscope.discovery.model import Mode, Role
from xdpscope.libbpf import Object

ROOT = Path(__file__).resolve().parents[2]


def test_generated_pages_are_current() -> None:
    assert outdated() == [], "python -m docs.generate --write"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """That is with no page left out, no link or anchor dead, no file missing."""
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert build.returncode == 0, build.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        # Scripts, styles and pictures: what a reader's browser would fetch by itself.
        fetched = re.findall(
            r"<(?:script|img|link rel=\"stylesheet\")[^>]*(?:src|href)=\"([^\"]*)", page.read_text()
        )
        assert fetched
        assert not [url for url in fetched if "//" in url]


def table(page: str, heading: str) -> list[str]:
    """Return the first column of the table below a heading."""
    section = (ROOT / "docs" / page).read_text().partition(f"\n## {heading}\n")[2]
    return re.findall(r"^\| `([^`]*)` \|", section.partition("\n## ")[0], re.MULTILINE)


def test_every_value_of_a_label_is_explained() -> None:
    assert table("metrics.md", "Why a program is not traced") == list(Reason)
    assert set(table("metrics.md", "Why a packet is in no flow")) == set(REASONS)
    labels = (ROOT / "docs" / "metrics.md").read_text().partition("## Labels")[2]
    for value in (*Role, *Mode):
        assert f"`{value}`" in labels


def test_what_is_said_of_the_log_is_what_the_agent_logs() -> None:
    source = "".join(path.read_text() for path in (ROOT / "agent").rglob("*.py"))
    events = table("troubleshooting.md", "Warnings in the log")
    assert len(events) > 5
    for event in events:
        assert f'"{event}"' in source, event


def test_links_of_readme_lead_to_files() -> None:
    """mkdocs does not know it."""
    for page in ("README.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
            assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_formula_of_memory_has_the_sizes_of_the_records() -> None:
    with Object(bpf.path_of("flows")) as flows:
        program, device = (
            f"{flows.btf.struct(name).itemsize:,}" for name in ("target_counts", "device_counts")
        )
    cost = (ROOT / "docs" / "cost.md").read_text()
    assert f"272 + {program} a possible CPU" in cost
    assert f"100 + {device} a possible CPU" in cost
    sizing = (ROOT / "docs" / "sizing.md").read_text()
    assert f"{program} bytes for each possible CPU" in sizing
    assert f"{device} bytes for each possible CPU" in sizing
