# SPDX-License-Identifier: Apache-2.0
"""Every XDP program and whether it can be traced, told without tracing any."""

from xdpscope.discovery.inventory import Inventory
from xdpscope.errors import TracingUnavailable
from xdpscope.libbpf import Program
from xdpscope.observer import Standing
from xdpscope.tracing.engine import Engine
from xdpscope.tracing.reason import Reason, Scope


def survey() -> tuple[list[Standing], TracingUnavailable | None]:
    """The programs in the order of their ids; and why nothing can be traced here, if so.

    Raises:
        NotPermitted: for want of CAP_SYS_ADMIN.
    """
    # Without the right to do this, everything else would fail as well, and log why.
    next(Program.ids(), None)
    with Inventory() as inventory:
        snapshot = inventory.take()
    unavailable = None
    try:
        Engine().close()
    except TracingUnavailable as error:
        unavailable = error
    scope = Scope()
    standings = []
    for id, program in sorted(snapshot.programs.items()):
        attachments = snapshot.attachments.get(id, ())
        reason = scope.reason_against(program, snapshot)
        if reason is None and unavailable is not None:
            reason = Reason.KERNEL_REFUSED
        part = snapshot.part_of(program)
        standings.append(Standing(program, part, attachments, reason, missed=0, run_seconds=None))
    return standings, unavailable
