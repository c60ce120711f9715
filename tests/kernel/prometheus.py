# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus, for tests."""

import json
import os
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kernel.agent import AgentProcess
from tests.waiting import wait_for

PROMETHEUS = os.environ.get("PROMETHEUS") or shutil.which("prometheus")


class Prometheus:
    """A server of its own, scraping one agent all the time."""

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, expression: str) -> dict[str, float]:
        """Return the value of each series of an instant query, by its verdict."""
        return {verdict: value for (verdict,), value in self.series(expression, "verdict").items()}

    def series(self, expression: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the same by these labels."""
        return {
            tuple(series["metric"].get(label, "") for label in labels): float(series["value"][1])
            for series in self.ask("query", query=expression)["result"]
        }

    def ask(self, what: str, **parameters: str) -> Any:
        """Return the data that an address of its HTTP API answers with."""
        address = f"{self._address}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=60) as page:
            return json.load(page)["data"]

    def answers(self) -> bool:
        """Return whether it is ready for queries."""
        try:
            self.query("vector(1)")
        except OSError:
            return False
        return True

    def up(self) -> bool:
        try:
            return self.query("up") == {"": 1.0}
        except OSError:
            return False


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running(directory: Path, config: str, *options: str) -> Iterator[Prometheus]:
    """Run a server with this configuration; yield it once it answers."""
    (directory / "prometheus.yml").write_text(config)
    port = free_port()
    assert PROMETHEUS is not None
    process = subprocess.Popen(
        [
            PROMETHEUS,
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            *options,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # An emulated machine has more memory than time for a garbage collector.
        env={**os.environ, "GOGC": "800", "GOMAXPROCS": "1"},
    )
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        wait_for(server.answers)
        yield server
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def scraping(
    agent: AgentProcess, directory: Path, access: str = "", seconds: int = 1
) -> Iterator[Prometheus]:
    """``access`` is what the job needs more than a target, ``seconds`` the time between scrapes."""
    target = agent.address.partition("://")[2]
    config = (
        f"global: {{scrape_interval: {seconds}s, scrape_timeout: {seconds}s}}\n"
        "scrape_configs:\n"
        f"- {{job_name: xdpscope, static_configs: [{{targets: ['{target}']}}]{access}}}\n"
    )
    with running(directory, config) as server:
        wait_for(server.up)
        yield server
