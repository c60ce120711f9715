# SPDX-License-Identifier: Apache-2.0
"""Recent changes of XDP programs, in the log and at ``/api/v1/events``.

They follow from successive scans. A change that is undone before the next scan has no event.
"""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

import structlog
from prometheus_client.core import Metric

from xdpscope.discovery.model import Snapshot
from xdpscope.probes.events.changes import changes
from xdpscope.probes.events.report import Event, NotedEvent
from xdpscope.probes.probe import Probe, Scan

__all__ = ["EVENTS_LIMIT", "EventsProbe"]

_log = structlog.get_logger(__name__)

EVENTS_LIMIT = 1000
"""Events that are kept: the newest."""


class EventsProbe(Probe):
    """Keeps what has changed since the agent's first scan. It has no metrics."""

    name = "events"
    section = "discovery"

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._last: Snapshot | None = None
        self._section: object = None
        self._other_scope = False
        # Replaced as a whole: another thread reads it.
        self._events: deque[NotedEvent] = deque()

    def update(self, scan: Scan) -> None:
        """Note what has changed since the last scan."""
        after = scan.snapshot
        if after is self._last or not after.namespaces:  # no scan has succeeded yet
            return
        before, self._last = self._last, after
        if before is None:
            return
        if self._other_scope:
            # Programs in namespaces that are no longer read are not detached.
            before = replace(before, attachments=after.attachments)
            self._other_scope = False
        found = changes(before, after)
        if not found:
            return
        # The clock may be set back, but a later event never has an earlier time.
        now = round(time.time(), 3)
        if self._events:
            now = max(now, self._events[-1].time)
        noted = (NotedEvent(now, event) for event in found)
        self._events = deque((*self._events, *noted), EVENTS_LIMIT)
        for event in found:
            _log_event(event)

    def collect(self) -> Iterable[Metric]:
        """Return no metrics."""
        return ()

    def events(self, limit: int, since: float | None = None) -> list[NotedEvent]:
        """Return the newest events, the oldest of them first.

        Args:
            limit: At most so many.
            since: Only events after this Unix time.
        """
        found = [each for each in self._events if since is None or each.time > since]
        return found[-limit:]

    def reconfigure(self, section: object) -> None:
        """Note whether other network namespaces are read from now on: ``discovery.netns``."""
        before, self._section = self._section, section
        if before is not None and getattr(before, "netns", 0) != getattr(section, "netns", 0):
            self._other_scope = True

    def close(self) -> None:
        """Do nothing: nothing is held."""


def _log_event(event: Event) -> None:
    facts: dict[str, object] = {
        "program_id": event.program.id,
        "program": event.program.program,
        "tag": event.program.tag,
        "role": event.role,
        "uid": event.uid,
    }
    if event.location is not None:
        at = event.location
        facts |= {"netns": at.netns, "interface": at.interface, "mode": str(at.mode)}
    if event.previous is not None:
        facts |= {
            "previous_id": event.previous.id,
            "previous_program": event.previous.program,
            "previous_tag": event.previous.tag,
        }
    _log.info(f"program {event.change}", **facts)
