# SPDX-License-Identifier: Apache-2.0
"""The agent about itself."""

import platform
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xdpscope import __version__, libbpf
from xdpscope.tracing.reason import Reason

# Those that come of an attempt; the others are known without one.
_ATTEMPTED = (Reason.BUSY, Reason.KERNEL_REFUSED, Reason.UNSUPPORTED_ENTRY, Reason.VANISHED)


class AgentCollector(Collector):
    """``xdpscope_build_info`` and ``xdpscope_attach_failures_total``."""

    def __init__(self, attach_failures: Callable[[], Mapping[Reason, int]]) -> None:
        self._attach_failures = attach_failures

    def collect(self) -> Iterable[Metric]:
        build = GaugeMetricFamily(
            "xdpscope_build_info",
            "What this agent is made of and runs on.",
            labels=["version", "libbpf_version", "python_version", "kernel"],
        )
        build.add_metric(
            [__version__, libbpf.version(), platform.python_version(), platform.release()], 1
        )
        failures = CounterMetricFamily(
            "xdpscope_attach_failures",
            "Attempts to attach a tracer that failed.",
            labels=["reason"],
        )
        counted = self._attach_failures()
        for reason in _ATTEMPTED:
            failures.add_metric([reason], counted.get(reason, 0))
        return [build, failures]
