# SPDX-License-Identifier: Apache-2.0
"""What the windows of the kernel's statistics add up to, and what the agent shows of it."""

import threading
import time
from collections.abc import Set
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from xdpscope.discovery.model import Snapshot
from xdpscope.probes import Scan
from xdpscope.probes.cost import CostProbe, statistics
from xdpscope.probes.cost.control import Measurement
from xdpscope.probes.cost.metrics import families
from xdpscope.probes.cost.report import Cost, CostReport, Level, as_text
from xdpscope.probes.cost.statistics import Reading
from xdpscope.probes.cost.totals import RETENTION, CostTotals
from xdpscope.probes.probe import Tracers


def reading(at: float, runs: int, seconds: float, program_id: int = 7) -> dict[int, Reading]:
    return {program_id: Reading(program_id, "xdp_filter", at, runs, seconds)}


def test_totals_begin_at_0_and_gauges_are_of_the_last_window() -> None:
    """The program has run before the agent, and between the windows for somebody else."""
    totals = CostTotals()
    totals.add(reading(10.0, 500, 2.0), reading(10.1, 600, 2.02), now=10.1)
    assert totals.costs() == (
        Cost(7, "xdp_filter", 100, pytest.approx(0.02), pytest.approx(0.2), pytest.approx(0.0002)),
    )
    totals.add(reading(20.0, 900, 2.9), reading(20.1, 950, 2.91), now=20.1)
    assert totals.costs() == (
        Cost(7, "xdp_filter", 450, pytest.approx(0.91), pytest.approx(0.1), pytest.approx(0.0002)),
    )


def test_a_window_without_packets_keeps_the_time_of_a_packet() -> None:
    totals = CostTotals()
    totals.add(reading(0.0, 0, 0.0), reading(1.0, 4, 0.4), now=1.0)
    totals.add(reading(9.0, 4, 0.4), reading(10.0, 4, 0.4), now=10.0)
    (cost,) = totals.costs()
    assert (cost.cpu, cost.seconds_per_run) == (0.0, pytest.approx(0.1))


def test_a_program_that_appears_in_a_window_begins_at_0() -> None:
    totals = CostTotals()
    totals.add({}, reading(1.0, 9, 0.9), now=1.0)
    assert totals.costs() == (Cost(7, "xdp_filter", 0, 0.0, None, None),)


def test_a_vanished_program_keeps_its_totals_for_every_scraper() -> None:
    totals = CostTotals()
    totals.add(reading(0.0, 0, 0.0), reading(1.0, 5, 0.5), now=1.0)
    totals.add(reading(9.0, 5, 0.5), {}, now=10.0)
    assert totals.costs() == (Cost(7, "xdp_filter", 5, 0.5),), "without a share of the CPU"
    totals.add({}, {}, now=10.0 + RETENTION - 1)
    assert len(totals.costs()) == 1
    totals.add({}, {}, now=10.0 + RETENTION)
    assert totals.costs() == ()


def test_a_vanished_program_leaves_the_page_before_the_next_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = 0.0
    clock = SimpleNamespace(monotonic=lambda: at)
    monkeypatch.setattr("xdpscope.probes.cost.time", clock)
    measured = (Cost(7, "xdp_filter", 5, 0.5, 0.25, 0.1),)
    probe = CostProbe()
    probe._report = CostReport(programs=measured, tracers=measured)
    with_it = Snapshot(programs=cast(Any, {7: None}))
    ratio, runs = "xdp_program_cpu_ratio", "xdp_program_kernel_runs_total"
    for later, snapshot, shown in (
        (0.0, with_it, {ratio, runs}),
        (10.0, with_it, {ratio, runs}),
        (1.0, Snapshot(), {runs}),
        (RETENTION - 2, Snapshot(), {runs}),
        (1.0, Snapshot(), set()),
    ):
        at += later
        probe.update(Scan(snapshot))
        found = {sample.name for family in probe.collect() for sample in family.samples}
        assert found & {ratio, runs} == shown
        assert ("xdpscope_tracer_cpu_ratio" in found) == (ratio in shown)


def samples(report: CostReport) -> dict[tuple[str, ...], float]:
    class Source:
        def collect(self) -> Any:
            return families(report)

    registry = CollectorRegistry()
    registry.register(Source())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_metrics() -> None:
    program = Cost(7, "xdp_filter", 450, 0.9, 0.25, 0.002)
    tracer = Cost(7, "xdp_filter", 450, 0.3, 0.05, 0.0001)
    report = CostReport((program,), (tracer,), 0.02, 0.05, 4096, 0.1, Level.HARDER)
    assert samples(report) == {
        ("xdp_program_kernel_runs_total", "7", "xdp_filter"): 450,
        ("xdp_program_kernel_run_seconds_total", "7", "xdp_filter"): 0.9,
        ("xdp_program_cpu_ratio", "7", "xdp_filter"): 0.25,
        ("xdpscope_tracer_cpu_ratio", "7", "xdp_filter"): 0.05,
        ("xdpscope_tracer_seconds_per_packet", "7", "xdp_filter"): 0.0001,
        ("xdpscope_cpu_ratio", "agent"): 0.02,
        ("xdpscope_cpu_ratio", "tracers"): 0.05,
        ("xdpscope_map_memory_bytes",): 4096,
        ("xdpscope_budget_cpu_ratio",): 0.1,
        ("xdpscope_budget_level",): 1,
    }
    assert samples(CostReport()) == {("xdpscope_budget_level",): 0}


def test_the_page_shows_cost_and_budget() -> None:
    assert as_text(CostReport()) == {}
    assert as_text(CostReport(agent_cpu=0.0213, tracers_cpu=0.004)) == {
        "Own CPU": "agent 2.1% of one CPU, tracers 0.4%"
    }
    found = as_text(CostReport(agent_cpu=0.0213, budget=0.025, level=Level.OFF))
    assert found == {
        "Own CPU": "agent 2.1% of one CPU",
        "Budget": "2.5%: no packet is taken for flows",
    }


@pytest.mark.parametrize(
    ("cpus", "interrupts"), [("", True), ("(null)", True), ("2-3", False), (None, True)]
)
def test_isolated_cpus_are_not_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpus: str | None, interrupts: bool
) -> None:
    """The kernel interrupts each CPU to switch its statistics on: only for a budget, then."""
    file = tmp_path / "isolated"
    if cpus is not None:
        file.write_text(f"{cpus}\n")
    monkeypatch.setattr(statistics, "_ISOLATED", (file,))
    monkeypatch.setattr(statistics, "_SYSCTL", tmp_path / "no sysctl")
    measured: list[str] = []

    def measure(*_: object, **__: object) -> None:
        measured.append("window")

    monkeypatch.setattr(statistics.Statistics, "measure", measure)
    probe = CostProbe()
    scan, tracers = Scan(Snapshot()), cast(Tracers, SimpleNamespace(costs=list))
    for budget in (None, 0.05):
        probe._budget = budget
        probe._window(scan, tracers, 0.1)
    assert len(measured) == 1 + interrupts


@pytest.mark.parametrize(("budget", "often"), [(None, False), (0.1, True)])
def test_measuring_many_programs_takes_no_more_of_a_cpu(
    monkeypatch: pytest.MonkeyPatch, budget: float | None, often: bool
) -> None:
    """Each measurement takes 20 ms: without a budget, the next one is 20 seconds later."""
    lengths: list[float] = []
    measured = threading.Event()

    def measure(_: object, scan: object, tracers: object, length: float) -> None:
        lengths.append(length)
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        if len(lengths) >= 3:
            measured.set()

    monkeypatch.setattr(CostProbe, "_measure", measure)
    probe = CostProbe(interval=0.01, budget_interval=0.01)
    probe._budget = budget
    usual = SimpleNamespace(usual_sample_rate=None)
    with closing(probe):
        probe.update(Scan(Snapshot(), tracers=cast(Tracers, usual)))
        assert measured.wait(60.0 if often else 1.0) is often
    assert lengths[0] == pytest.approx(0.0001)
    assert often or len(lengths) == 1


@pytest.mark.parametrize(
    ("usual", "rates"), [(1, [1, 4, 0, 4, 1]), (10, [10, 40, 0, 40, 10]), (None, [])]
)
def test_each_level_has_a_sample_rate_and_a_message(usual: int | None, rates: list[int]) -> None:
    """Without flows, there is nothing to reduce."""
    found: list[int] = []

    replaced: list[Set[int]] = []

    def sample_flows(rate: int, without: Set[int]) -> None:
        if found[-1:] != [rate]:
            found.append(rate)
            replaced.append(without)
        assert without <= replaced[-1] or rate == 0

    tracers = SimpleNamespace(usual_sample_rate=usual, sample_flows=sample_flows)
    probe = CostProbe()
    probe._budget = 0.1
    with capture_logs() as log:
        for second in range(0, 200, 2):
            measured = Measurement(float(second), 0.0, 0.5 if second < 40 else 0.0)
            traced = [Cost(7, "busy", 1, 1.0, cpu=0.003), Cost(8, "idle", 1, 1.0, cpu=0.001)]
            probe._act(measured, cast(Tracers, tracers), traced)
    assert found == rates
    assert replaced == [{7} if rate == 0 else set() for rate in rates]
    assert probe._control.level is Level.USUAL
    assert [entry["event"] for entry in log] == (usual is not None) * [
        "above the budget: flows are sampled harder",
        "above the budget: no packet is taken for flows",
        "above the budget although no packet is taken for flows",
        "below half of the budget: flows are sampled again",
        "flows are counted as configured again",
    ]
