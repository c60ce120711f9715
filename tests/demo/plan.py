# SPDX-License-Identifier: Apache-2.0
"""The names that the parts of the demo share.

namespace of the sender                     that the agent scans
demo1  198.18.0.2, 198.18.0.3  ── veth ──>  demo0  198.18.0.1, with xdp-filter on it
"""

from pathlib import Path

INTERFACE = "demo0"
INTERFACE_MAC = "02:00:00:00:00:01"
PEER = "demo1"
PEER_MAC = "02:00:00:00:00:02"

# RFC 2544: for tests between devices, routed nowhere.
EDGE = "198.18.0.1"
FRIEND = "198.18.0.2"
STRANGER = "198.18.0.3"
"""The source address that the filter drops."""

OPEN_PORT = 7000
CLOSED_PORT = 9999
"""The UDP port that the filter drops."""

SENT = "demo_sent_packets_total"

AGENT = 10091
PROMETHEUS = 9090
TRAFFIC = 9091
"""TCP ports where the scene plays; here they may be others."""

SENDER = 9092
"""The sender's own port; nobody outside of the scene asks it."""


def quiet(interface: str) -> None:
    """Keep the kernel from sending of its own accord: no packet but those that are counted."""
    Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").write_text("1")
