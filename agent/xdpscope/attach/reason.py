# SPDX-License-Identifier: Apache-2.0
"""Why a program's packets are not seen."""

from dataclasses import dataclass, field
from enum import StrEnum

from xdpscope.config import GlobFilter
from xdpscope.discovery.model import Snapshot, XdpProgram


class Reason(StrEnum):
    """The values of the ``reason`` label, beside the empty one."""

    NO_BTF = "no_btf"  # its entry function cannot be named to the kernel
    NOT_JITED = "not_jited"  # an interpreted program has no entry to hook
    BUSY = "busy"  # an extension, or as many tracers as fit, hold the function
    TAILCALL_ONLY = "tailcall_only"  # a tail call passes the hook at the entry
    NOT_ATTACHED = "not_attached"
    EXCLUDED = "excluded"  # by the configuration
    NO_VERDICT = "no_verdict"  # an extension: its return value is no verdict
    UNSUPPORTED_ENTRY = "unsupported_entry"  # no tracer can read its entry function
    OFFLOADED = "offloaded"  # a network card runs it
    UNREADABLE = "unreadable"  # this host does not allow the agent to open it
    KERNEL_REFUSED = "kernel_refused"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class Selection:
    """The programs and interfaces that the configuration selects."""

    programs: GlobFilter = field(default_factory=GlobFilter)
    interfaces: GlobFilter = field(default_factory=GlobFilter)
    arm: bool = True
    """Whether a program is traced as soon as it is loaded, and attached nowhere."""

    def reason_against(self, program: XdpProgram, snapshot: Snapshot) -> Reason | None:
        """Return why this program is not to be traced, as far as is known without an attempt."""
        attachments = snapshot.attachments.get(program.id, ())
        if not self.programs.admits(*program.selectors):
            return Reason.EXCLUDED
        if program.offloaded:
            return Reason.OFFLOADED
        if program.unreadable:
            return Reason.UNREADABLE
        if program.id in snapshot.extensions:
            return Reason.NO_VERDICT
        if program.id in snapshot.tail_called:
            return Reason.TAILCALL_ONLY
        if not program.entry_type_id:
            return Reason.NO_BTF
        if program.entry_problem:
            return Reason.UNSUPPORTED_ENTRY
        if not program.jited:
            return Reason.NOT_JITED
        if not snapshot.in_service(program.id):
            return Reason.NOT_ATTACHED
        if attachments and not any(
            self.interfaces.admits(at.interface, *snapshot.uppers.get((at.netns, at.interface), ()))
            for at in attachments
        ):
            return Reason.EXCLUDED
        if program.id in snapshot.claimed:
            return Reason.BUSY
        return None
