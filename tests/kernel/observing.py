# SPDX-License-Identifier: Apache-2.0
"""The product's observer together with the probes that read its tracers."""

from __future__ import annotations

from xdpscope import observer
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.config import Flows, Latency
from xdpscope.counters.clients import PATIENCE
from xdpscope.counters.series_index import Owner
from xdpscope.discovery.inventory import Inventory
from xdpscope.probes import RunningProbes
from xdpscope.probes.flows import FlowsProbe
from xdpscope.probes.flows.query import FlowQuery
from xdpscope.probes.flows.report import FlowReport, FlowsFound
from xdpscope.probes.latency import LatencyProbe
from xdpscope.probes.latency.report import Latency as Measured
from xdpscope.probes.verdicts import VerdictsProbe
from xdpscope.probes.verdicts.by_cpu import CpuCounts
from xdpscope.report import Count


class Observer(observer.Observer):
    """Compose what the agent composes, and read the probes by short names."""

    def __init__(
        self,
        engine: Engine,
        inventory: Inventory,
        selection: Selection,
        flows: Flows | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._verdicts, self._latency = VerdictsProbe(), LatencyProbe()
        self._flows = FlowsProbe(patience)
        self._flows.reconfigure(flows)
        self.probes = RunningProbes([self._verdicts, self._flows, self._latency])
        super().__init__(engine, inventory, selection, self.probes)

    def measure(self, latency: Latency) -> None:
        """Measure times, or not, from the next scan on."""
        self._latency.reconfigure(latency)

    def counts(self) -> list[Count]:
        return self._verdicts.counts()

    def cpu_counts(self) -> dict[Owner, CpuCounts]:
        return self._verdicts.cpu_counts()

    def latencies(self) -> list[Measured]:
        return self._latency.latencies()

    def flow_counts(self, client: str = "") -> FlowReport | None:
        return self._flows.report(client)

    def held_flows(self, query: FlowQuery | None = None) -> FlowsFound:
        return self._flows.find(query)
