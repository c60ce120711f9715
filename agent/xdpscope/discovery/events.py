# SPDX-License-Identifier: Apache-2.0
"""Notifications of the kernel about changed interfaces."""

import socket
from contextlib import suppress
from typing import Self

_RTMGRP_LINK = 1  # rtnetlink(7)
_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID = 270, 8  # netlink(7); Python has no name for the second
_READ_SIZE = 1 << 16


class LinkEvents:
    """Readable whenever an interface appeared, changed or disappeared.

    The kernel notifies when netlink attaches or detaches a program. It does not for a bpf_link:
    therefore discovery also scans at intervals. Notifications from other namespaces arrive if they
    have an id in ours. A pair of veth between the two gives them one, for example. The agent
    creates no such ids.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            with suppress(OSError):  # CAP_NET_BROADCAST is missing: scans still happen at intervals
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
            self._socket.bind((0, _RTMGRP_LINK))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Discard all notifications; their content does not matter, because discovery scans
        again.
        """
        while True:
            try:
                self._socket.recv(_READ_SIZE)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: more happened than the kernel could keep for us
                continue

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
