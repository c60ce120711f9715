# SPDX-License-Identifier: Apache-2.0
"""The maps that XDP programs use: how full they are, and how much memory they take.

Each scan reads them, a scrape only shows the last result. The number of series and the work of a
scan have limits, see the constants below.
"""

from collections.abc import Collection, Iterable

import structlog
from prometheus_client.core import Metric

from xdpscope.discovery.retry import Retries
from xdpscope.errors import KernelError
from xdpscope.probes.maps.entries import MAPS_LIMIT, EntryCounter
from xdpscope.probes.maps.metrics import families
from xdpscope.probes.maps.report import MapReport, ProgramMap
from xdpscope.probes.maps.source import MapSource
from xdpscope.probes.probe import Probe, Scan

__all__ = ["MapsProbe"]

_log = structlog.get_logger(__name__)

USES_LIMIT = 4096
"""Series of ``xdp_program_map_info``, at most. A program may use 64 maps."""

_ITERATOR = 0  # the one thing whose failures are noted here


class MapsProbe(Probe):
    """Reports the maps that the host's XDP programs refer to, each once.

    If there are more than ``MAPS_LIMIT``, it reports the maps with the lowest ids. These are the
    oldest, so that a series does not come and go with other maps.
    """

    name = "maps"
    section = "outcomes"

    def __init__(self) -> None:
        self._enabled = True
        self._counter: EntryCounter | None = None
        self._retries = Retries()
        self._source = MapSource()
        self._omitted = False
        self._report = MapReport()

    def update(self, scan: Scan) -> None:
        """Read the maps of the programs in a snapshot."""
        if not self._enabled:
            return
        programs = scan.snapshot.programs
        users: dict[int, list[int]] = {}  # program ids by map id
        for program_id, program in sorted(programs.items()):
            for map_id in program.map_ids:
                users.setdefault(map_id, []).append(program_id)
        ids = sorted(users)[:MAPS_LIMIT]
        facts = self._source.read(ids)
        counts = self._count_entries(facts)
        uses = [
            ProgramMap(program_id, programs[program_id].function, map_id)
            for map_id in facts
            for program_id in users[map_id]
        ]
        self._log_omitted(maps=len(users) - len(ids), uses=max(0, len(uses) - USES_LIMIT))
        self._report = MapReport(
            maps=tuple(facts.values()), entries=counts, uses=tuple(uses[:USES_LIMIT])
        )

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of the last update."""
        return families(self._report)

    def reconfigure(self, section: object) -> None:
        """Report maps, or not, as ``outcomes.enabled`` says."""
        self._enabled = bool(getattr(section, "enabled", True))
        if not self._enabled:
            self.close()
            self._report = MapReport()

    def close(self) -> None:
        """Unload the iterator."""
        if self._counter is not None:
            self._counter.close()
            self._counter = None

    def _count_entries(self, ids: Collection[int]) -> dict[int, int]:
        """Return numbers of entries by map id; none if this kernel refuses the iterator.

        A failure is tried again later: memory may have been short.
        """
        if not ids or (self._retries and not self._retries.due):
            return {}
        try:
            if self._counter is None:
                self._counter = EntryCounter()
            counts = self._counter.read(ids)
        except KernelError as error:
            if self._retries.failed(_ITERATOR, error):
                _log.warning("cannot count the entries of maps", error=error.summary)
            return {}
        self._retries.succeeded(_ITERATOR)
        return counts

    def _log_omitted(self, *, maps: int, uses: int) -> None:
        omitted = bool(maps or uses)
        if omitted and not self._omitted:
            _log.warning(
                "XDP programs use too many maps: the newest have no series",
                omitted_maps=maps,
                omitted_program_maps=uses,
            )
        self._omitted = omitted
