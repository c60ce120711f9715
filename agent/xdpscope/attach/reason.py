# SPDX-License-Identifier: Apache-2.0
"""Define the reasons why a program is not traced, and the selection of programs."""

from dataclasses import dataclass, field
from enum import StrEnum

from xdpscope.config import GlobFilter
from xdpscope.discovery.model import Snapshot, XdpProgram


class Reason(StrEnum):
    """List the values of the ``reason`` label. A traced program has an empty label."""

    NO_BTF = "no_btf"  # without BTF, the agent cannot name the entry function to the kernel
    NOT_JITED = "not_jited"  # the kernel interprets the program: there is no entry to hook
    BUSY = "busy"  # an extension, or the maximum number of tracers, is on the function
    TAILCALL_ONLY = "tailcall_only"  # a tail call bypasses the hook at the entry
    NOT_ATTACHED = "not_attached"
    EXCLUDED = "excluded"  # the configuration excludes the program
    NO_VERDICT = "no_verdict"  # an extension: its return value is not a verdict
    UNSUPPORTED_ENTRY = "unsupported_entry"  # no tracer can read its entry function
    OFFLOADED = "offloaded"  # a network card runs the program
    UNREADABLE = "unreadable"  # this host does not allow the agent to open the program
    KERNEL_REFUSED = "kernel_refused"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class Selection:
    """Hold the programs and interfaces that the configuration selects."""

    programs: GlobFilter = field(default_factory=GlobFilter)
    interfaces: GlobFilter = field(default_factory=GlobFilter)
    arm: bool = True
    """Whether the agent traces a program that is loaded but attached nowhere."""

    def reason_against(self, program: XdpProgram, snapshot: Snapshot) -> Reason | None:
        """Return why the agent does not trace this program. None if only an attempt can show it."""
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
