# SPDX-License-Identifier: Apache-2.0
"""The metrics of programs and of the agent itself. Those of a probe are in the probe's package."""

from xdpscope.metrics.agent import AgentCollector
from xdpscope.metrics.isolation import IsolatedCollectors, registry_of
from xdpscope.metrics.programs import ProgramCollector
from xdpscope.metrics.scans import ScanCollector

__all__ = [
    "AgentCollector",
    "IsolatedCollectors",
    "ProgramCollector",
    "ScanCollector",
    "registry_of",
]
