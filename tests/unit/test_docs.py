# SPDX-License-Identifier: Apache-2.0
"""The documentation: what is generated is current, and every link and anchor leads somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from docs.generate import outdated

ROOT = Path(__file__).resolve().parents[2]


def test_generated_pages_are_current() -> None:
    assert outdated() == [], "python docs/generate.py --write"


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


def test_links_of_readme_lead_to_files() -> None:
    """mkdocs does not know it."""
    for page in ("README.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text()):
            assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_address_of_the_site_is_the_same_everywhere() -> None:
    alerts = yaml.safe_load((ROOT / "config/prometheus/alerts.yml").read_text())
    urls = {
        rule["annotations"]["runbook_url"].partition("/runbook/")[0]
        for group in alerts["groups"]
        for rule in group["rules"]
    }
    site = re.search(r"^site_url: (.*)/$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert site and urls == {site[1]}
