# SPDX-License-Identifier: Apache-2.0
"""The HTTP side, against the real server: what it serves, and whom it withstands."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import io
import json
import logging
import re
import socket
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import sha256
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from xdpscope import log
from xdpscope.errors import XdpscopeError
from xdpscope.web.app import create_app
from xdpscope.web.limits import Limits
from xdpscope.web.server import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator

PATHS = ("/", "/metrics", "/healthz", "/readyz", "/api/v1/programs", "/api/v1/flows")
HOSTILE = '<script>alert("x")</script>\x1b[2J\u202e\udc80'


class FakeSource:
    """Counts what runs at the same time, and holds a collection while ``gate`` is closed."""

    def __init__(self, series: int = 100) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.series = series
        self.gate = threading.Event()
        self.gate.set()
        self.delay = 0.0
        self.collecting = self.peak = self.collected = 0
        self.failing: Exception | None = None
        self.is_ready = True
        self.listed: list[dict[str, object]] = []
        self._lock = threading.Lock()

    def describe(self) -> list[CounterMetricFamily]:
        return [CounterMetricFamily("xdp_packets", ""), CounterMetricFamily("xdp_bytes", "")]

    def collect(self) -> Iterator[CounterMetricFamily]:
        with self._lock:
            self.collecting += 1
            self.collected += 1
            self.peak = max(self.peak, self.collecting)
        try:
            assert self.gate.wait(10)
            time.sleep(self.delay)
            if self.failing:
                raise self.failing
            for family in self.describe():
                family._labelnames = ("interface",)
                for n in range(self.series):
                    family.add_metric([f"eth{n}"], n)
                yield family
        finally:
            with self._lock:
                self.collecting -= 1

    def ready(self) -> bool:
        return self.is_ready

    def programs(self) -> list[dict[str, object]]:
        return self.listed

    def flows(
        self, limit: int, program: str | None, verdict: str | None
    ) -> list[dict[str, object]]:
        return [{"limit": limit, "program": program, "verdict": verdict}]

    def status(self) -> dict[str, object]:
        return {"kernel": "6.12", "host_name": HOSTILE}


class Served:
    """A server in a thread; what a test wants of its port."""

    def __init__(self, source: FakeSource, limits: Limits, host: str = "127.0.0.1") -> None:
        self.source = source
        self.host = host
        self.web = WebServer(create_app(source, limits), WebServer.bind(host, 0), limits)
        self.port = self.web.port
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self.web.serve())

    def stop(self) -> float:
        """Stop, and say how long that took, in seconds."""
        begun = time.monotonic()
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self.web.stop(), self.loop).result(5)
        took = time.monotonic() - begun
        self._thread.join(5)
        assert not self._thread.is_alive()
        return took

    def get(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=10)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def connect(self, sent: bytes = b"", receive_buffer: int = 0) -> socket.socket:
        client = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(10)
        client.connect((self.host, self.port))
        client.sendall(sent)
        return client

    def closed_after(self, client: socket.socket) -> float:
        """How long until the server closes a connection, in seconds."""
        begun = time.monotonic()
        received(client)
        return time.monotonic() - begun


def received(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def until(condition: object, seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "did not come to pass in time"
        time.sleep(0.005)


@contextmanager
def serving(
    source: FakeSource | None = None, limits: Limits | None = None, host: str = "127.0.0.1"
) -> Iterator[Served]:
    served = Served(source or FakeSource(), limits or Limits(), host)
    try:
        yield served
    finally:
        served.source.gate.set()
        served.stop()


@pytest.fixture(scope="module")
def plain() -> Iterator[Served]:
    """One server with the real limits, for tests that leave no trace in it."""
    with serving() as served:
        yield served


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What is logged at level info, a JSON record a line."""
    handlers, level = logging.root.handlers[:], logging.root.level
    stream = io.StringIO()
    log.configure("info", "json", stream)
    yield stream
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


# --- what is served -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_routes_answer_get_and_head_alike(plain: Served, path: str) -> None:
    status, headers, body = plain.get(path)
    head_status, head_headers, head_body = plain.get(path, "HEAD")
    assert (status, head_status, head_body) == (200, 200, b"")
    assert int(headers["content-length"]) == len(body) > 0
    del headers["date"], head_headers["date"]
    assert headers.items() == head_headers.items()


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        *((path, "POST", 405) for path in PATHS),
        ("/metrics", "OPTIONS", 405),
        ("/metrics", "DELETE", 405),
        ("/metrics", "BREW", 405),
        ("/metrics/", "GET", 404),
        ("/metricsx", "GET", 404),
        ("//metrics", "GET", 404),
        ("/METRICS", "GET", 404),
        ("/favicon.ico", "HEAD", 404),
        ("/api/v1", "GET", 404),
        ("/../etc/passwd", "GET", 404),
        ("/%2e%2e/metrics%00", "GET", 404),
        ("/nowhere", "POST", 404),
    ],
)
def test_all_else_is_refused_briefly(plain: Served, path: str, method: str, expected: int) -> None:
    status, headers, body = plain.get(path, method)
    assert status == expected
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["allow"] == ("GET, HEAD" if expected == 405 else None)
    assert len(body) < 40
    assert_secure(headers)


def assert_secure(headers: http.client.HTTPMessage) -> None:
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["server"] is None


def test_readiness_follows_the_source(plain: Served) -> None:
    plain.source.is_ready = False
    try:
        assert plain.get("/readyz")[0] == 503
        assert plain.get("/healthz")[0] == 200
    finally:
        plain.source.is_ready = True
    assert plain.get("/readyz")[0] == 200


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
            "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.4",
            "application/openmetrics-text; version=1.0.0",
        ),
        # A version nobody speaks, and none at all: the oldest format serves everyone.
        ("application/openmetrics-text;version=9.9.9", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=a.b", "text/plain; version=0.0.4; charset=utf-8"),
        (";;;=,,;version==", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_metrics_in_the_format_asked_for(
    plain: Served, accept: str | None, content_type: str
) -> None:
    status, headers, body = plain.get("/metrics", **({"accept": accept} if accept else {}))
    assert status == 200
    assert headers["content-type"].startswith(content_type)
    assert headers["vary"] == "Accept, Accept-Encoding"
    assert_secure(headers)
    openmetrics = content_type.startswith("application/openmetrics")
    assert body.endswith(b"# EOF\n") is openmetrics
    families = list((parse_openmetrics if openmetrics else parse_text)(body.decode()))
    assert [len(family.samples) for family in families] == [100, 100]


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("identity", False),
        ("xgzip", False),
    ],
)
def test_compression_is_as_accepted(plain: Served, accepted: str, compressed: bool) -> None:
    status, headers, body = plain.get("/metrics", accept_encoding=accepted)
    assert (status, headers["content-encoding"]) == (200, "gzip" if compressed else None)
    assert len(list(parse_text((gzip.decompress(body) if compressed else body).decode()))) == 2
    small = plain.get("/metrics?name[]=nothing", accept_encoding=accepted)
    assert (small[1]["content-encoding"], small[2]) == (None, b"")


def test_metrics_may_be_picked_by_name(plain: Served) -> None:
    body = plain.get("/metrics?name[]=xdp_bytes_total&name[]=none")[2].decode()
    assert [family.name for family in parse_text(body)] == ["xdp_bytes"]


def test_programs_as_json() -> None:
    source = FakeSource()
    source.listed = [{"id": 7, "program": HOSTILE, "attachments": [{"interface": "eth0"}]}]
    with serving(source) as served:
        status, headers, body = served.get("/api/v1/programs")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body) == source.listed


class Outline(HTMLParser):
    """The tags of a page, and the text of its cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.style = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag in ("td", "dd", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["style"] and not self.style:
            self.style = data
        elif self.tags[-1:] in (["td"], ["dd"], ["th"], ["br"]) and data.strip():
            self.cells[-1] += data


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", {"limit": 100, "program": None, "verdict": None}),
        ("?limit=7&verdict=drop", {"limit": 7, "program": None, "verdict": "drop"}),
        ("?program=xdp_%2A&other=1", {"limit": 100, "program": "xdp_*", "verdict": None}),
    ],
)
def test_flows_as_json(plain: Served, query: str, asked: dict[str, object]) -> None:
    status, headers, body = plain.get(f"/api/v1/flows{query}")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == [asked]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=", "limit must be a whole number"),
        ("limit=0", "limit must be a whole number"),
        ("limit=-1", "limit must be a whole number"),
        ("limit=9999999999", "limit must be a whole number"),
        ("limit=\u0663", "limit must be a whole number"),
        ("verdict=dropped", "verdict must be one of aborted, drop, pass"),
    ],
)
def test_flows_that_cannot_be_asked_for(plain: Served, query: str, said: str) -> None:
    status, _, body = plain.get(f"/api/v1/flows?{quote(query, safe='=')}")
    assert status == 400
    assert body.decode().startswith(said)


def test_the_page_shows_what_it_is_given_and_runs_nothing() -> None:
    source = FakeSource()
    source.listed = [
        {"id": 7, "program": HOSTILE, "attachments": ["eth0 native", {"a": "eth1", "b": None}]},
        {"id": 8, "traced": True, "attach_type": None},
    ]
    with serving(source) as served:
        _, headers, body = served.get("/")
        source.listed = []
        empty = served.get("/")[2].decode()
    outline = Outline(body.decode())
    safe = '<script>alert("x")</script>\\x1b[2J\\u202e\\udc80'
    assert outline.cells == [
        *("6.12", safe, "id", "program", "attachments", "traced", "attach type"),
        *("7", safe, "eth0 nativeeth1", "", ""),
        *("8", "", "", "yes", ""),
    ]
    assert not {"script", "img", "link", "iframe"} & set(outline.tags)
    assert {"main", "h1", "caption", "nav"} <= set(outline.tags)
    digest = b64encode(sha256(outline.style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in headers["content-security-policy"]
    assert {"/metrics", "/api/v1/programs", "/healthz"} <= set(re.findall(r'href="(.*?)"', empty))
    assert "No XDP program" in empty


def test_a_failing_source_is_a_500_and_a_log_entry(logged: io.StringIO) -> None:
    with serving() as served:
        for error in (RuntimeError("broken"), StopIteration()):
            served.source.failing = error
            logged.seek(0)
            logged.truncate()
            status, headers, body = served.get("/metrics")
            assert (status, body) == (500, b"internal error, see the agent's log\n")
            assert_secure(headers)
            (record,) = map(json.loads, logged.getvalue().splitlines())
            assert (record["event"], record["path"]) == ("request failed", "/metrics")
            assert type(error).__name__ in record["exception"]
        served.source.failing = None
        assert served.get("/metrics")[0] == 200


# --- many at once ---------------------------------------------------------------------------------


def test_concurrent_scrapes_are_bounded_complete_and_leave_the_loop_alone() -> None:
    with serving(limits=Limits(collections=2)) as served, ThreadPoolExecutor(12) as clients:
        served.source.gate.clear()
        scrapes = [clients.submit(served.get, "/metrics") for _ in range(12)]
        until(lambda: served.source.collecting == 2)
        begun = time.monotonic()
        assert all(served.get(path)[0] == 200 for path in PATHS if path != "/metrics")
        assert time.monotonic() - begun < 1
        served.source.gate.set()
        pages = {scrape.result()[2] for scrape in scrapes}
        assert len(pages) == 1
        assert pages.pop().count(b"\n") == 204
        assert served.source.peak == 2


def test_a_scraper_that_gave_up_costs_no_collection() -> None:
    with serving(limits=Limits(collections=1)) as served:
        served.source.gate.clear()
        first = served.connect(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: served.source.collected == 1)
        for _ in range(5):
            served.connect(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").close()
        last = served.connect(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        time.sleep(0.1)
        served.source.gate.set()
        assert received(last).startswith(b"HTTP/1.1 200")
        assert served.source.collected == 2
        first.close()


def test_requests_in_flight_are_bounded_but_probes_pass() -> None:
    with serving(limits=Limits(in_flight=2)) as served, ThreadPoolExecutor(2) as clients:
        silent = [served.connect() for _ in range(20)]
        served.source.gate.clear()
        scrapes = [clients.submit(served.get, "/metrics") for _ in range(2)]
        until(lambda: served.source.collecting == 2)
        status, headers, body = served.get("/")
        assert (status, body) == (503, b"too many requests in flight\n")
        assert headers["retry-after"] == "1"
        assert_secure(headers)
        assert served.get("/healthz")[0] == served.get("/readyz")[0] == 200
        served.source.gate.set()
        assert [scrape.result()[0] for scrape in scrapes] == [200, 200]
        assert served.get("/")[0] == 200
        for client in silent:
            client.close()


def test_silent_connections_do_not_slow_a_scrape(plain: Served) -> None:
    def scrape() -> float:
        begun = time.monotonic()
        assert plain.get("/metrics")[0] == 200
        return time.monotonic() - begun

    before = min(scrape() for _ in range(10))
    silent = [plain.connect(b"GET /" * (n % 2)) for n in range(200)]
    assert min(scrape() for _ in range(10)) < before * 2 + 0.01
    for client in silent:
        client.close()


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    with serving(limits=Limits(connections=10)) as served:
        kept = [served.connect() for _ in range(10)]
        assert served.closed_after(served.connect()) < 1
        kept.pop().close()
        until(lambda: received_status(served) == 200)
        for client in kept:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert received(client).startswith(b"HTTP/1.1 200")


def received_status(served: Served) -> int:
    try:
        return served.get("/healthz")[0]
    except (http.client.HTTPException, ConnectionError):
        return 0


# --- clients that misbehave -----------------------------------------------------------------------

QUICK = Limits(head_timeout=0.4, stall_timeout=0.4)


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\n",
        # A whole request first: its connection is idle, until a second one is begun.
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz",
        # A body announced for a request that is answered without it.
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12",
    ],
)
def test_a_head_must_be_complete_in_time(begun: bytes) -> None:
    with serving(limits=QUICK) as served:
        assert 0.3 < served.closed_after(served.connect(begun)) < 2
        # A byte now and then does not help.
        client = served.connect(begun)
        began = time.monotonic()
        with pytest.raises(OSError), client:
            while time.monotonic() - began < 3:
                client.sendall(b"x")
                time.sleep(0.05)
        assert 0.3 < time.monotonic() - began < 2


def test_a_body_that_comes_after_its_answer_leaves_no_connection_without_a_timeout() -> None:
    with serving(limits=QUICK) as served:
        client = served.connect(b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12")
        assert client.recv(65536).startswith(b"HTTP/1.1 405")
        client.sendall(b"345")
        assert served.closed_after(client) < 2


def test_an_idle_connection_outlives_the_head_timeout_and_ends_with_keep_alive() -> None:
    limits = Limits(head_timeout=0.2, keep_alive=1)
    with serving(limits=limits) as served, served.connect() as client:
        for _ in range(3):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok\n"):
                answer += client.recv(65536)
            time.sleep(0.4)
        assert 0.4 < served.closed_after(client) < 1.5


def test_a_collection_may_take_longer_than_the_timeouts() -> None:
    with serving(limits=QUICK) as served:
        served.source.delay = 1.0
        assert served.get("/metrics")[0] == 200


BIG = 12_000_000
ASK = b"GET /api/v1/programs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_a_client_that_takes_nothing_is_dropped_and_a_slow_one_served() -> None:
    source = FakeSource()
    source.listed = [{"big": "x" * BIG}]
    with serving(source, Limits(stall_timeout=1.0)) as served:
        stuck = served.connect(ASK, receive_buffer=4096)
        slow = served.connect(ASK, receive_buffer=65536)
        taken = 0
        begun = time.monotonic()
        # So slow that the kernel, with megabytes of its own, takes nothing more from the server.
        while time.monotonic() - begun < 2:
            taken += len(slow.recv(4096))
            time.sleep(0.01)
        assert taken + len(received(slow)) > BIG
        assert len(received(stuck)) < BIG


def test_a_client_that_takes_nothing_stays_a_request_in_flight() -> None:
    source = FakeSource()
    source.listed = [{"big": "x" * BIG}]
    with serving(source, Limits(in_flight=1)) as served:
        with served.connect(ASK, receive_buffer=4096):
            until(lambda: served.get("/")[0] == 503)
        until(lambda: served.get("/")[0] == 200)


@pytest.mark.parametrize("piecewise", [False, True])
def test_an_oversized_head_is_refused(plain: Served, piecewise: bool) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n"
    client = plain.connect()
    try:
        for at in range(0, len(head), 1000 if piecewise else len(head)):
            client.sendall(head[at : at + (1000 if piecewise else len(head))])
    except (BrokenPipeError, ConnectionResetError):
        pass
    # The answer may be lost: the kernel resets a connection closed with bytes unread.
    assert received(client)[:12] in (b"HTTP/1.1 400", b"")
    fits = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: " + b"x" * 15_000
    assert received(plain.connect(fits + b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /m\xe9trics HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_garbage_is_refused_without_a_word_in_the_log(
    plain: Served, garbage: bytes, logged: io.StringIO
) -> None:
    client = plain.connect(garbage)
    client.settimeout(2)
    answer = received(client)
    assert answer == b"" or re.match(rb"HTTP/1\.1 (400|404|405) ", answer)
    assert plain.get("/healthz")[0] == 200
    assert logged.getvalue() == ""


def test_what_is_no_plain_request_but_legal_is_served(plain: Served) -> None:
    for request in (
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\n"
        b"Upgrade: websocket\r\n\r\n",
    ):
        assert received(plain.connect(request)).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(plain: Served) -> None:
    paths = ["healthz", "nowhere", "metrics", "readyz", "", "healthz"]
    requests = "".join(f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths)
    last = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for _ in range(3):
        answer = received(plain.connect((requests + last).encode()))
        statuses = re.findall(rb"HTTP/1\.1 (\d+)", answer)
        assert statuses == [b"200", b"404", b"200", b"200", b"200", b"200", b"200"]
        assert answer.count(b'interface="eth99"') == 2


# --- start and stop -------------------------------------------------------------------------------


def test_it_stops_in_time_whatever_clients_do(logged: io.StringIO) -> None:
    source = FakeSource()
    source.listed = [{"big": "x" * BIG}]
    with serving(source) as served:
        idle = served.connect(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        clients = [idle, served.connect(), served.connect(b"GET /")]
        clients.append(served.connect(ASK, receive_buffer=4096))
        served.source.gate.clear()
        clients += [served.connect(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(4)]
        until(lambda: served.source.collecting == 2)
        assert served.stop() < 0.4
        for client in clients:
            received(client)
        with pytest.raises(ConnectionRefusedError):
            served.connect()
        assert logged.getvalue() == ""


def test_a_request_in_flight_may_finish_while_it_stops() -> None:
    with serving(limits=Limits(stop_grace=2)) as served, ThreadPoolExecutor(1) as clients:
        served.source.delay = 0.3
        scrape = clients.submit(served.get, "/metrics")
        until(lambda: served.source.collecting == 1)
        assert served.stop() < 1
        assert scrape.result()[0] == 200


def test_stopping_early_twice_or_by_cancelling() -> None:
    async def main() -> None:
        app = create_app(FakeSource())
        early = WebServer(app, WebServer.bind("127.0.0.1", 0))
        await early.stop()
        await asyncio.wait_for(early.serve(), 1)
        twice = WebServer(app, WebServer.bind("127.0.0.1", 0))
        serving = asyncio.create_task(twice.serve())
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(twice.stop(), twice.stop(), serving), 1)
        cancelled = WebServer(app, WebServer.bind("127.0.0.1", 0))
        port = cancelled.port
        serving = asyncio.create_task(cancelled.serve())
        await asyncio.sleep(0.05)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

    asyncio.run(main())


def test_an_address_that_cannot_be_had_is_explained() -> None:
    with closing(WebServer.bind("127.0.0.1", 0)) as taken:
        with pytest.raises(XdpscopeError, match=r"Address already in use$") as caught:
            WebServer.bind("127.0.0.1", taken.getsockname()[1])
        assert "another port" in str(caught.value.hint)
    with pytest.raises(XdpscopeError, match=r"cannot listen on 192\.0\.2\.1:0") as caught:
        WebServer.bind("192.0.2.1", 0)
    assert "no interface" in str(caught.value.hint)
    with pytest.raises(XdpscopeError, match=r"cannot listen on no-such-host\.invalid:0") as caught:
        WebServer.bind("no-such-host.invalid", 0)
    assert "name" in str(caught.value.hint)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6 loopback address")
def test_ipv6_and_every_address() -> None:
    with serving(host="::1") as served:
        assert served.get("/healthz")[0] == 200
    for host in ("", "::"):
        with closing(WebServer.bind(host, 0)) as listener:
            for address in ("127.0.0.1", "::1"):
                socket.create_connection((address, listener.getsockname()[1])).close()
