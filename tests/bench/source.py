# SPDX-License-Identifier: Apache-2.0
"""What the server of a bench serves: the metrics of a registry, and nothing else."""

from prometheus_client import CollectorRegistry

from xdpscope.metrics import IsolatedCollectors
from xdpscope.probes.flows.query import FlowQuery


class MetricsOnly:
    """A source for ``xdpscope.web.app`` without programs, flows, sockets and events."""

    def __init__(self, collectors: IsolatedCollectors) -> None:
        """Serve what these collect."""
        self.registry = CollectorRegistry()
        self.registry.register(collectors)

    def ready(self) -> bool:
        return True

    def problem(self) -> str | None:
        return None

    def programs(self, cpus: bool = False) -> list[dict[str, object]]:
        return []

    def flows(self, query: FlowQuery) -> dict[str, object]:
        return {"flows": []}

    def sockets(self) -> list[dict[str, object]]:
        return []

    def events(self, limit: int, since: float | None) -> list[dict[str, object]]:
        return []

    def status(self) -> dict[str, object]:
        return {}
