# SPDX-License-Identifier: Apache-2.0
"""A real server in a thread, and a source to serve that does as a test says."""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import socket
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily

from xdpscope.formats import document
from xdpscope.probes.flows.query import FlowQuery
from xdpscope.web.app import create_app
from xdpscope.web.limits import Limits
from xdpscope.web.policy import Policy
from xdpscope.web.server import WebServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

PATHS = ("/", "/metrics", "/healthz", "/readyz", "/api/v1/programs", "/api/v1/flows")
HOSTILE = '<script>alert("x")</script>\x1b[2J\u202e\udc80'


def command(name: str) -> str:
    """Return a command that setup fetches for us, or skips the test."""
    locations = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = os.environ.get(name.upper()) or shutil.which(name, path=locations)
    if found is None:
        pytest.skip(f"{name} is missing: make setup fetches it")
    return found


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
        self.stale: str | None = None
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

    def problem(self) -> str | None:
        return self.stale

    def programs(self, cpus: bool = False) -> list[dict[str, object]]:
        self.asked_cpus = cpus
        return self.listed

    def flows(self, query: FlowQuery) -> dict[str, Any]:
        self.asked = query
        return document("flows", [])

    def sockets(self) -> list[dict[str, object]]:
        return []

    def events(self, limit: int, since: float | None) -> list[dict[str, object]]:
        self.asked_events = limit, since
        return []

    def status(self) -> dict[str, object]:
        return {"kernel": "6.12", "host_name": HOSTILE}


class Served:
    """A server in a thread; what a test wants of its port."""

    def __init__(
        self,
        source: FakeSource,
        limits: Limits,
        host: str = "127.0.0.1",
        policy: Callable[[], Policy] = Policy,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """``trust`` is what clients speak TLS by, by default."""
        self.source = source
        self.host = host
        self.trust = trust
        app = create_app(source, limits, policy)
        self.web = WebServer(app, WebServer.bind(host, 0), limits, policy)
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
        with closing(self.client()) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def client(self) -> http.client.HTTPConnection:
        if self.trust is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=10)
        return http.client.HTTPSConnection(self.host, self.port, timeout=10, context=self.trust)

    def connect(self, sent: bytes = b"", receive_buffer: int = 0) -> socket.socket:
        client = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(10)
        client.connect((self.host, self.port))
        client.sendall(sent)
        return client

    def closed_after(self, client: socket.socket) -> float:
        """Return how long until the server closes a connection, in seconds."""
        begun = time.monotonic()
        received(client)
        return time.monotonic() - begun


def received(client: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@contextmanager
def serving(
    source: FakeSource | None = None,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    policy: Callable[[], Policy] = Policy,
    trust: ssl.SSLContext | None = None,
) -> Iterator[Served]:
    served = Served(source or FakeSource(), limits or Limits(), host, policy, trust)
    try:
        yield served
    finally:
        served.source.gate.set()
        served.stop()


def assert_secure(headers: http.client.HTTPMessage) -> None:
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "deny"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["strict-transport-security"] is None
    assert headers["server"] is None
