# SPDX-License-Identifier: Apache-2.0
"""The agent about itself."""

import platform
from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xdpscope import __version__, libbpf
from xdpscope.attach.reason import Reason

# The reasons that follow from an attempt; the others are known without one.
_ATTEMPTED = (Reason.BUSY, Reason.KERNEL_REFUSED, Reason.UNSUPPORTED_ENTRY, Reason.VANISHED)


class AgentCollector(Collector):
    """``xdpscope_build_info``, ``xdpscope_attach_failures_total`` and the hook on devices."""

    def __init__(
        self,
        attach_failures: Callable[[], Mapping[Reason, int]],
        watches_devices: Callable[[], bool | None] = lambda: None,
    ) -> None:
        """Take what to read from; ``watches_devices`` returns None as long as it is not known."""
        self._attach_failures = attach_failures
        self._watches_devices = watches_devices

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
        hook = GaugeMetricFamily(
            "xdpscope_device_hook_active",
            "Whether the kernel tells tracers of new devices. If not, the device of each packet is"
            " identified, which is as exact and costs more.",
        )
        watches = self._watches_devices()
        if watches is not None:
            hook.add_metric([], int(watches))
        return [build, failures, hook]
