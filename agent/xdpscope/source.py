# SPDX-License-Identifier: Apache-2.0
"""Read from a running agent what the web application shows."""

import platform
from collections.abc import Mapping, Sequence

from prometheus_client import ProcessCollector

from xdpscope import __version__
from xdpscope.attach.reason import Reason
from xdpscope.describe import as_json
from xdpscope.errors import ObserverBusyError
from xdpscope.metrics import (
    AgentCollector,
    ProgramCollector,
    ScanCollector,
    registry_of,
)
from xdpscope.probes.cost import CostProbe
from xdpscope.probes.cost.report import as_text as cost_as_text
from xdpscope.probes.events import EventsProbe
from xdpscope.probes.events.report import as_json as event_as_json
from xdpscope.probes.flows import FlowsProbe
from xdpscope.probes.flows.query import FlowQuery
from xdpscope.probes.flows.report import FlowsFound
from xdpscope.probes.flows.report import as_json as flows_as_json
from xdpscope.probes.latency import LatencyProbe
from xdpscope.probes.latency.report import as_json as latency_as_json
from xdpscope.probes.sockets import SocketsProbe
from xdpscope.probes.sockets.report import as_json as socket_as_json
from xdpscope.probes.verdicts import VerdictsProbe
from xdpscope.probes.verdicts.report import as_json as count_as_json
from xdpscope.probes.verdicts.report import cpus_as_json
from xdpscope.report import ProgramStatus
from xdpscope.scanner import ScanThread
from xdpscope.scans import ScanStatus


class AgentSource:
    """Give the web application its data. There is none until the BPF programs are loaded."""

    def __init__(self, scan_thread: ScanThread) -> None:
        self._scan_thread = scan_thread
        probes = scan_thread.probes
        self._verdicts = probes.find(VerdictsProbe)
        self._flows = probes.find(FlowsProbe)
        self._latency = probes.find(LatencyProbe)
        self._sockets = probes.find(SocketsProbe)
        self._events = probes.find(EventsProbe)
        self._cost = probes.find(CostProbe)
        self.registry = registry_of(
            {
                **probes.collectors(),
                "programs": ProgramCollector(self._statuses, self._expects),
                "agent": AgentCollector(self._attach_failures, self._watches_devices),
                "scans": ScanCollector(self._scans),
                "process": ProcessCollector(registry=None),
            }
        )

    def ready(self) -> bool:
        """Return whether the first scan has finished."""
        observer = self._scan_thread.observer
        return observer is not None and observer.scanned

    def problem(self) -> str | None:
        """Return why the agent is not healthy. None if it is."""
        scans = self._scans()
        return f"last successful scan: {scans}" if scans.overdue else None

    def programs(self, cpus: bool = False) -> list[dict[str, object]]:
        """Return every program as ``xdpscope list --json`` prints it, with counts by location.

        With ``cpus``, also return the counts of each CPU.
        """
        observer = self._scan_thread.observer
        if observer is None:
            return []
        of_cpus = self._verdicts.cpu_counts() if cpus and self._verdicts else None
        counts: dict[int, list[dict[str, object]]] = {}
        for count in self._verdicts.counts() if self._verdicts else ():
            shown = count_as_json(count)
            if of_cpus is not None:
                found = of_cpus.get((count.program.id, count.location))
                shown["cpus"] = [] if found is None else cpus_as_json(found)
            counts.setdefault(count.program.id, []).append(shown)
        measured = self._latency.latencies() if self._latency else ()
        latencies = {each.program.id: latency_as_json(each) for each in measured}
        return [
            as_json(status)
            | {"counts": counts.get(status.program.id, [])}
            | {"latency": latencies.get(status.program.id)}
            for status in observer.statuses()
        ]

    def flows(self, query: FlowQuery) -> dict[str, object]:
        """Return the flows in the table, as ``/api/v1/flows`` shows them."""
        if self._scan_thread.observer is None or self._flows is None:
            return flows_as_json(FlowsFound(enabled=self._scan_thread.config.flows.enabled))
        return flows_as_json(self._flows.find(query))

    def sockets(self) -> list[dict[str, object]]:
        """Return the open AF_XDP sockets, as ``xdpscope list --json`` prints them."""
        return [socket_as_json(each) for each in self._sockets.sockets()] if self._sockets else []

    def events(self, limit: int, since: float | None) -> list[dict[str, object]]:
        """Return the newest changes of programs, as ``/api/v1/events`` shows them."""
        found = self._events.events(limit, since) if self._events else ()
        return [event_as_json(each) for each in found]

    def status(self) -> dict[str, object]:
        """Return the facts at the top of the page."""
        try:
            statuses = self._statuses()
        except ObserverBusyError:
            traced = missed = "not to be read now"
        else:
            traced = f"{sum(s.reason is None for s in statuses)} of {len(statuses)}"
            missed = f"{sum(status.missed for status in statuses):,}"
        held = self._flows.held if self._flows else None
        cost = cost_as_text(self._cost.report) if self._cost else {}
        return {
            "Ready": self.ready(),
            "Last scan": str(self._scans()),
            "Programs traced": traced,
            "Packets missed": missed,
            "Failed attachments": f"{sum(self._attach_failures().values()):,}",
            "Flows held": "off" if held is None else f"{held:,}",
            **cost,
            "Host": platform.node(),
            "Kernel": platform.release(),
            "Agent": __version__,
        }

    def _scans(self) -> ScanStatus:
        return self._scan_thread.scans.status(self._scan_thread.config.discovery.interval)

    def _statuses(self) -> Sequence[ProgramStatus]:
        observer = self._scan_thread.observer
        return observer.statuses() if observer is not None else ()

    def _expects(self, *names: str) -> bool | None:
        return self._scan_thread.config.programs.expects(*names)

    def _watches_devices(self) -> bool | None:
        observer = self._scan_thread.observer
        return observer.watches_devices if observer is not None else None

    def _attach_failures(self) -> Mapping[Reason, int]:
        observer = self._scan_thread.observer
        return observer.attach_failures() if observer is not None else {}
