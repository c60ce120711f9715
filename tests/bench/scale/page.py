# SPDX-License-Identifier: Apache-2.0
"""The page of 200 programs: a process that serves it as the agent does, and its scraper."""

import asyncio
import gzip
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

from tests.bench.scale import PROGRAMS
from tests.bench.source import MetricsOnly
from tests.collecting import Collecting
from xdpscope.counters.totals import Tally
from xdpscope.describe import as_json
from xdpscope.discovery.model import Attachment, Mode, Part, XdpProgram
from xdpscope.metrics import (
    AgentCollector,
    IsolatedCollectors,
    ProgramCollector,
)
from xdpscope.probes.flows import metrics as flows
from xdpscope.probes.flows.report import FlowReport
from xdpscope.probes.verdicts import metrics as verdicts
from xdpscope.report import Count, ProgramStatus
from xdpscope.web.app import create_app
from xdpscope.web.server import WebServer

SCRAPES = 30


def _status(number: int) -> ProgramStatus:
    program = XdpProgram(
        id=1000 + number,
        tag=f"{number:016x}",
        name=f"xdp_balancer_{number}"[:15],
        function=f"xdp_balancer_{number}",
        entry_type_id=7,
        jited=True,
        attach_type="xdp",
    )
    attachments = (Attachment("host", f"veth{number:04x}c0ffee", Mode.NATIVE),)
    return ProgramStatus(
        program, Part(program.role), attachments, reason=None, missed=0, run_seconds=1.5 * number
    )


def _count(status: ProgramStatus) -> Count:
    tally = Tally()
    packets = [status.program.id * 1_000_003 * (index + 1) for index in range(6)]
    tally.counts[0] = [(number, number * 843) for number in packets]
    return Count(status.program, ("host", status.attachments[0].interface), tally)


class Recorded(MetricsOnly):
    """What the agent's observer would say, always the same."""

    def __init__(self, programs: int) -> None:
        self._statuses = [_status(number) for number in range(programs)]
        self._counts = [_count(status) for status in self._statuses]
        collectors = IsolatedCollectors(
            {
                "verdicts": Collecting(lambda: verdicts.families(self._counts)),
                "flows": Collecting(lambda: flows.families(self._report())),
                "programs": ProgramCollector(lambda: self._statuses),
                "agent": AgentCollector(dict),
            }
        )
        super().__init__(collectors)

    def _report(self) -> FlowReport:
        return FlowReport(0, {"idle": 0, "pressure": 0}, 1, others=self._counts)

    def programs(self, cpus: bool = False) -> list[dict[str, object]]:
        return [as_json(status) for status in self._statuses]

    def status(self) -> dict[str, object]:
        return {"programs": len(self._statuses)}


async def _serve() -> None:
    listener = WebServer.bind("127.0.0.1", 0)
    server = WebServer(create_app(Recorded(PROGRAMS)), listener)
    serving = asyncio.create_task(server.serve())
    print(server.port, flush=True)
    await asyncio.to_thread(sys.stdin.read)  # until the scraper closes it
    await server.stop()
    await serving


@dataclass(frozen=True)
class PageCost:
    """Seconds over ``SCRAPES`` scrapes, bytes on the wire, and the server's memory in bytes."""

    path: str
    encoding: str
    median: float
    slowest: float
    size: int
    resident: int


def resident(pid: int) -> int:
    """Return the memory that a process has resident, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def measure() -> list[PageCost]:
    """Scrape a server of its own over loopback."""
    server = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        wanted = [("/metrics", "identity"), ("/metrics", "gzip"), ("/", "gzip")]
        costs = [_scrapes(port, path, encoding, server.pid) for path, encoding in wanted]
        server.stdin.close()
    return costs


def _scrapes(port: int, path: str, encoding: str, pid: int) -> PageCost:
    durations, body = [], b""
    for _ in range(SCRAPES):
        # A connection each, as if every scrape were the first.
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        started = time.perf_counter()
        connection.request("GET", path, headers={"accept-encoding": encoding})
        answer = connection.getresponse()
        body = answer.read()
        durations.append(time.perf_counter() - started)
        connection.close()
        if answer.status != 200:
            raise AssertionError(f"{path}: {answer.status}")
    text = gzip.decompress(body) if encoding == "gzip" else body
    if path == "/metrics" and text.count(b"\nxdp_packets_total{") != 6 * PROGRAMS:
        raise AssertionError("the page is not whole")
    return PageCost(
        path, encoding, statistics.median(durations), max(durations), len(body), resident(pid)
    )


if __name__ == "__main__":
    asyncio.run(_serve())
