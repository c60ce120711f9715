# SPDX-License-Identifier: Apache-2.0
"""The page, as it comes and as a real browser shows it."""

from __future__ import annotations

import re
import shutil
from base64 import b64encode
from contextlib import contextmanager
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.unit.scene import Scene, busy_host, flow, program
from tests.unit.served import HOSTILE, Served, assert_secure, serving

from xdpscope.attach.reason import Reason
from xdpscope.config import Config
from xdpscope.counters.totals import Tally
from xdpscope.discovery.model import Attachment, Mode, Part, Role, XdpProgram
from xdpscope.probes import RunningProbes
from xdpscope.probes.flows.query import FlowQuery
from xdpscope.probes.latency import LatencyProbe
from xdpscope.probes.latency.report import Latency
from xdpscope.probes.latency.times import BOUNDS, Times
from xdpscope.probes.verdicts import VerdictsProbe
from xdpscope.program_types.xdp import VERDICTS
from xdpscope.report import Count, ProgramStatus
from xdpscope.scans import ScanRecord
from xdpscope.source import AgentSource
from xdpscope.web.page import render

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

ALERTS = Path(__file__).parents[2] / "config" / "prometheus" / "alerts.yml"
CHROMIUM = shutil.which("chromium")

in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is missing: make setup fetches it where there is one"
)

SAFE = '<script>alert("x")</script>\\x1b[2J\\u202e\\udc80'


class Parsed(HTMLParser):
    """The tags of a page, its text, and what is within style and script."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.inline: dict[str, str] = {"style": "", "script": ""}
        self.links: list[str] = []
        self._within = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._within = tag
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        assert not any(name == "style" or name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in self.inline:
            self.inline[self._within] += data
        else:
            self.text += data


def hostile() -> Scene:
    scene = Scene(
        [
            program(
                7,
                HOSTILE,
                attachments=[{"netns": HOSTILE, "interface": HOSTILE, "mode": "native"}],
                chain=[{"dispatcher_id": 8, "position": None}],
            ),
            program(8, HOSTILE, "dispatcher", traceable=False, reason=HOSTILE),
        ],
        [flow("drop", HOSTILE, 1, 2.0, program=HOSTILE, interface=HOSTILE)],
    )
    scene.facts = {"Host": HOSTILE}
    return scene


def test_the_page_is_complete_and_names_are_text() -> None:
    with serving(hostile()) as served:
        _, headers, body = served.get("/")
    page = Parsed(body)
    assert page.text.count(SAFE) == 11
    assert page.tags.count("script") == 1
    assert not {"img", "iframe", "object", "form"} & set(page.tags)
    for kind, content in page.inline.items():
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert_secure(headers)
    assert {"/metrics", "/api/v1/programs", "/healthz"} <= set(page.links)
    assert all(re.match(r"[/?#]|data:,$", link) for link in page.links)


def test_the_runbook_has_an_anchor_for_each_alert() -> None:
    """Where the alerts lead by default, whatever the agent is busy with."""
    with serving(hostile()) as served:
        status, headers, body = served.get("/?runbook")
        assert "?runbook" in Parsed(served.get("/")[2]).links
    assert status == 200
    assert_secure(headers)
    page = Parsed(body)
    assert not {"script", "img", "iframe", "object", "form"} & set(page.tags)
    digest = b64encode(sha256(page.inline["style"].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in headers["content-security-policy"]
    rules = yaml.safe_load(ALERTS.read_text())
    links = [
        rule["annotations"]["runbook_url"]
        for group in rules["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    anchors = {f"/?runbook#{each}" for each in re.findall(r'<h2 id="(\w+)"', body.decode())}
    own = {link.replace("{{ end }}", "")[link.index("/?runbook") :] for link in links}
    assert anchors == own
    assert all(f"/?runbook{link}" in anchors for link in page.links if link.startswith("#"))


def test_the_page_of_an_empty_host_and_of_one_verdict() -> None:
    with serving() as served:
        assert b"No XDP program is loaded" in served.get("/")[2]
    with serving(busy_host()) as served:
        shown = Parsed(served.get("/?verdict=drop")[2]).text
        assert "198.51.100.7:40000" in shown and "203.0.113.80:443" not in shown
        assert served.get("/?verdict=<script>")[0] == 400


def test_the_page_of_the_agent_is_made_of_what_it_observes() -> None:
    tally = Tally()
    tally.counts[0, VERDICTS.index("drop")] = 1234, 5678
    program = XdpProgram(42, "0" * 16, "cut", "entry_function", 3, True, "xdp")
    at = Attachment("host", "eth0", Mode.NATIVE)
    status = ProgramStatus(program, Part(Role.ROOT), (at,), None, 9, None)
    observer = SimpleNamespace(
        scanned=True,
        statuses=lambda: [status],
        attach_failures=lambda: {Reason.BUSY: 3},
    )

    class Verdicts(VerdictsProbe):
        def counts(self, since: float | None = None) -> list[Count]:
            return [Count(program, ("host", "eth0"), tally)]

    class Latencies(LatencyProbe):
        def latencies(self, since: float | None = None) -> list[Latency]:
            return [Latency(program, Times((0, 0, 100, *[0] * (len(BOUNDS) - 2))))]

    scan_thread = SimpleNamespace(
        observer=observer,
        probes=RunningProbes([Verdicts(), Latencies()]),
        scans=ScanRecord(),
        config=Config(),
    )
    with scan_thread.scans.scan():
        pass
    source = AgentSource(scan_thread)
    (listed,) = source.programs()
    assert listed["counts"] == [
        {
            "netns": "host",
            "interface": "eth0",
            "packets": {"aborted": 0, "drop": 1234, "pass": 0, "tx": 0, "redirect": 0}
            | {"unknown": 0},
            "bytes": {"aborted": 0, "drop": 5678, "pass": 0, "tx": 0, "redirect": 0, "unknown": 0},
        }
    ]
    assert listed["latency"] == {
        "packets": 100,
        "p50_seconds": pytest.approx(48e-9),
        "p99_seconds": pytest.approx(63.68e-9),
    }
    shown = Parsed(render([listed], source.flows(FlowQuery())["flows"], source.status())).text
    assert all(part in shown for part in ("entry_function", "eth0", "1,234", "1 of 1", "0 s ago"))
    assert all(part in shown for part in ("48 ns", "63.7 ns", "Packets measured"))


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def view(browser: Browser) -> Iterator[Page]:
    """Yield a browser's page, in which nothing goes wrong."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(100_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    yield page
    page.close()
    assert complaints == []


def address(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}/"


@contextmanager
def showing(view: Page, scene: Scene) -> Iterator[None]:
    """Have the page show a scene, and nothing go elsewhere."""
    asked: set[str] = set()
    view.on("request", lambda request: asked.add(request.url))
    with serving(scene) as served:
        view.goto(address(served))
        yield
        assert all(url.startswith((address(served), "data:,")) for url in asked), asked
        view.goto("about:blank")


@in_browser
def test_numbers_and_charts_follow_the_packets(view: Page) -> None:
    scene = busy_host()
    with showing(view, scene):
        row = view.locator("#p41")
        before = row.locator("td.drop data").text_content()
        # As the scene has it: 8,400 a second, and half as much more or less.
        rate = row.locator("td.drop b")
        view.wait_for_selector("#p41 svg path.drop[d^=M]", state="attached")
        shown = float((rate.text_content() or "").removesuffix("/s").replace(",", ""))
        assert 0.4 * 8400 < shown < 1.6 * 8400
        assert row.locator("td.drop data").text_content() != before
        assert row.locator("td.tx b").text_content() == "0/s"
        assert "now" in (row.locator("svg").get_attribute("aria-label") or "")
        # One that appears, one that goes.
        scene.known = [*scene.known[:1], *scene.known[2:], program(99, "latecomer")]
        view.wait_for_selector("#p99")
        assert view.locator("#p41").count() == 0
        assert view.locator("#state").text_content() == "live"


@in_browser
def test_what_a_reader_opened_focused_or_stopped_stays_so(view: Page) -> None:
    scene = busy_host()
    with showing(view, scene):
        # By keyboard alone: to the first thing within the table of programs, which is its region.
        view.keyboard.press("Tab")
        assert view.evaluate("document.activeElement.textContent") == "Metrics"
        assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        while view.evaluate("document.activeElement.tagName") != "SUMMARY":
            view.keyboard.press("Tab")
        assert view.locator("text=veth11").is_hidden()
        view.keyboard.press("Enter")
        assert view.locator("text=veth11").is_visible()
        scene.facts = {"Host": "renamed"}
        view.wait_for_selector("text=renamed")
        assert view.locator("text=veth11").is_visible()
        assert view.evaluate("document.activeElement.tagName") == "SUMMARY"

        view.get_by_role("button", name="Pause").click()
        assert view.get_by_role("status").text_content() == "paused"
        scene.facts = {"Host": "unseen"}
        view.wait_for_timeout(3000)
        assert view.locator("text=unseen").count() == 0
        view.get_by_role("button", name="Resume").click()
        view.wait_for_selector("text=unseen")

        view.get_by_role("link", name="redirect", exact=True).click()
        flows = view.get_by_role("table", name="Flows").get_by_role("row")
        assert flows.count() == 2
        assert "203.0.113.80:443" in (flows.nth(1).text_content() or "")


@in_browser
def test_a_hostile_name_runs_nothing(view: Page) -> None:
    scene = hostile()
    with showing(view, scene):
        assert view.locator("#p7 .name").first.text_content() == SAFE
        # And likewise if it comes later, through the script.
        name = "<img src=x onerror=alert(1)>\"'><svg onload=alert(2)>"
        scene.known = [program(7, name), program(9, name)]
        view.wait_for_selector("#p9")
        view.wait_for_timeout(500)
        assert view.locator("#p9 .name").text_content() == name
        assert view.locator("#p7 .name").text_content() == name
        assert view.locator("img, main svg[onload]").count() == 0


@in_browser
def test_it_says_when_there_is_no_news(browser: Browser) -> None:
    page = browser.new_page()
    with serving(busy_host()) as served:
        page.goto(address(served))
    page.wait_for_selector("#state:has-text('no news: the agent does not answer')")
    assert page.locator("#p41").is_visible()
    page.close()


@in_browser
def test_without_script_and_on_a_phone(browser: Browser) -> None:
    with serving(busy_host()) as served:
        plain = browser.new_page(java_script_enabled=False)
        plain.goto(address(served))
        assert "12 interfaces" in plain.locator("#p52").inner_text()
        assert plain.locator("#p41 td.drop").inner_text().replace(",", "").isdigit()
        assert plain.locator("button").is_hidden() and plain.locator(".chart").first.is_hidden()
        plain.close()

        phone = browser.new_page(viewport={"width": 360, "height": 740})
        phone.goto(address(served))
        phone.wait_for_selector("#p41 svg")
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not phone.evaluate(wide)
        cut = "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
        assert not phone.evaluate(cut)
        # Still a table to those who hear it.
        assert phone.get_by_role("table", name="Programs").get_by_role("row").count() > 5
        phone.close()
