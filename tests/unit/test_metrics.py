# SPDX-License-Identifier: Apache-2.0
"""The page's contents, from snapshots."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from tests.collecting import Collecting

from xdpscope.attach.reason import Reason
from xdpscope.config import Programs
from xdpscope.counters.records import REASONS
from xdpscope.counters.totals import Tally
from xdpscope.discovery.model import Attachment, ChainPosition, Mode, Part, Role, XdpProgram
from xdpscope.kernel.boot import BOOT_CLOCK
from xdpscope.metrics import (
    AgentCollector,
    ProgramCollector,
    registry_of,
)
from xdpscope.probes.flows import metrics as flows
from xdpscope.probes.flows.report import FlowReport, FlowRow
from xdpscope.probes.verdicts import metrics as verdicts
from xdpscope.report import Count, ProgramStatus

PROGRAM = XdpProgram(
    42, "0123456789abcdef", "xdp_filter_prog", "xdp_filter_program", 3, True, "xdp", load_time=10**9
)
ROOT = Part(Role.ROOT)
SIZING = Path(__file__).parents[2] / "docs" / "sizing.md"
EXAMPLE = {"program_id": "42", "program": "xdp_filter_program"}


def page(**collectors: Collector) -> list[tuple[str, dict[str, str], float]]:
    text = generate_latest(registry_of(collectors)).decode()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def test_a_page_can_be_restricted_to_some_metrics() -> None:
    counts = [Count(PROGRAM, ("host", "eth0"), Tally())]
    registry = registry_of({"v": Collecting(lambda: verdicts.families(counts))})
    names = ["xdp_bytes_total", "xdpscope_collector_success", "absent"]
    text = generate_latest(registry.restricted_registry(names)).decode()
    found = {each.name for each in text_string_to_metric_families(text)}
    assert found == {"xdp_bytes", "xdpscope_collector_success"}


def test_verdicts() -> None:
    tally = Tally()
    tally.counts[0, 1] = 2**53 + 2, 120
    samples = page(
        v=Collecting(lambda: verdicts.families([Count(PROGRAM, ("host", "eth0"), tally)]))
    )
    location = {**EXAMPLE, "netns": "host", "interface": "eth0"}
    assert ("xdp_packets_total", {**location, "verdict": "drop"}, 2**53 + 2) in samples
    assert ("xdp_bytes_total", {**location, "verdict": "drop"}, 120) in samples
    assert ("xdp_packets_total", {**location, "verdict": "unknown"}, 0) in samples
    assert sum(name == "xdp_packets_total" for name, *_ in samples) == 6


def test_flows() -> None:
    flow = FlowRow(
        PROGRAM, ("host", "eth0"), "drop", "tcp", "2001:db8::1", "2001:db8::2", 1024, 443, 3, 222, 0
    )
    tally = Tally()
    tally.counts[0, 1] = 10, 600
    tally.counts[1 + REASONS.index("truncated"), 1] = 2, 40
    count = Count(PROGRAM, ("host", "eth0"), tally)
    report = FlowReport(
        4, {"idle": 1, "pressure": 2}, 10, [flow], [count], [count], max_entries=4096
    )
    samples = page(f=Collecting(lambda: flows.families(report)))
    location = {**EXAMPLE, "netns": "host", "interface": "eth0"}
    ends = {"source": "2001:db8::1", "destination": "2001:db8::2"}
    own = location | ends | {"protocol": "tcp", "source_port": "1024", "destination_port": "443"}
    assert ("xdp_flow_packets_total", own | {"verdict": "drop"}, 3) in samples
    assert ("xdp_flow_bytes_total", own | {"verdict": "drop"}, 222) in samples
    other = location | dict.fromkeys(
        ("protocol", "source", "destination", "source_port", "destination_port"), "other"
    )
    assert ("xdp_flow_packets_total", other | {"verdict": "drop"}, 10) in samples
    assert ("xdp_flow_packets_total", other | {"verdict": "pass"}, 0) in samples
    why = location | {"verdict": "drop", "reason": "truncated"}
    assert ("xdp_flow_unaccounted_packets_total", why, 2) in samples
    assert ("xdp_flow_unaccounted_bytes_total", why, 40) in samples
    unaccounted = [value for name, _, value in samples if "unaccounted_packets" in name]
    assert len(unaccounted) == 4 * 6, "from 0 on, for each reason and verdict"
    assert sum(unaccounted) == 2
    assert ("xdp_flow_table_entries", {}, 4) in samples
    assert ("xdp_flow_table_max_entries", {}, 4096) in samples
    assert ("xdp_flow_evictions_total", {"reason": "pressure"}, 2) in samples
    assert ("xdpscope_flow_sample_rate", {}, 10) in samples


def test_series_of_a_program_are_as_many_as_documented() -> None:
    """docs/sizing.md and the sample limits of config/ rely on these numbers."""

    def series(*interfaces: str, with_flows: bool) -> int:
        counts = [Count(PROGRAM, ("host", each), Tally()) for each in interfaces]
        at = tuple(Attachment("host", each, Mode.NATIVE) for each in interfaces)
        status = ProgramStatus(PROGRAM, ROOT, at, None, missed=0, run_seconds=None)
        report = FlowReport(0, {}, 1, [], counts, counts) if with_flows else None
        samples = page(
            v=Collecting(lambda: verdicts.families(counts)),
            f=Collecting(lambda: flows.families(report)),
            p=ProgramCollector(lambda: [status]),
        )
        return sum("program_id" in labels for _, labels, _ in samples)

    rows = re.findall(r"^\| .* \| (\d+) \|$", SIZING.read_text(), re.MULTILINE)
    one, more = series("eth0", with_flows=True), series("eth0", "eth1", with_flows=True)
    one_without, more_without = (
        series("eth0", with_flows=False),
        series("eth0", "eth1", with_flows=False),
    )
    assert rows[:4] == [str(n) for n in (one, more - one, one_without, more_without - one_without)]


def test_before_the_first_report_no_flow_metric_has_a_sample() -> None:
    assert not [
        name for name, *_ in page(f=Collecting(lambda: flows.families(None))) if "flow" in name
    ]


def test_programs() -> None:
    at = (
        Attachment("host", "eth0", Mode.NATIVE),
        Attachment("blue", "eth0", Mode.GENERIC),
        Attachment("host", "bond0", Mode.NATIVE, receives=False),
        Attachment("host", "eth1", Mode.NATIVE, via="bond0"),
    )
    status = ProgramStatus(PROGRAM, ROOT, at, None, missed=3, run_seconds=0.25)
    samples = page(p=ProgramCollector(lambda: [status]))
    info = {"tag": "0123456789abcdef", "role": "root", "attach_type": "xdp"}
    assert ("xdp_program_info", EXAMPLE | info, 1) in samples
    found = [each for name, *each in samples if name == "xdp_program_attachment_info"]
    labels = ("netns", "interface", "mode", "via")
    assert found == [
        [EXAMPLE | dict(zip(labels, location, strict=True)), 1]
        for location in (
            ("host", "eth0", "native", ""),
            ("blue", "eth0", "generic", ""),
            ("host", "eth1", "native", "bond0"),
        )
    ]
    assert ("xdp_program_traced", EXAMPLE | {"reason": ""}, 1) in samples
    assert ("xdpscope_tracer_missed_total", EXAMPLE, 3) in samples
    assert ("xdpscope_tracer_run_seconds_total", EXAMPLE, 0.25) in samples


def test_expected_programs() -> None:
    status = ProgramStatus(PROGRAM, ROOT, (), None, missed=0, run_seconds=None)
    for expected, shown in (
        ((), []),
        (("other", PROGRAM.tag), [1]),
        (("other", PROGRAM.function[:3] + "*"), [1]),
        (("other",), [0]),
    ):
        config = Programs(expected=expected)
        samples = page(p=ProgramCollector(lambda: [status], config.expects))
        assert [v for name, _, v in samples if name == "xdp_program_expected"] == shown


def test_time_of_loading() -> None:
    status = ProgramStatus(PROGRAM, ROOT, (), None, missed=0, run_seconds=None)
    samples = page(p=ProgramCollector(lambda: [status]))
    at = BOOT_CLOCK.unix_time(PROGRAM.load_time)
    assert ("xdp_program_loaded_timestamp_seconds", EXAMPLE, at) in samples


def test_a_component_of_several_dispatchers() -> None:
    part = Part(Role.COMPONENT, (ChainPosition(23, 0), ChainPosition(31, 2), ChainPosition(40, 5)))
    status = ProgramStatus(PROGRAM, part, (), None, missed=0, run_seconds=None)
    samples = page(p=ProgramCollector(lambda: [status]))
    found = [labels for name, labels, _ in samples if name == "xdp_program_component_info"]
    assert found == [
        EXAMPLE | {"dispatcher_id": dispatcher, "position": position}
        for dispatcher, position in (("23", "0"), ("31", "2"), ("40", "5"))
    ]
    roles = [labels["role"] for name, labels, _ in samples if name == "xdp_program_info"]
    assert roles == ["component"]


def test_a_program_that_vanished_keeps_its_counters() -> None:
    """Its last counts are for every scraper to read."""
    status = ProgramStatus(PROGRAM, ROOT, (), Reason.VANISHED, missed=3, run_seconds=0.25)
    samples = page(p=ProgramCollector(lambda: [status]))
    assert [name for name, *_ in samples if name.startswith("xdp_")] == ["xdp_program_traced"]
    assert ("xdpscope_tracer_missed_total", EXAMPLE, 3) in samples
    assert ("xdpscope_tracer_run_seconds_total", EXAMPLE, 0.25) in samples


def test_attach_failures_start_at_0() -> None:
    samples = page(a=AgentCollector(lambda: Counter({Reason.BUSY: 2})))
    found = {labels["reason"]: v for name, labels, v in samples if "failures" in name}
    assert found == {"busy": 2, "kernel_refused": 0, "unsupported_entry": 0, "vanished": 0}


class Failing(Collector):
    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("half_of_it", "Must not be on the page.", value=1)
        raise RuntimeError("the kernel had a bad day")


def test_one_collector_fails_alone() -> None:
    samples = page(
        bad=Failing(),
        good=Collecting(lambda: verdicts.families([Count(PROGRAM, ("h", "e"), Tally())])),
    )
    success = {labels["collector"]: v for name, labels, v in samples if name.endswith("_success")}
    assert success == {"bad": 0, "good": 1}
    assert "xdp_packets_total" in {name for name, *_ in samples}
    assert "half_of_it" not in {name for name, *_ in samples}
    durations = [v for name, _, v in samples if name == "xdpscope_collector_duration_seconds"]
    assert len(durations) == 2 and all(value >= 0 for value in durations)


def test_hostile_names_stay_label_values() -> None:
    name = 'a"} 1\nxdp_fake_total{b="\\'
    samples = page(
        v=Collecting(lambda: verdicts.families([Count(PROGRAM, ("host", name), Tally())]))
    )
    assert {labels.get("interface") for _, labels, _ in samples} == {name, None}
