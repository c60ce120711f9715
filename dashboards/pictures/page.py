# SPDX-License-Identifier: Apache-2.0
"""Takes pictures of a running agent's page: light, dark, and on a phone.

python -m dashboards.pictures.page http://127.0.0.1:10091 --output docs/pictures
"""

import argparse
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# (name, width and height, colours, all of the page or what is in view)
VIEWS = (
    ("page", (1200, 900), "light", True),
    ("page-dark", (1200, 900), "dark", True),
    ("page-phone", (390, 1500), "light", False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", help="of the agent")
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--seconds", type=float, default=100, help="how long charts shall grow")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        pages = []
        for _, (width, height), scheme, _ in VIEWS:
            context = browser.new_context(
                viewport={"width": width, "height": height},
                color_scheme=scheme,  # type: ignore[arg-type]  # one of the names it takes
            )
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.goto(options.address)
            pages.append(page)
        time.sleep(options.seconds)
        for page, (name, _, _, full) in zip(pages, VIEWS, strict=True):
            page.screenshot(path=options.output / f"{name}.png", full_page=full)
        browser.close()


if __name__ == "__main__":
    main()
