# SPDX-License-Identifier: Apache-2.0
"""Scans of the host: whether what the other metrics show is up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xdpscope.scans import ScanStatus


class ScanCollector(Collector):
    """``xdpscope_scan_*``; waits for no scan, because a scan may hang."""

    def __init__(self, status: Callable[[], ScanStatus]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        yield GaugeMetricFamily(
            "xdpscope_scan_last_success_timestamp_seconds",
            "When the last complete scan of the host ended, in Unix time; 0 before the first.",
            status.last_success or 0,
        )
        yield CounterMetricFamily(
            "xdpscope_scan_failures",
            "Scans that failed as a whole. What was known before stays.",
            status.failures,
        )
        duration = GaugeMetricFamily(
            "xdpscope_scan_duration_seconds",
            "Duration of the last scan that ended, failed ones included.",
        )
        if status.duration is not None:
            duration.add_metric([], status.duration)
        yield duration
        yield GaugeMetricFamily(
            "xdpscope_scan_interval_seconds",
            "The configured time between two scans, discovery.interval.",
            status.interval,
        )
