# SPDX-License-Identifier: Apache-2.0
"""The agent on a host of 200 programs: run in a guest."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from tests.bench.scale import PROGRAMS
from tests.bench.scale.crowd import crowd
from tests.bench.scale.growth import attach, everything, observed
from tests.bench.scale.page import resident
from tests.bench.scale.rounds import seconds_of_round
from xdpscope import log
from xdpscope.attach.targets import Targets
from xdpscope.config import Flows

_SETTLING = 20.0
_SCRAPES = 5


class Agent:
    """``xdpscope run`` as a process of its own, and what it logs."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "xdpscope", "--log-format", "json", "run"]
        self.process = subprocess.Popen(
            [*command, "--listen", "127.0.0.1:10091"], stderr=subprocess.PIPE, text=True
        )
        self.complete = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        traced = 0
        for line in self.process.stderr:
            traced += json.loads(line)["event"] == "tracing"
            if traced == PROGRAMS:
                self.complete.set()
        self.complete.set()  # it has ended

    def cpu(self) -> float:
        """Seconds of CPU so far, of all threads, those that have ended included."""
        # clock_getcpuclockid(3) of the process, which Python does not have.
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def maps(self) -> dict[str, int]:
        """Return how many maps the agent has, and the bytes that the kernel says they take.

        Right since Linux 6.4; before, a bound.
        """
        # By id: one that an object and the engine both hold is still one.
        sizes: dict[int, int] = {}
        for info in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            with suppress(FileNotFoundError):  # the agent has closed it meanwhile
                words = info.read_text().split()
                if "map_id:" in words:
                    map_id, size = (int(words[words.index(w) + 1]) for w in ("map_id:", "memlock:"))
                    sizes[map_id] = size
        every = sizes.values()
        return {"number": len(every), "largest": max(every), "sum": sum(every)}

    def scrape(self) -> bytes:
        with urllib.request.urlopen("http://127.0.0.1:10091/metrics", timeout=60) as answer:
            page: bytes = answer.read()
        return page


def measure(idle_seconds: float) -> dict[str, Any]:
    """Everything, in seconds of this guest's clock and CPU, and in bytes."""
    with crowd(PROGRAMS):
        found = _of_agent(idle_seconds)
        round_cpu = seconds_of_round()
        attaching = _attaching()
    return {
        "release": os.uname().release,
        "round_cpu": round_cpu,
        "attaching": attaching,
        **found,
    }


def _attaching() -> float:
    """Wait until the verdicts of each are counted, as the agent's first scan does it."""
    with (
        tempfile.TemporaryFile("w") as stream,
        observed(Flows()) as (engine, inventory),
        closing(Targets(engine, everything)) as targets,
    ):
        log.configure("info", "json", stream)
        spent, _ = attach(targets, inventory, PROGRAMS)
    return spent.clock


def _of_agent(idle_seconds: float) -> dict[str, Any]:
    agent = Agent()
    try:
        # By no clock: where an instruction is a nanosecond, waiting for a disk is minutes.
        agent.complete.wait()
        if agent.process.poll() is not None:
            raise AssertionError("it ended before every program was traced")
        starting = agent.cpu()
        # The first scan and its effects are over: each attachment is an event.
        time.sleep(_SETTLING)
        idle = agent.cpu()
        time.sleep(idle_seconds)
        idle = agent.cpu() - idle
        memory = resident(agent.process.pid)
        costs = []
        for _ in range(_SCRAPES):
            before = agent.cpu()
            page = agent.scrape().decode()
            costs.append(agent.cpu() - before)
        if page.count('reason=""} 1.0') != PROGRAMS:
            raise AssertionError("not every program is traced")
        return {
            "starting_cpu": starting,
            "idle_cpu": idle / idle_seconds if idle_seconds else None,
            "scrape_cpu": min(costs),  # the least: a round of discovery may fall into others
            "series": sum(not line.startswith("#") for line in page.splitlines()),
            "resident": memory,
            "resident_scraped": resident(agent.process.pid),
            "maps": agent.maps(),
        }
    finally:
        agent.process.terminate()
        agent.process.wait()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(measure(float(sys.argv[2]))))
