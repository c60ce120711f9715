# SPDX-License-Identifier: Apache-2.0
"""A program as machines read it: ``list --json`` and ``/api/v1/programs`` are one format."""

from xdpscope.observer import Standing


def as_json(standing: Standing) -> dict[str, object]:
    """JSON values only. ``reason`` is empty, and ``traceable`` true, where nothing is amiss."""
    program = standing.program
    return {
        "id": program.id,
        "program": program.function,
        "name": program.name,
        "tag": program.tag,
        "role": str(program.role),
        "attach_type": program.attach_type,
        "attachments": [
            {"netns": at.netns, "interface": at.interface, "mode": str(at.mode)}
            for at in standing.attachments
        ],
        "traceable": standing.reason is None,
        "reason": str(standing.reason or ""),
    }
