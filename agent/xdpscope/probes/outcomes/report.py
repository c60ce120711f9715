# SPDX-License-Identifier: Apache-2.0
"""Plain values about outcomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xdpscope.counters.totals import Location
from xdpscope.probes.outcomes.totals import Series
from xdpscope.probes.outcomes.tracepoints import Outcome


@dataclass(frozen=True, slots=True)
class OutcomeReport:
    """All outcomes of one moment."""

    packets: Sequence[tuple[Series, int]] = ()
    supported: Mapping[Location, frozenset[Outcome]] = field(default_factory=dict)
    lost: int | None = None  # packets whose outcome is in no series; None before the first update
    reading: int = 0  # number of the update
