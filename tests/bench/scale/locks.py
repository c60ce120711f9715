# SPDX-License-Identifier: Apache-2.0
"""How long the agent holds its lock, and how long a scrape waits for it, with 500 programs.

    python -m tests.vm.run --kernel 6.1 -- python -m tests.bench.scale.locks RESULT [PROGRAMS]

An observer scans as the agent does, while another thread scrapes again and again. All programs are
there at the first scan; their flows come to be counted; each gets a packet; then all go at once.
Times are seconds of this guest.
"""

import json
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import generate_latest

from tests.bench.scale.growth import PER_NAMESPACE, observed, send_one_each
from tests.bench.scale.namespaces import attach_programs, spread
from tests.bench.table import markdown
from tests.kernel.observing import Observer
from xdpscope import log, target_reader
from xdpscope.attach.reason import Selection
from xdpscope.config import Config, Flows
from xdpscope.read_lock import ReadLock
from xdpscope.scans import ScanRecord
from xdpscope.source import AgentSource

_FOLLOW_UP = 0.25  # as in the agent
_LINGER = 65.0
_BETWEEN_SCRAPES = 0.5
_SETTLING = 10.0


@dataclass
class Phase:
    """What happened to the lock while one thing was done."""

    name: str
    clock: float = 0.0
    holds: int = 0
    longest_hold: float = 0.0  # CPU time of the thread that held it
    holder: str = ""
    scrapes: int = 0
    failed: int = 0  # collectors, of all scrapes
    longest_scrape: float = 0.0
    longest_wait: float = 0.0  # of one scrape in all
    longest_turn: float = 0.0  # of one scrape for the lock once
    extra: dict[str, float] = field(default_factory=dict)


class Meter:
    """Where the figures go."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.now = Phase("before")
        self.waits = threading.local()

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        self.now = Phase(name)
        began = time.monotonic()
        yield self.now
        self.now.clock = time.monotonic() - began
        self.phases.append(self.now)
        print(asdict(self.now), file=sys.stderr, flush=True)
        self.now = Phase("between")


METER = Meter()


class MeasuredLock(ReadLock):
    """A lock that tells the meter."""

    def _taken(self, asked: float) -> None:
        waited = time.perf_counter() - asked
        waits = METER.waits
        waits.sum = getattr(waits, "sum", 0.0) + waited
        waits.most = max(getattr(waits, "most", 0.0), waited)
        self._since = time.thread_time()

    def _given(self) -> None:
        held, phase = time.thread_time() - self._since, METER.now
        phase.holds += 1
        if held > phase.longest_hold:
            phase.longest_hold = held
            phase.holder = _where()

    def __enter__(self) -> None:
        asked = time.perf_counter()
        super().__enter__()
        self._taken(asked)

    def __exit__(self, *arguments: object) -> None:
        self._given()
        super().__exit__(*arguments)

    @contextmanager
    def reading(self) -> Iterator[None]:
        asked = time.perf_counter()
        with super().reading():
            self._taken(asked)
            try:
                yield
            finally:
                self._given()


def _where() -> str:
    frame, names = sys._getframe(2), list[str]()
    while frame is not None and len(names) < 4:
        if "xdpscope/" in frame.f_code.co_filename:
            names.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        frame = cast(Any, frame.f_back)
    return " < ".join(names)


class Scraper(threading.Thread):
    """Reads the metrics again and again."""

    def __init__(self, page: AgentSource) -> None:
        super().__init__(daemon=True)
        self._page = page
        self._end = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._end.wait(_BETWEEN_SCRAPES):
                self.scrape()
        except BaseException as error:  # noqa: BLE001 - raised again by ``stop``
            self.failure = error

    def scrape(self) -> None:
        METER.waits.sum = METER.waits.most = 0.0
        phase, began = METER.now, time.perf_counter()
        text = generate_latest(self._page.registry).decode()
        taken = time.perf_counter() - began
        phase.scrapes += 1
        phase.longest_scrape = max(phase.longest_scrape, taken)
        phase.longest_wait = max(phase.longest_wait, METER.waits.sum)
        phase.longest_turn = max(phase.longest_turn, METER.waits.most)
        lines = [line for line in text.splitlines() if "collector_success{" in line]
        phase.failed += sum(not line.endswith(" 1.0") for line in lines)

    def stop(self) -> None:
        self._end.set()
        self.join()
        if self.failure is not None:
            raise self.failure


def measure(programs: int) -> list[Phase]:
    """All phases.

    Raises:
        AssertionError: not every program was traced, or not every packet counted.
    """
    flows = Flows()
    count = programs // PER_NAMESPACE
    with ExitStack() as stack:
        names = stack.enter_context(spread(count, programs + 2 * count, 0))
        attached = stack.enter_context(ExitStack())
        for name in names:
            for link in attach_programs(name, PER_NAMESPACE, by_link=True):
                attached.push(link)
        time.sleep(_SETTLING)
        engine, inventory = stack.enter_context(observed(flows))
        cast(Any, target_reader).ReadLock = MeasuredLock
        seen = stack.enter_context(Observer(engine, inventory, Selection(), flows))
        scan_thread: Any = SimpleNamespace(
            observer=seen, probes=seen.probes, config=Config(), scans=ScanRecord()
        )
        scraper = Scraper(AgentSource(scan_thread))
        scraper.start()
        _phases(seen, names, attached, programs)
        scraper.stop()
    return METER.phases


def _phases(seen: Observer, names: list[str], attached: ExitStack, programs: int) -> None:
    with METER.phase("attaching all of them"):
        seen.scan(_LINGER, 0)
    _expect(seen, traced=programs)
    with METER.phase("counting their flows, too") as phase:
        began, late = time.monotonic(), 0.0
        more: float | None = None
        while seen.unfinished or more is None:
            if more is None and time.monotonic() - began > 1:
                # One more, while all others wait.
                (link,) = attach_programs(names[0], 1, by_link=True, skip=PER_NAMESPACE)
                attached.push(link)
                more = time.monotonic()
            seen.scan(_LINGER, _FOLLOW_UP)
            if more and not late and _traced(seen) == programs + 1:
                late = time.monotonic() - more
        phase.extra["a program that appears is traced after"] = late
    with METER.phase("a packet for each"):
        for name in names:
            send_one_each(name)
        for _ in range(5):
            seen.scan(_LINGER, _FOLLOW_UP)
            time.sleep(0.5)
    packets = [sum(count.tally.packets) for count in seen.counts()]
    if packets != [1] * (programs + 1):
        raise AssertionError(f"{sum(packets)} packets of {len(packets)}")
    with METER.phase("removing all of them"):
        attached.close()
        for _ in range(3):
            seen.scan(_LINGER, _FOLLOW_UP)
            time.sleep(0.5)
    with METER.phase("forgetting all of them"):
        for _ in range(2):
            seen.scan(0.0, _FOLLOW_UP)
            time.sleep(0.5)
    if seen.statuses():
        raise AssertionError(f"{len(seen.statuses())} programs are still known")


def _traced(seen: Observer) -> int:
    return sum(status.reason is None for status in seen.statuses())


def _expect(seen: Observer, traced: int) -> None:
    if _traced(seen) != traced:
        raise AssertionError(f"{_traced(seen)} programs are traced")


def table(phases: list[Phase]) -> str:
    """For people."""
    titles = "longest hold, CPU", "longest wait of a scrape", "… at once", "longest scrape", "all"
    rows = [["ms of the guest, while", *titles]]
    for each in phases:
        times = each.longest_hold, each.longest_wait, each.longest_turn, each.longest_scrape
        rows.append([each.name, *(f"{1e3 * value:.1f}" for value in (*times, each.clock))])
    return markdown(rows)


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryFile("w") as stream:
        log.configure("info", "json", stream)
        phases = measure(int(sys.argv[2]) if sys.argv[2:] else 500)
    print(table(phases))
    result = {"release": os.uname().release, "phases": [asdict(each) for each in phases]}
    Path(sys.argv[1]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
