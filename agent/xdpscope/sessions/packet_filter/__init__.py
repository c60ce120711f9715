# SPDX-License-Identifier: Apache-2.0
"""tcpdump's filters, compiled by libpcap and run in the kernel before anything is copied.

    packet_filter = PacketFilter.compile("tcp port 80")    # FilterError: exit code 2
    for warning in packet_filter.warnings: ...
    template = packet_filter.insert(template, "cast")      # before Program.load()

``bpf/packet_filter.h`` has the place in a BPF program where ``insert`` puts the filter.
"""

from dataclasses import dataclass
from typing import Literal, Self

from xdpscope.errors import XdpscopeError
from xdpscope.libbpf import Template

__all__ = ["FilterError", "PacketFilter", "Reader"]

Reader = Literal["plain", "cast", "copy"]
"""How a kernel lets a tracer read packet bytes, from the cheapest.

``plain``: through ``xdp->data`` itself (Linux 7.0 or so). ``cast``: through ``bpf_rdonly_cast``
(6.2). ``copy``: with ``bpf_probe_read_kernel`` (5.5). Which of them a kernel takes is found by loading.
"""


class FilterError(XdpscopeError):
    """The filter cannot be used: exit code 2. The message has several lines, with a caret."""


@dataclass(frozen=True, slots=True)
class PacketFilter:
    """A filter for packets that begin with Ethernet, and for those that begin with IP."""

    expression: str
    warnings: tuple[str, ...]
    """What the user should know before relying on the filter, one sentence each."""
    uses_length: bool
    """Whether the filter reads the length of the whole packet. If not, pass any number."""

    @classmethod
    def compile(cls, expression: str) -> Self:
        """Compile an expression of tcpdump's language with libpcap.

        An empty expression matches every packet; libpcap is not needed for it.

        Raises:
            FilterError: the expression is wrong, or makes no sense for XDP packets.
            XdpscopeError: libpcap is not installed.
        """
        raise NotImplementedError

    def insert(self, template: Template, reader: Reader) -> Template:
        """Return the template with the filter at each place that ``packet_filter()`` marks.

        Without a marker, the result equals the template.

        Raises:
            FilterError: the filter is too long for one program, or needs too much stack.
        """
        raise NotImplementedError
