# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets as Prometheus metrics."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from xdpscope.kernel.xdp_diag import REASONS
from xdpscope.probes.sockets.report import XdpSocket

_LABELS = ["socket", "netns", "interface", "queue"]


def families(
    sockets: Iterable[XdpSocket], counts: Iterable[tuple[XdpSocket, tuple[int, ...]]]
) -> list[Metric]:
    """Return the metrics.

    Args:
        sockets: Sockets that are open.
        counts: Sockets that are open or were so recently, and what to show of their drops.
    """
    info = GaugeMetricFamily(
        "xdp_socket_info",
        "An AF_XDP socket, and a process that has it open.",
        labels=[*_LABELS, "pid", "comm"],
    )
    dropped = CounterMetricFamily(
        "xdp_socket_dropped_packets",
        "Packets and descriptors that an AF_XDP socket dropped, as the kernel counts them. Reasons"
        " overlap: a packet for which the fill ring is empty is in rx_dropped, too.",
        labels=[*_LABELS, "reason"],
    )
    for each in sockets:
        pid, comm = (str(each.owner.pid), each.owner.comm) if each.owner else ("", "")
        info.add_metric([*_values(each), pid, comm], 1)
    for each, drops in counts:
        for reason, count in zip(REASONS, drops, strict=True):
            dropped.add_metric([*_values(each), reason], count)
    return [info, dropped]


def _values(socket: XdpSocket) -> list[str]:
    return [str(socket.inode), socket.netns, socket.interface, str(socket.queue)]
