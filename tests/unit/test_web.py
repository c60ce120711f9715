# SPDX-License-Identifier: Apache-2.0
"""What the real server serves: routes, formats, errors."""

from __future__ import annotations

import gzip
import io
import json
from ipaddress import ip_network
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.unit.served import HOSTILE, PATHS, FakeSource, Served, assert_secure, serving

from xdpscope.probes.flows.query import FlowQuery

if TYPE_CHECKING:
    pass


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


def test_health_follows_the_source(plain: Served) -> None:
    plain.source.stale = "last scan: too old"
    try:
        assert plain.get("/healthz")[::2] == (503, b"last scan: too old\n")
        assert plain.get("/readyz")[0] == 200
    finally:
        plain.source.stale = None
    assert plain.get("/healthz")[::2] == (200, b"ok\n")


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
        # The highest quality wins, whatever the order, and 0 excludes (RFC 9110, 12.4.2).
        ("application/openmetrics-text;q=0", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=0.000,*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "text/plain;q=1,application/openmetrics-text;q=0.1",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            "application/openmetrics-text; Q=0.1, text/plain",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            "text/plain;q=0.4,application/openmetrics-text;q=0.5",
            "application/openmetrics-text; version=1.0.0",
        ),
        ("text/plain,application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        ("APPLICATION/OpenMetrics-Text", "application/openmetrics-text; version=1.0.0"),
        ("text/plain;q=0,*/*;q=0.1", "application/openmetrics-text; version=1.0.0"),
        ("application/*", "application/openmetrics-text; version=1.0.0"),
        # A range counts for what no narrower one names.
        (
            "*/*;q=0.5,application/openmetrics-text;q=0.1",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (
            "text/*;q=0.9,text/plain;q=0.1,application/openmetrics-text;q=0.5",
            "application/openmetrics-text; version=1.0.0",
        ),
        # Prometheus 3 when configured to scrape text, and a browser.
        (
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3",
            "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
        ),
        (
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        # No format of ours is accepted: text all the same, which a scraper can at least report.
        ("application/json", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*;q=0", "text/plain; version=0.0.4; charset=utf-8"),
        # A quality that is none: the range is passed over.
        ("application/openmetrics-text;q=high", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;q=nan", "text/plain; version=0.0.4; charset=utf-8"),
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
        ("x-gzip", True),
        ("*", True),
        ("*;q=0.5, gzip;q=0", False),
        ("gzip;q=0.5, identity", False),
        ("gzip, identity;q=0.5", True),
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
        assert json.loads(body) == {
            "version": 1,
            "sockets": [],
            "programs": source.listed,
        }
        for query, asked in ("", False), ("?cpus=0", False), ("?cpus=1", True):
            assert served.get(f"/api/v1/programs{query}")[0] == 200
            assert source.asked_cpus is asked


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("", (100, None)),
        ("?limit=1000&since=1764000000.5", (1000, 1764000000.5)),
        ("?limit=1001", "limit must be a whole number from 1 to 1000, not '1001'\n"),
        ("?limit=0", "limit must be a whole number from 1 to 1000, not '0'\n"),
        (
            "?since=yesterday",
            "since must be a Unix time in seconds, such as 1764000000.5, not 'yesterday'\n",
        ),
        ("?since=", "since must be a Unix time in seconds, such as 1764000000.5, not ''\n"),
        ("?sinze=1", "unknown parameter 'sinze', did you mean since? allowed are limit, since\n"),
    ],
)
def test_events_as_json(query: str, answer: object) -> None:
    source = FakeSource()
    with serving(source) as served:
        status, _, body = served.get(f"/api/v1/events{query}")
        if isinstance(answer, str):
            assert (status, body.decode()) == (400, answer)
        else:
            assert (status, json.loads(body)) == (200, {"version": 1, "events": []})
            assert source.asked_events == answer


NETWORK = "an address, such as 192.0.2.1, or a network, such as 192.0.2.0/24 or 2001:db8::/32"
PARAMETERS = "limit, program, verdict, source, destination, protocol, port, interface, netns, sort"


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", FlowQuery(limit=100)),
        ("limit=7&verdict=drop", FlowQuery(limit=7, verdict="drop")),
        ("program=xdp_%2A", FlowQuery(limit=100, program="xdp_*")),
        (
            "source=10.0.0.7/24&destination=2001:DB8::1&protocol=udp&port=53&sort=bytes",
            FlowQuery(
                limit=100,
                source=ip_network("10.0.0.0/24"),
                destination=ip_network("2001:db8::1/128"),
                protocol="udp",
                port=53,
                sort="bytes",
            ),
        ),
        (
            "interface=eth0&netns=blue&protocol=47&port=0",
            FlowQuery(limit=100, interface="eth0", netns="blue", protocol="47", port=0),
        ),
    ],
)
def test_flows_as_json(plain: Served, query: str, asked: FlowQuery) -> None:
    status, headers, body = plain.get(f"/api/v1/flows?{query}")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert (json.loads(body), plain.source.asked) == ({"version": 1, "flows": []}, asked)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        *(
            (
                f"/api/v1/flows?limit={value}",
                f"limit must be a whole number from 1 to 999999999, not '{value}'",
            )
            for value in ("", "0", "-1", "9999999999", "1e3", "\u0663")
        ),
        (
            "/api/v1/flows?verdict=Dropped",
            "verdict must be one of aborted, drop, pass, tx, redirect, unknown, not 'Dropped'",
        ),
        *(
            (f"/api/v1/flows?{name}={value}", f"{name} must be {NETWORK}, not '{value}'")
            for name in ("source", "destination")
            for value in (
                "",
                "10.0.0",
                "10.0.0.256",
                "10.0.0.0/33",
                "10.0.0.0/",
                "10.0.0.0/255.0.0.0",
                "example.org",
                "fe80::1%eth0",
                "2001:db8::/129",
                "1",
                "10.0.0.1 ",
            )
        ),
        *(
            (
                f"/api/v1/flows?protocol={value}",
                "protocol must be one of dccp, icmp, icmpv6, sctp, tcp, udp, udplite, or a number"
                f" from 0 to 255, not '{value}'",
            )
            for value in ("", "TCP", "256", "-1")
        ),
        *(
            (
                f"/api/v1/flows?port={value}",
                f"port must be a whole number from 0 to 65535, not '{value}'",
            )
            for value in ("", "65536", "dns", "1-2")
        ),
        ("/api/v1/flows?sort=age", "sort must be one of rate, packets, bytes, not 'age'"),
        *(
            (
                f"/api/v1/flows?{name}=",
                f"{name} is empty: it must be {what}, which may be a shell glob",
            )
            for name, what in (
                ("program", "a program's id, tag or entry function"),
                ("interface", "an interface's name"),
                ("netns", "a network namespace's name"),
            )
        ),
        (
            "/api/v1/flows?port=1&port=2",
            "parameter port is given more than once: only one is allowed",
        ),
        (
            "/api/v1/flows?soruce=10.0.0.1",
            f"unknown parameter 'soruce', did you mean source? allowed are {PARAMETERS}",
        ),
        ("/api/v1/flows?=1", f"unknown parameter '': allowed are {PARAMETERS}"),
        (
            f"/api/v1/flows?{'x' * 99}\x1b=1",
            f"unknown parameter '{'x' * 60}…': allowed are {PARAMETERS}",
        ),
        (
            "/?verdicts=drop",
            "unknown parameter 'verdicts', did you mean verdict? allowed are verdict, runbook",
        ),
        (
            "/?verdict=none",
            "verdict must be one of aborted, drop, pass, tx, redirect, unknown, not 'none'",
        ),
        ("/metrics?name=up", "unknown parameter 'name', did you mean name[]? allowed are name[]"),
        (
            "/metrics?name[]=a\x1bb",
            "name[] must be a metric, such as xdp_packets_total, not 'a\\x1bb'",
        ),
        ("/api/v1/programs?cpus=yes", "cpus must be 0 or 1, not 'yes'"),
        ("/api/v1/programs?limit=5", "unknown parameter 'limit': allowed are cpus"),
        *(
            (f"{path}?limit=5", "unknown parameter 'limit': this page has no parameters")
            for path in ("/healthz", "/readyz")
        ),
    ],
)
def test_what_cannot_be_asked_for_is_a_400_that_says_what_can(
    plain: Served, path: str, said: str
) -> None:
    status, headers, body = plain.get(quote(path, safe="/?=&%[]"))
    assert (status, body.decode()) == (400, f"{said}\n")
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert_secure(headers)


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
