# SPDX-License-Identifier: Apache-2.0
"""The documentation's site: what a reader types into its search, in a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is missing: make setup fetches it where there is one"
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Yield the site's first page in a browser."""
    from playwright.sync_api import sync_playwright

    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=110)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server, sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        yield page
        browser.close()
        server.shutdown()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("EPERM", "troubleshooting/"),
        ("packets_total", "metrics/"),
        ("xdp_packets_total", "metrics/"),
        ("10091", "troubleshooting/"),
        ("list is empty", "troubleshooting/"),
        ("target down", "troubleshooting/"),
    ],
)
def test_search_finds(page: Page, words: str, found: str) -> None:
    query = page.locator("[data-md-component=search-query]")
    query.focus()
    query.fill("")
    query.press_sequentially(words)
    links = page.locator(".md-search-result__item a")

    def first_pages() -> list[str]:
        """Return all results, read together: they change with each letter."""
        shown = links.evaluate_all("found => found.map(each => each.getAttribute('href') || '')")
        return list(dict.fromkeys(href.partition("#")[0] for href in shown))[:3]

    wait_for(lambda: any(each.endswith(found) for each in first_pages()), patience=60)
