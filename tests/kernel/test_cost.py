# SPDX-License-Identifier: Apache-2.0
"""The kernel counts what was sent in a window, and the budget acts without losing a packet."""

import time
from collections.abc import Iterator, Set
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.kernel.flows import (
    TEST_RUN_DEVICE,
    check_sums,
    observing,
    on_one_cpu,
    sum_of,
    unaccounted,
)
from tests.kernel.lab import Lab
from tests.kernel.observing import Observer
from tests.kernel.test_flows import udp4
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import Budget
from xdpscope.libbpf import Program
from xdpscope.probes import Scan
from xdpscope.probes.cost import CostProbe, memory
from xdpscope.probes.cost.statistics import Statistics, Window, always_on
from xdpscope.report import TracerCost

pytestmark = pytest.mark.every_kernel

PROGRAM = "decide_pass"
SYSCTL = Path("/proc/sys/kernel/bpf_stats_enabled")


@pytest.fixture
def target(lab: Lab) -> Program:
    program = lab.load(PROGRAM, "verdicts")
    lab.attach(program, lab.veth("xst0"))
    return program


@pytest.fixture
def observer(target: Program) -> Iterator[Observer]:
    with Engine(FlowSizes(sets=64, sample_rate=1)) as engine, observing(engine) as observer:
        observer.scan(0)
        yield observer


def run(program: Program, times: int) -> None:
    if times:
        program.test_run(udp4(1), repeat=times)


def is_counted(program: Program) -> bool:
    """Return whether the kernel counts runs now."""
    before = program.info().run_count
    run(program, 5)
    return program.info().run_count == before + 5


def runs(window: Window) -> list[tuple[int, float]]:
    """Return runs and seconds in the window, of the only program and of its tracers."""
    found = []
    for begin, end in (window.programs, window.tracers):
        (first,), (last,) = begin.values(), end.values()
        assert first.program == last.program == PROGRAM and first.at < last.at
        found.append((last.runs - first.runs, last.run_seconds - first.run_seconds))
    return found


def test_runs_in_a_window_are_the_packets(observer: Observer, target: Program) -> None:
    assert not always_on() and not is_counted(target)
    statistics = Statistics()
    for packets in (40, 0, 7):
        run(target, 100)  # outside of a window
        window = statistics.measure(
            observer.snapshot, observer.costs, partial(run, target, packets)
        )
        (of_program, time_of_program), (of_tracers, time_of_tracers) = runs(window)
        assert of_program == of_tracers == packets
        assert (time_of_program >= time_of_tracers > 0) or packets == 0
        assert not is_counted(target), "the window is closed"


def test_a_window_that_fails_is_closed(observer: Observer, target: Program) -> None:
    def fail() -> None:
        assert is_counted(target)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Statistics().measure(observer.snapshot, observer.costs, fail)
    assert not is_counted(target)


def test_while_the_sysctl_is_on_each_packet_is_in_a_window(
    observer: Observer, target: Program
) -> None:
    statistics, waits = Statistics(), []

    def measured(packets: int) -> list[int]:
        run(target, packets)
        window = statistics.measure(observer.snapshot, observer.costs, lambda: waits.append(0))
        return [number for number, _ in runs(window)]

    SYSCTL.write_text("1")
    try:
        assert measured(3) == [0, 0], "the first window begins now"
        assert measured(4) == [4, 4]
        assert measured(5) == [5, 5]
        assert len(waits) == 1
    finally:
        SYSCTL.write_text("0")
    window = statistics.measure(observer.snapshot, observer.costs, lambda: run(target, 2))
    assert [number for number, _ in runs(window)] == [2, 2]


def test_the_statistics_are_off_after_the_probe_is_closed(
    observer: Observer, target: Program
) -> None:
    probe = CostProbe(interval=100)
    probe.update(Scan(observer.snapshot, observer))
    probe.reconfigure(Budget())  # measures at once
    end = time.monotonic() + 10
    while not is_counted(target) and time.monotonic() < end:
        time.sleep(0.01)
    assert time.monotonic() < end, "the window lasts a second"
    time.sleep(0.3)  # the readings at the begin are done
    run(target, 50)
    probe.close()
    assert not is_counted(target)
    report = probe.report
    for cost in (*report.programs, *report.tracers):
        assert (cost.program, cost.runs >= 50, (cost.cpu or 0) > 0) == (PROGRAM, True, True)
    assert (report.tracers_cpu or 0) > 0
    assert (report.map_memory or 0) > 1 << 16


def test_the_memory_is_that_of_each_open_map_once(observer: Observer, target: Program) -> None:
    found: dict[str, int] = {}
    for information in Path("/proc/self/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of the directory itself
            words = information.read_text().split()
            if "map_id:" in words:
                id, size = (words[words.index(name) + 1] for name in ("map_id:", "memlock:"))
                found[id] = int(size)
    assert len(found) > 3
    assert memory.of_own_maps() == sum(found.values())


def counters(observer: Observer) -> dict[object, int]:
    """Return all packets in counters, in flows and in none."""
    report = observer.flow_counts()
    assert report is not None
    found: dict[object, int] = {"verdicts": packets_of(observer)}
    found |= {key: packets for key, (packets, _) in unaccounted(observer).items()}
    found |= {(f.source_port, f.verdict): f.packets for f in report.exported}
    return found


def packets_of(observer: Observer) -> int:
    return sum(sum(count.tally.packets) for count in observer.counts())


class Rates:
    """An observer's tracers, which note each change of the sample rate."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.seen: list[int] = []

    @property
    def usual_sample_rate(self) -> int | None:
        return self._observer.usual_sample_rate

    def costs(self) -> list[TracerCost]:
        return self._observer.costs()

    def sample_flows(self, rate: int, without: Set[int]) -> None:
        if self.seen[-1:] != [rate]:
            self.seen.append(rate)
        self._observer.sample_flows(rate, without)


@pytest.mark.matrix
def test_a_flood_is_sampled_harder_then_not_at_all_and_flows_come_back(
    observer: Observer, target: Program
) -> None:
    """Test runs are the flood. This process has their time, about a whole CPU, as the agent's."""
    probe, rates = CostProbe(budget_interval=0.5, above=1.2, below=2.0), Rates(observer)
    sent, seen = 0, counters(observer)
    probe.reconfigure(Budget(cpu_percent=70))
    probe.update(Scan(observer.snapshot, rates))
    end = time.monotonic() + 60
    try:
        with on_one_cpu():  # the first packet of a CPU is always taken
            while observer.sample_rate and time.monotonic() < end:
                run(target, 500)
                sent += 500
                # All is quiet at this moment, at each level.
                check_sums(observer)
                assert packets_of(observer) == sent
                now = counters(observer)
                assert all(now.get(key, 0) >= number for key, number in seen.items())
                seen = now
            before = sum_of(observer.held_flows().flows)
            run(target, 100)
            check_sums(observer)
            assert sum_of(observer.held_flows().flows) == before
            assert packets_of(observer) == sent + 100
        while observer.sample_rate != 1 and time.monotonic() < end:
            time.sleep(0.2)
    finally:
        probe.close()
    assert rates.seen == [1, 4, 0, 4, 1]
    before = sum_of(observer.held_flows().flows)
    run(target, 10)
    check_sums(observer)
    assert sum_of(observer.held_flows().flows) == before + 10
    assert packets_of(observer) == sent + 110
    assert {key[1:] for key in unaccounted(observer)} == {(TEST_RUN_DEVICE, "pass", "sampled_out")}
