# SPDX-License-Identifier: Apache-2.0
"""Programs as machines read them.

``list --json`` and ``/api/v1/programs`` are one format; the latter adds ``counts``.
docs/api.md describes it.
"""

from xdpscope.discovery.model import Attachment
from xdpscope.kernel.boot import BOOT_CLOCK
from xdpscope.report import ProgramStatus


def as_json(status: ProgramStatus) -> dict[str, object]:
    """Return JSON values. ``reason`` is empty, and ``traceable`` true, if the program can be
    traced.

    ``loaded_at`` is Unix time, and ``uid`` the user who loaded it; null where not known.
    ``chain`` has a component's positions in dispatchers; ``called_by``,
    for a program that only tail calls reach, has those that these begin with.
    """
    program = status.program
    return {
        "id": program.id,
        "program": program.function,
        "name": program.name,
        "tag": program.tag,
        "role": str(status.part.role),
        "attach_type": program.attach_type,
        "loaded_at": BOOT_CLOCK.unix_time(program.load_time) if program.load_time else None,
        "uid": program.uid,
        "attachments": [_location(at) for at in status.attachments],
        "chain": [
            {"dispatcher_id": location.dispatcher, "position": location.position}
            for location in status.part.chain
        ],
        "called_by": list(status.part.callers),
        "traceable": status.reason is None,
        "reason": str(status.reason or ""),
    }


def _location(at: Attachment) -> dict[str, object]:
    """Return one attachment.

    ``via`` is there on a lower device of a bond only: the bond that the program is attached to.
    ``receives`` is there on the bond itself only, and false.
    """
    shown: dict[str, object] = {
        "netns": at.netns,
        "interface": at.interface,
        "mode": str(at.mode),
    }
    if at.via:
        shown["via"] = at.via
    if not at.receives:
        shown["receives"] = False
    return shown
