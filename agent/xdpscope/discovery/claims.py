# SPDX-License-Identifier: Apache-2.0
"""Extensions that are loaded for an entry function and not attached yet: for how long."""

import time
from collections.abc import Collection

import structlog

from xdpscope.kernel.holders import holders_of

_log = structlog.get_logger(__name__)

PATIENCE = 60.0
"""Seconds for which an extension that is loaded keeps a tracer from the function that it is for.

A tracer there would keep it from being attached. But whoever only loads one, and never attaches
it, must not be able to have a program go uncounted.
"""


class Claims:
    """Since when each extension has been waiting."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._given_up: set[int] = set()

    def given_up(self, waiting: Collection[int]) -> frozenset[int]:
        """Return the extensions that have been waiting for too long."""
        now = time.monotonic()
        self._since = {id: self._since.get(id, now) for id in waiting}
        over = {id for id, since in self._since.items() if now - since >= PATIENCE}
        for id in sorted(over - self._given_up):
            _log.warning(
                "an extension is loaded and not attached: its target is traced in spite of it",
                extension_id=id,
                held_by=holders_of(id),
                hint="to attach it, have programs.exclude name the target",
            )
        self._given_up = over
        return frozenset(over)

    @property
    def due(self) -> bool:
        """Return whether another extension has waited for too long since ``given_up``."""
        now = time.monotonic()
        return any(
            now - since >= PATIENCE for id, since in self._since.items() if id not in self._given_up
        )
