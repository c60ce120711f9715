# SPDX-License-Identifier: Apache-2.0
"""No counter on the page decreases, and none disappears, whatever happens to a target."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.forked import observing
from tests.kernel.lab import Lab
from tests.kernel.observing import Observer
from tests.kernel.pinned import READ_ONLY, WRITING, udp
from xdpscope.attach.reason import Selection
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import Config, GlobFilter
from xdpscope.libbpf.stats import run_time_stats
from xdpscope.scans import ScanRecord
from xdpscope.source import AgentSource

pytestmark = pytest.mark.every_kernel

COST = "xdpscope_tracer_run_seconds_total"
FLOWS = FlowSizes(sets=64, sample_rate=1)
KEPT = 1000.0
"""Seconds that what is gone stays: longer than the test takes."""

Key = tuple[str, tuple[tuple[str, str], ...]]


def counters(observer: Observer) -> dict[Key, float]:
    """Return every counter on the page of an agent that has this observer."""
    thread = SimpleNamespace(
        observer=observer, probes=observer.probes, config=Config(), scans=ScanRecord()
    )
    page = AgentSource(cast(Any, thread))
    families = text_string_to_metric_families(generate_latest(page.registry).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        if family.type == "counter"
        for sample in family.samples
    }


class CounterWatch:
    """Compares the page with the page before."""

    def __init__(self) -> None:
        self.observer: Observer | None = None
        self._before: dict[Key, float] = {}

    def check(self, what: str) -> None:
        assert self.observer is not None
        now, before = counters(self.observer), self._before
        fell = {
            key: (before[key], now[key]) for key in now.keys() & before if now[key] < before[key]
        }
        assert not fell, f"{what}: {fell}"
        # A flow may lose its series: its packets are then in `other`.
        gone = {key for key in before.keys() - now if "flow" not in key[0] or "other" in str(key)}
        assert not gone, f"{what}: {gone}"
        self._before = now

    def restart(self, observer: Observer, program: str) -> None:
        """Go on with another agent: what is pinned of a program goes on, all else starts at 0."""
        self.observer = observer
        kept = "xdp_packets_total", "xdp_bytes_total", "xdp_flow_unaccounted_packets_total"
        self._before = {
            (name, labels): value
            for (name, labels), value in self._before.items()
            if name in kept and ("program", program) in labels
        }

    def cost(self, program: str) -> float:
        """Return what observing this program has taken."""
        found = [
            value
            for (name, labels), value in self._before.items()
            if name == COST and ("program", program) in labels
        ]
        return sum(found)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(None, id="verdicts"),
        pytest.param(FLOWS, id="flows", marks=pytest.mark.first_kernel),
    ],
)
def test_no_counter_decreases(
    lab: Lab, pin_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: FlowSizes | None
) -> None:
    """Follow-up, detach, attach, replacement, the end of a program, and a restart with pins."""
    veth = lab.veth("xst0")
    first, second = lab.load(READ_ONLY, "flows"), lab.load(WRITING, "flows")
    lab.attach(first, veth)
    scan_thread = CounterWatch()

    def send(what: str) -> None:
        for port in range(4000, 4005):
            veth.send(udp(port), times=20)
        scan_thread.check(what)

    def before_the_follow_up() -> None:
        log_attached()
        send("before the follow-up")

    def scan(what: str) -> None:
        observer.scan(KEPT)
        scan_thread.check(what)
        send(what)

    with run_time_stats():
        with observing(pin_path, sizes) as observer:
            scan_thread.observer = observer
            log_attached = observer._targets.log_attached
            monkeypatch.setattr(observer._targets, "log_attached", before_the_follow_up)
            scan("followed up")
            assert scan_thread.cost(READ_ONLY) > 0
            observer.reconfigure(Selection(programs=GlobFilter(exclude=(READ_ONLY,))))
            scan("detached")
            observer.reconfigure(Selection())
            scan("attached again")
            lab.attach(second, veth)
            scan("replaced")
            first.close()
            scan("held by the tracer alone")
            scan("gone")
            assert scan_thread.cost(WRITING) > 0
        veth.send(udp(4000), times=20)
        with observing(pin_path, sizes) as observer:
            scan_thread.restart(observer, WRITING)
            observer.scan(KEPT)
            scan_thread.check("restarted")
            assert scan_thread.cost(WRITING) == 0, "starts at 0 with each agent"
            scan("at the end")
