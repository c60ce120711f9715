# SPDX-License-Identifier: Apache-2.0
"""Readers and the scan at the same time: who holds the lock for how much, and what is counted."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.faults import Faults, faulty
from tests.kernel.flows import check_sums
from tests.kernel.lab import Lab, Veth
from tests.kernel.observing import Observer
from tests.kernel.pinned import udp
from tests.waiting import wait_for
from xdpscope import target_reader
from xdpscope.attach import tracer
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import Config, Flows
from xdpscope.discovery.inventory import Inventory
from xdpscope.libbpf import Program
from xdpscope.read_lock import ReadLock
from xdpscope.scans import ScanRecord
from xdpscope.source import AgentSource

PROGRAMS = 20
IN_STEP = 8
"""Programs that are seen to in one step."""
KEPT = 1000.0

LONG = {"bpf_prog_load", "bpf_link_create", "bpf_map_create", "bpf_prog_get_fd_by_id"}
"""Calls that attach tracers. The kernel needs milliseconds for each."""


@contextmanager
def observing() -> Iterator[Observer]:
    with (
        Engine(FlowSizes(sets=64, sample_rate=1)) as engine,
        Inventory() as inventory,
        Observer(engine, inventory, Selection(), Flows(), patience=0.0) as observer,
    ):
        yield observer


def page_of(observer: Observer) -> AgentSource:
    scan_thread: Any = SimpleNamespace(
        observer=observer, probes=observer.probes, config=Config(), scans=ScanRecord()
    )
    return AgentSource(scan_thread)


def attach(lab: Lab, count: int) -> list[tuple[Veth, Program]]:
    """Attach a program each to so many interfaces."""
    found = []
    for number in range(count):
        veth, program = lab.veth(f"xst{number}"), lab.load("decide_drop")
        lab.attach(program, veth)
        found.append((veth, program))
    return found


def packets(observer: Observer) -> Counter[str]:
    """What was counted, by interface."""
    found: Counter[str] = Counter()
    for count in observer.counts():
        found[count.location[1]] += sum(count.tally.packets)
    return found


def programs(observer: Observer) -> set[int]:
    """Return the ids of all programs. Linux 6.1 never frees some that ran on a bond."""
    return {status.program.id for status in observer.statuses()}


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """It counts calls into the kernel."""
    return faulty(monkeypatch)


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> list[Counter[str]]:
    """The calls into the kernel that were made with the lock held, each time."""
    found: list[Counter[str]] = []

    class Watched(ReadLock):
        begin = 0

        def __enter__(self) -> None:
            super().__enter__()
            self.begin = len(faults.calls)

        def __exit__(self, *arguments: object) -> None:
            found.append(Counter(faults.calls[self.begin :]))
            super().__exit__(*arguments)

        @contextmanager
        def reading(self) -> Iterator[None]:
            with super().reading():
                begin = len(faults.calls)
                yield
                found.append(Counter(faults.calls[begin:]))

    monkeypatch.setattr(target_reader, "ReadLock", Watched)
    return found


@pytest.mark.one_kernel
def test_the_lock_is_held_for_a_few_programs_at_a_time(
    lab: Lab, holds: list[Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first scan to the last, which forgets all of them."""
    monkeypatch.setattr(tracer, "_READ_AT_ONCE", IN_STEP)  # there are fewer programs than usually
    with observing() as observer:
        attached = attach(lab, PROGRAMS)
        observer.scan(KEPT)
        for veth, _ in attached:
            veth.send(udp(4000))
        wait_for(lambda: observer.held_flows().held == PROGRAMS)
        assert packets(observer).total() == PROGRAMS
        check_sums(observer)
        ids = {program.info().id for _, program in attached}
        assert ids <= programs(observer)
        for veth, program in attached:
            program.close()
            lab.delete(veth)
        wait_for(lambda: observer.scan(0) or not ids & programs(observer))
    assert sum(sum(calls.values()) for calls in holds) > 5 * PROGRAMS
    assert [calls for calls in holds if calls.keys() & LONG] == []
    # Of a program its counts are read, or the costs of its two tracers.
    assert max(sum(calls.values()) for calls in holds) <= 2 * IN_STEP


@pytest.mark.one_kernel
def test_a_scrape_reads_each_table_once(lab: Lab, faults: Faults) -> None:
    with observing() as observer:
        attached = attach(lab, PROGRAMS)
        observer.scan(KEPT)
        page = page_of(observer)
        for veth, _ in attached:
            veth.send(udp(4000))
        wait_for(lambda: observer.held_flows().held == PROGRAMS)
        for number in range(3):
            attached[0][0].send(udp(4001 + number))
            wait_for(lambda sent=PROGRAMS + 1 + number: packets(observer).total() == sent)
            faults.calls.clear()
            assert b"xdp_flow_packets_total{" in generate_latest(page.registry)
            calls = Counter(faults.calls)
            # Beside the programs' own: whether the table of IPv6 has flows, which is not read else,
            # and whether devices are watched.
            assert calls["bpf_map_lookup_elem"] == PROGRAMS + 2
            # The table of IPv4, and the records of further devices.
            assert calls["bpf_map_lookup_batch"] == 2


class Scraper(threading.Thread):
    """Reads the page again and again; no counter may fall."""

    def __init__(self, page: AgentSource) -> None:
        super().__init__(daemon=True)
        self._page = page
        self._end = threading.Event()
        self.scrapes = 0
        self.fell: list[object] = []
        self.failed: list[object] = []

    def run(self) -> None:
        before: dict[object, float] = {}
        while not self._end.is_set():
            now: dict[object, float] = {}
            text = generate_latest(self._page.registry).decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if family.type == "counter":
                        now[sample.name, *sorted(sample.labels.items())] = sample.value
                    elif sample.name == "xdpscope_collector_success" and not sample.value:
                        self.failed.append(sample.labels)
            self.fell += [
                (key, before[key], now[key])
                for key in now.keys() & before
                if now[key] < before[key]
            ]
            before = now
            self.scrapes += 1

    def stop(self) -> None:
        self._end.set()
        self.join()


@pytest.mark.matrix
@pytest.mark.one_kernel
def test_scrapes_during_scans_count_exactly(lab: Lab) -> None:
    """Programs come and go under traffic while two scrapers read the page."""
    still = lab.veth("xststill")
    lab.attach(lab.load("decide_drop"), still)
    with observing() as observer:
        observer.scan(KEPT)
        scrapers = [Scraper(page_of(observer)) for _ in range(2)]
        for scraper in scrapers:
            scraper.start()
        sent: Counter[str] = Counter()
        with still.sending(udp(4000)) as traffic:
            for _ in range(3):
                attached = attach(lab, 4)
                observer.scan(KEPT)
                for number, (veth, _) in enumerate(attached):
                    veth.send(udp(5000), times=number + 1)
                    sent[veth.name] += number + 1
                wait_for(lambda: sent <= packets(observer))
                for veth, program in attached:
                    lab.attach(None, veth)
                    observer.scan(KEPT)
                    program.close()
                    lab.delete(veth)
                observer.scan(KEPT)
        sent[still.name] = traffic.sent - still.lost
        wait_for(lambda: packets(observer) == sent)
        for scraper in scrapers:
            scraper.stop()
            assert scraper.scrapes > 3
            assert (scraper.fell, scraper.failed) == ([], [])
        assert packets(observer) == sent
        check_sums(observer)
