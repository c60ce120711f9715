# SPDX-License-Identifier: Apache-2.0
"""Every XDP program and whether it can be traced, and AF_XDP sockets; nothing is traced."""

from contextlib import ExitStack, suppress
from typing import Self

from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Reason, Selection
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import Snapshot
from xdpscope.errors import KernelError, TracingUnavailableError
from xdpscope.libbpf import Program
from xdpscope.probes.sockets.report import XdpSocket, by_location
from xdpscope.probes.sockets.source import SocketSource
from xdpscope.report import ProgramStatus


class Survey:
    """Lists the programs and the AF_XDP sockets of this host, as often as asked."""

    unavailable: TracingUnavailableError | None = None
    """Why nothing can be traced here, if so."""

    def __init__(self) -> None:
        """Try to trace a program of our own.

        Raises:
            NotPermittedError: CAP_SYS_ADMIN is missing.
        """
        # Without the right to do this, everything else would fail as well, and log why.
        next(Program.ids(), None)
        with ExitStack() as stack:
            self._inventory = stack.enter_context(Inventory())
            self._snapshot = Snapshot()
            try:
                Engine().close()
            except TracingUnavailableError as error:
                self.unavailable = error
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def programs(self) -> list[ProgramStatus]:
        """Return the programs of this moment in the order of their ids.

        Raises:
            KernelError: the host cannot be read.
        """
        snapshot = self._snapshot = self._inventory.take()
        selection = Selection()
        statuses = []
        for id, program in sorted(snapshot.programs.items()):
            attachments = snapshot.attachments.get(id, ())
            reason = selection.reason_against(program, snapshot)
            if reason is None and self.unavailable is not None:
                reason = Reason.KERNEL_REFUSED
            part = snapshot.part_of(program)
            statuses.append(
                ProgramStatus(program, part, attachments, reason, missed=0, run_seconds=None)
            )
        return statuses

    def sockets(self) -> list[XdpSocket]:
        """Return the sockets of this moment by namespace, interface and queue.

        Call ``programs`` first: it lists the namespaces. None are returned where the kernel does
        not list sockets; ``doctor`` says why.
        """
        with suppress(KernelError):
            return sorted(SocketSource().read(self._snapshot), key=by_location)
        return []
