# SPDX-License-Identifier: Apache-2.0
"""The Prometheus metrics. Collectors read; they never attach."""

from xdpscope.metrics.agent import AgentCollector
from xdpscope.metrics.flows import FlowCollector
from xdpscope.metrics.isolation import SCRAPE_BEGAN, IsolatedCollectors
from xdpscope.metrics.latency import LatencyCollector
from xdpscope.metrics.programs import ProgramCollector
from xdpscope.metrics.scans import ScanCollector
from xdpscope.metrics.verdicts import VerdictCollector

__all__ = [
    "SCRAPE_BEGAN",
    "AgentCollector",
    "FlowCollector",
    "IsolatedCollectors",
    "LatencyCollector",
    "ProgramCollector",
    "ScanCollector",
    "VerdictCollector",
]
