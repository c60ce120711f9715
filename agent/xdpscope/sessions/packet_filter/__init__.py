# SPDX-License-Identifier: Apache-2.0
"""tcpdump's filters, compiled by libpcap and run in the kernel before anything is copied.

    packet_filter = PacketFilter.compile("tcp port 80")    # FilterError: exit code 2
    template = packet_filter.insert(template, "cast")      # before Program.load()

``bpf/common/packet_filter.h`` has the place in a BPF program where ``insert`` puts the filter.
"""

from xdpscope.sessions.packet_filter.packet_filter import FilterError, PacketFilter
from xdpscope.sessions.packet_filter.translate import Reader

__all__ = ["FilterError", "PacketFilter", "Reader"]
