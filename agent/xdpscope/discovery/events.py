# SPDX-License-Identifier: Apache-2.0
"""The kernel's word that something about an interface changed."""

import socket
from contextlib import suppress
from typing import Self

_RTMGRP_LINK = 1  # rtnetlink(7)
_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID = 270, 8  # netlink(7); Python has no name for the second
_READ_SIZE = 1 << 16


class LinkEvents:
    """Readable whenever an interface appeared, changed or went.

    Attaching and detaching over netlink says so here; a bpf_link does not, which is why
    discovery also looks by the clock. Other namespaces are heard if they have an id in ours,
    which they get when a pair of veth joins the two, or so; no more is done to hear them.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        try:
            with suppress(OSError):  # for want of CAP_NET_BROADCAST: there is the clock
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
            self._socket.bind((0, _RTMGRP_LINK))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Takes what there is to read; what it says does not matter, discovery looks anew."""
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
