# SPDX-License-Identifier: Apache-2.0
"""Capabilities of the agent, one package each. ``REGISTRY`` lists them.

A new probe is one package here and one line in ``REGISTRY``.
"""

from collections.abc import Callable
from typing import Final

from xdpscope.probes.cost import CostProbe
from xdpscope.probes.events import EventsProbe
from xdpscope.probes.flows import FlowsProbe
from xdpscope.probes.latency import LatencyProbe
from xdpscope.probes.maps import MapsProbe
from xdpscope.probes.outcomes import OutcomesProbe
from xdpscope.probes.probe import Probe, Scan, TracerProbe
from xdpscope.probes.running import RunningProbes
from xdpscope.probes.sockets import SocketsProbe
from xdpscope.probes.verdicts import VerdictsProbe

__all__ = ["REGISTRY", "Probe", "RunningProbes", "Scan", "TracerProbe"]

REGISTRY: Final[tuple[Callable[[], Probe], ...]] = (
    VerdictsProbe,
    FlowsProbe,
    LatencyProbe,
    MapsProbe,
    OutcomesProbe,
    SocketsProbe,
    EventsProbe,
    CostProbe,
)
"""What makes each probe. Nothing is read or loaded before the first scan."""
