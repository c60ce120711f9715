# SPDX-License-Identifier: Apache-2.0
"""What happened to packets after the verdict, as the kernel's xdp:* tracepoints report it.

The tracepoints' programs count in the kernel. Each scan reads the counts, a scrape only shows the
last result.
"""

import threading
import time
from collections.abc import Iterable, Mapping

import structlog
from prometheus_client.core import Metric

from xdpscope.config import Outcomes
from xdpscope.counters.clients import READER
from xdpscope.counters.totals import Location
from xdpscope.discovery.model import Mode, Snapshot
from xdpscope.errors import KernelError
from xdpscope.probes.outcomes import drivers
from xdpscope.probes.outcomes.metrics import families
from xdpscope.probes.outcomes.report import OutcomeReport
from xdpscope.probes.outcomes.totals import RETENTION, Totals
from xdpscope.probes.outcomes.tracepoints import Outcome, Record, Tracepoints
from xdpscope.probes.probe import Probe, Scan

__all__ = ["OutcomesProbe"]

_log = structlog.get_logger(__name__)


class OutcomesProbe(Probe):
    """Counts exceptions, failed redirects, and what devmaps and cpumaps transmit and drop."""

    name = "outcomes"

    def __init__(self, patience: float = RETENTION) -> None:
        """Attach to nothing yet; see ``Totals`` for ``patience``."""
        self._enabled = True
        self._tracepoints: Tracepoints | None = None
        self._totals = Totals(patience)
        self._lock = threading.Lock()  # for `readers`, which scrapes change
        self._lost = 0  # before the tracepoints were attached again
        self._unknown: set[str] = set()  # drivers that were logged
        self._snapshot = Snapshot()
        self._supported: Mapping[Location, frozenset[Outcome]] = {}  # of that snapshot
        self._report = OutcomeReport()

    def update(self, scan: Scan) -> None:
        """Read what the tracepoints have counted. The first call attaches to them.

        Raises:
            KernelError: the kernel refuses the programs, or its maps cannot be read.
        """
        if not self._enabled:
            self._report = OutcomeReport()
            return
        if self._tracepoints is None:
            self._tracepoints = Tracepoints()
            self._totals.restart()
            self._snapshot = Snapshot()
        tracepoints = self._tracepoints
        records = tracepoints.read()
        with self._lock:
            self._totals.update(scan.snapshot, records, self._delete, time.monotonic())
        if scan.snapshot is not self._snapshot:  # it is the same while nothing changes
            self._supported = self._supported_in(scan.snapshot, tracepoints.outcomes)
            self._snapshot = scan.snapshot
        self._report = OutcomeReport(
            packets=self._totals.values(),
            supported=self._supported,
            lost=self._lost + tracepoints.lost,
            reading=self._totals.reading,
        )

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of the last update."""
        report = self._report
        client = READER.get()
        if client:
            with self._lock:
                self._totals.readers.shown(client, report.reading, time.monotonic())
        return families(report)

    def reconfigure(self, section: object) -> None:
        """Detach from the tracepoints if they are disabled; the next update attaches again."""
        self._enabled = not isinstance(section, Outcomes) or section.enabled
        if not self._enabled:
            self.close()

    def close(self) -> None:
        """Detach from the tracepoints."""
        if self._tracepoints is not None:
            self._lost += self._tracepoints.lost
            self._tracepoints.close()
            self._tracepoints = None

    def _delete(self, record: Record) -> Record | None:
        try:
            return self._tracepoints.delete(record) if self._tracepoints else None
        except KernelError as error:
            _log.debug("cannot delete a record of outcomes", error=str(error))
            return None

    def _supported_in(
        self, snapshot: Snapshot, reported: frozenset[Outcome]
    ) -> dict[Location, frozenset[Outcome]]:
        """Return the outcomes that are reported, for each interface that runs a program."""
        found: dict[Location, frozenset[Outcome]] = {}
        for program_id, attachments in snapshot.attachments.items():
            program = snapshot.programs.get(program_id)
            if program is None or program.at_egress or program.extension:
                continue
            for at in attachments:
                if not at.receives:
                    continue
                location = at.netns, at.interface
                driver = snapshot.drivers.get(location, "")
                outcomes = drivers.supported(at.mode, driver) & reported
                # Two programs, one of them on the card: as little as is reported for either.
                before = found.get(location)
                found[location] = outcomes if before is None else before & outcomes
                if at.mode is Mode.NATIVE and not drivers.known(driver):
                    self._log_unknown(driver, at.interface)
        return found

    def _log_unknown(self, driver: str, interface: str) -> None:
        if driver not in self._unknown:
            self._unknown.add(driver)
            _log.info(
                "it is not known which outcomes a driver reports",
                driver=driver or "unknown",
                interface=interface,
            )
