# SPDX-License-Identifier: Apache-2.0
"""What causes each alert on a real host: the list behind test_alerts.py.

``hosts.py`` does what is described here. A unit test checks that each alert of the rules has a
cause, or a reason why it has none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

WELL, ILL, NOBODY = "well", "ill", "nobody"
"""Whom an alert is about. A well agent shows what its host's programs do. The other agent is ill
itself. One alert is about no agent: there is none.
"""


@dataclass(frozen=True)
class Cause:
    """The cause of an alert."""

    whom: str
    what: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the alert, beside its name and instance."""


_DECIDING: Final = "decide_by_first_payload_byte"

AT_ONCE: Final = {
    "XdpPacketsAborted": Cause(
        WELL, "a program returns XDP_ABORTED", {"program": _DECIDING, "interface": "xsfaults"}
    ),
    "XdpVerdictUnknown": Cause(
        WELL, "a program returns 77", {"program": _DECIDING, "interface": "xsfaults"}
    ),
    "XdpProgramNotTraced": Cause(
        WELL, "a program without BTF is attached", {"program": "decide_aborted", "reason": "no_btf"}
    ),
    "XdpProgramUnexpected": Cause(
        WELL, "a program is loaded that is not in programs.expected", {"program": "use_one"}
    ),
    "XdpMapNearlyFull": Cause(
        WELL, "950 of 1,000 entries of a hash map are in use", {"map": "grown"}
    ),
    "XdpSocketFillRingEmpty": Cause(
        WELL,
        "packets arrive for an AF_XDP socket that provides no buffers",
        {"interface": "xssocket", "queue": "0"},
    ),
    "XdpRedirectFailed": Cause(
        WELL,
        "a program redirects to the loopback device",
        {"program": _DECIDING, "interface": "xsfaults", "error": "EOPNOTSUPP"},
    ),
    "XdpRedirectDropped": Cause(
        WELL, "XDP_TX on a veth whose peer has no program", {"interface": "xsfaults"}
    ),
    "XdpExceptions": Cause(
        WELL,
        "a program that cannot be traced returns XDP_ABORTED",
        {"program": "decide_aborted", "interface": "xsdark", "verdict": "aborted"},
    ),
}
"""Alerts that need no history."""

AFTER_A_WHILE: Final = {
    "XdpDropsFromStart": Cause(
        WELL,
        "a program drops all of its packets, and had none a day ago",
        {"program": _DECIDING, "interface": "xsdrops"},
    ),
    "XdpDropRatioJumped": Cause(
        WELL,
        "a program that passed all of its packets drops all of them",
        {"program": _DECIDING, "interface": "xsdrops"},
    ),
    "XdpTrafficStopped": Cause(
        WELL,
        "nobody sends to a program any more",
        {"program": "decide_pass", "interface": "xsstops"},
    ),
    "XdpProgramGone": Cause(
        WELL, "a program is detached", {"program": "decide_pass", "interface": "xsgone"}
    ),
    "XdpProgramReplaced": Cause(
        WELL,
        "a program is attached in place of another one",
        {"program": "decide_pass", "interface": "xsother"},
    ),
}
"""Alerts that compare with what was before. The first one belongs to the second."""

RUNNING: Final = {
    "XdpscopeBudgetExceeded": Cause(ILL, "the budget is 0.1 % of a CPU"),
    "XdpscopeFlowsReduced": Cause(ILL, "the same"),
    "XdpscopeCollectorFailed": Cause(
        ILL,
        "the agent has too few descriptors left to attach to the tracepoints",
        {"collector": "outcomes"},
    ),
    "XdpscopeStale": Cause(ILL, "a file system in /run/netns does not answer"),
}
"""Alerts about an agent that runs."""

RESTARTED: Final = "XdpscopeRestarting"
DOWN: Final = "XdpscopeDown"
ABSENT: Final = "XdpscopeAbsent"

CAUSED: Final = {
    **AT_ONCE,
    **AFTER_A_WHILE,
    **RUNNING,
    RESTARTED: Cause(ILL, "the agent is killed and started again four times"),
    DOWN: Cause(ILL, "the agent is killed"),
    ABSENT: Cause(NOBODY, "Prometheus has no target"),
}
"""All alerts that the test causes."""

ELSEWHERE: Final = {
    "XdpscopeFlowTableFull": "the cause is a program on more than 65,540 interfaces",
    "XdpscopeFlowTablePressure": "the budget of the agent that is ill ends the counting of flows",
    "XdpscopeTracerMissesPackets": "a packet would have to interrupt a tracer while it runs",
}
"""Alerts that no story causes, and why. Only promtool tests them."""
