# SPDX-License-Identifier: Apache-2.0
"""Keeps one collector's failure from the others."""

import time
from collections.abc import Iterable, Mapping

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xdpscope.counters.clients import SCRAPE_BEGAN
from xdpscope.errors import ObserverBusyError

_log = structlog.get_logger(__name__)


def registry_of(collectors: Mapping[str, Collector]) -> CollectorRegistry:
    """Return a registry with these collectors, isolated from each other.

    A page of it can be restricted to some metrics.
    """
    # They do not say beforehand which metrics they have. By default, prometheus_client leaves such
    # collectors out of a restricted page.
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(IsolatedCollectors(collectors))
    return registry


class IsolatedCollectors(Collector):
    """Several collectors as one; each one's duration and success are metrics themselves.

    A collector that raises would turn the whole page into an error. Here its metrics are missing
    from this scrape, and no others.
    """

    def __init__(self, collectors: Mapping[str, Collector]) -> None:
        self._collectors = dict(collectors)
        self._busy: set[str] = set()

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: without this, registering would collect."""
        return []

    def collect(self) -> Iterable[Metric]:
        duration = GaugeMetricFamily(
            "xdpscope_collector_duration_seconds",
            "Time that a collector took in this scrape.",
            labels=["collector"],
        )
        success = GaugeMetricFamily(
            "xdpscope_collector_success",
            "Whether a collector succeeded in this scrape.",
            labels=["collector"],
        )
        SCRAPE_BEGAN.set(time.monotonic())
        for name, collector in self._collectors.items():
            started = time.perf_counter()
            try:
                families = list(collector.collect())
            except ObserverBusyError as error:
                # For the whole time that a scan hangs, one log entry is enough.
                if name not in self._busy:
                    self._busy.add(name)
                    _log.warning("collector failed", collector=name, error=str(error))
                families = []
                success.add_metric([name], 0)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
                _log.exception("collector failed", collector=name, error=str(error))
                families = []
                success.add_metric([name], 0)
            else:
                self._busy.discard(name)
                success.add_metric([name], 1)
            duration.add_metric([name], time.perf_counter() - started)
            yield from families
        SCRAPE_BEGAN.set(None)
        yield duration
        yield success
