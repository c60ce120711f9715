# SPDX-License-Identifier: Apache-2.0
"""Plain values about changes of XDP programs."""

from dataclasses import dataclass
from enum import StrEnum

from xdpscope.discovery.model import Attachment


class Change(StrEnum):
    """What happened to a program."""

    LOADED = "loaded"
    ATTACHED = "attached"
    REPLACED = "replaced"  # it took the place of another program, at one location
    DETACHED = "detached"
    UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class ProgramName:
    """What identifies a program to people."""

    id: int
    program: str  # entry function
    tag: str


@dataclass(frozen=True, slots=True)
class Event:
    """One change of one program."""

    change: Change
    program: ProgramName
    role: str
    uid: int | None  # of the loader; None: not known
    loaded_at: float | None  # Unix time; None: not known
    location: Attachment | None = None  # of all but loaded and unloaded
    previous: ProgramName | None = None  # of replaced: the program that was there before


@dataclass(frozen=True, slots=True)
class NotedEvent:
    """An event, and the Unix time of the scan that found it."""

    time: float
    event: Event


def as_json(noted: NotedEvent) -> dict[str, object]:
    """Return JSON values only. docs/api.md describes them."""
    event, at = noted.event, noted.event.location
    shown: dict[str, object] = {
        "time": noted.time,
        "event": str(event.change),
        "program_id": event.program.id,
        "program": event.program.program,
        "tag": event.program.tag,
        "role": event.role,
        "uid": event.uid,
        "loaded_at": event.loaded_at,
    }
    if at is not None:
        shown |= {"netns": at.netns, "interface": at.interface, "mode": str(at.mode)}
    if event.previous is not None:
        shown["previous"] = {
            "program_id": event.previous.id,
            "program": event.previous.program,
            "tag": event.previous.tag,
        }
    return shown
