# SPDX-License-Identifier: Apache-2.0
"""Histograms of the kernel's record become those that Prometheus reads."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from tests.collecting import Collecting

from xdpscope.discovery.model import XdpProgram
from xdpscope.probes.latency import metrics
from xdpscope.probes.latency.report import Latency
from xdpscope.probes.latency.times import BOUNDS, Times

TIMING = np.dtype([("total", np.uint64), ("buckets", np.uint64, 32)])


def timing(*cpus: dict[int, int]) -> Times:
    """Return what CPUs have counted, by the bucket's power of two."""
    records = np.zeros(len(cpus), TIMING)
    for record, packets in zip(records, cpus, strict=True):
        for power, count in packets.items():
            record["buckets"][power] = count
            record["total"] += count * 2**power
    return Times.of(records)


def test_cpus_are_summed_and_small_and_large_times_have_a_bucket() -> None:
    found = timing({0: 1, 4: 2, 5: 3, 26: 4, 27: 5, 31: 6}, {5: 7})
    assert found.buckets[:2] == (3, 10)
    assert found.buckets[-2:] == (4, 11)
    assert found.packets == 28
    assert found.seconds == pytest.approx((1 + 32 + 320 + 4 * 2**26 + 5 * 2**27 + 6 * 2**31) / 1e9)
    assert [count for _, count in found.cumulative][-1] == found.packets
    assert (BOUNDS[0], BOUNDS[-1]) == (16e-9, 2**26 / 1e9)


def test_quantiles_are_those_of_promql() -> None:
    """The expected values are histogram_quantile's."""
    assert timing().quantile(0.5) is None
    one_bucket = timing({10: 8})
    assert one_bucket.quantile(0.5) == pytest.approx(768e-9)
    assert one_bucket.quantile(0.99) == pytest.approx((512 + 512 * 0.99) / 1e9)
    assert timing({4: 10}).quantile(0.5) == pytest.approx(8e-9)
    assert timing({31: 1}).quantile(0.5) == 2**26 / 1e9
    assert timing({10: 1, 12: 1}).quantile(0.5) == pytest.approx(1024e-9)
    assert timing({10: 1, 12: 1}).quantile(0.99) == pytest.approx((2048 + 2048 * 0.98) / 1e9)


def test_both_formats_have_the_same_histogram() -> None:
    described = XdpProgram(32, "0" * 16, "filter", "filter", 3, True, "xdp")
    registry = CollectorRegistry()
    times = timing({4: 1, 7: 2, 30: 1})
    registry.register(Collecting(lambda: metrics.families([Latency(described, times)])))
    text, openmetrics = generate_latest(registry), generate_openmetrics(registry)
    for families in (read_text(text.decode()), read_openmetrics(openmetrics.decode())):
        (family,) = families
        assert (family.name, family.type) == ("xdp_program_run_seconds", "histogram")
        found = {
            (each.name.removeprefix(family.name), float(each.labels.get("le", "nan"))): each.value
            for each in family.samples
            if each.name != f"{family.name}_created"
        }
        buckets = {le: value for (name, le), value in found.items() if name == "_bucket"}
        assert buckets == dict(times.cumulative)
        rest = {name: value for (name, _), value in found.items() if name != "_bucket"}
        assert rest == {"_count": 4, "_sum": times.seconds}
