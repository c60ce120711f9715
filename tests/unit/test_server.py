# SPDX-License-Identifier: Apache-2.0
"""Whom the real server withstands: many at once, slow ones, garbage; how it starts and stops."""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.unit.served import PATHS, FakeSource, Served, assert_secure, received, serving
from tests.waiting import wait_for

from xdpscope.errors import XdpscopeError
from xdpscope.web.app import create_app
from xdpscope.web.limits import Limits
from xdpscope.web.server import WebServer

if TYPE_CHECKING:
    pass


def test_concurrent_scrapes_are_bounded_complete_and_leave_the_loop_alone() -> None:
    with serving(limits=Limits(collections=2)) as served, ThreadPoolExecutor(12) as clients:
        served.source.gate.clear()
        scrapes = [clients.submit(served.get, "/metrics") for _ in range(12)]
        wait_for(lambda: served.source.collecting == 2, 5)
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
        wait_for(lambda: served.source.collected == 1, 5)
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
        wait_for(lambda: served.source.collecting == 2, 5)
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
        wait_for(lambda: received_status(served) == 200, 5)
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


def test_an_answer_must_be_taken_in_time_however_steadily() -> None:
    source = FakeSource()
    source.listed = [{"big": "x" * BIG}]
    with serving(source, Limits(answer_timeout=1.0)) as served:
        client = served.connect(ASK, receive_buffer=4096)
        begun = time.monotonic()
        try:
            while client.recv(4096) and time.monotonic() - begun < 5:
                time.sleep(0.05)
        except ConnectionResetError:
            pass
        client.close()
        assert 0.9 < time.monotonic() - begun < 4


def test_clients_that_are_behind_are_bounded_and_keep_nobody_out() -> None:
    source = FakeSource()
    source.listed = [{"big": "x" * BIG}]
    with serving(source, Limits(in_flight=1, slow_readers=3)) as served:
        behind = []
        for _ in range(6):
            behind.append(served.connect(ASK, receive_buffer=4096))
            assert behind[-1].recv(8) == b"HTTP/1.1"
        assert served.get("/metrics")[0] == 200
        complete = [len(received(client)) > BIG for client in behind]
        assert complete == [False] * 3 + [True] * 3, "the first went to make room"


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
        wait_for(lambda: served.source.collecting == 2, 5)
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
        wait_for(lambda: served.source.collecting == 1, 5)
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
