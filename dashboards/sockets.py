# SPDX-License-Identifier: Apache-2.0
"""Define panels on AF_XDP sockets: which processes have them open, and which packets they drop."""

from dashboards.boards import Line, to_agent
from dashboards.panels import PACKETS_RATE, Column, Words, lines, rows
from dashboards.queries import LOCATION, NODE, NODE_LEGEND, rate, series, total

_SOCKET = (*NODE, "netns", "interface", "queue", "socket")
_NONE = "No AF_XDP socket is open here, or this kernel does not list them (module xsk_diag)."


def sockets() -> list[Line]:
    """Return panels on the AF_XDP sockets of all selected nodes."""
    dropped = "xdp_socket_dropped_packets_total"
    drops = lines(
        Words(
            "Drops of AF_XDP sockets",
            "Packets and descriptors that AF_XDP sockets drop, by reason. Reasons overlap: a packet"
            " for which the fill ring is empty is in rx_dropped, too. An empty tx ring is normal.",
            _NONE,
        ),
        {
            f"{{{{reason}}}} {NODE_LEGEND}": total(
                rate(dropped, *LOCATION, 'reason!="tx_ring_empty"'), *NODE, "reason"
            )
        },
        PACKETS_RATE,
    )
    table = rows(
        Words(
            "AF_XDP sockets",
            "Each socket that is bound to a queue, the process that has it open, and packets a"
            " second that found its fill ring empty or its rx ring full.",
            _NONE,
        ),
        {
            "owner": f"group by ({', '.join((*_SOCKET, 'pid', 'comm'))})"
            f" ({series('xdp_socket_info', *LOCATION)})",
            "fill": total(rate(dropped, *LOCATION, 'reason="fill_ring_empty"'), *_SOCKET),
            "full": total(rate(dropped, *LOCATION, 'reason="rx_ring_full"'), *_SOCKET),
        },
        {
            "interface": Column("interface", width=100),
            "netns": Column("netns", width=100),
            "queue": Column("queue", width=65),
            "comm": Column("command", width=110),
            "pid": Column("pid", width=70),
            "socket": Column("socket", width=75),
            "instance": Column("node", width=120, link=to_agent()),
            "cluster": Column("cluster", width=80),
            "Value #fill": Column("fill ring empty", width=120, unit=PACKETS_RATE),
            "Value #full": Column("rx ring full", width=105, unit=PACKETS_RATE),
        },
        sort="fill ring empty",
        descending=True,
    )
    return [Line(10, [(8, drops), (16, table)])]
