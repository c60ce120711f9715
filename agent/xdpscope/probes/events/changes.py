# SPDX-License-Identifier: Apache-2.0
"""Derive events from two successive snapshots, without reading the kernel."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from xdpscope.discovery.model import Attachment, Snapshot, XdpProgram
from xdpscope.kernel.boot import BOOT_CLOCK
from xdpscope.probes.events.report import Change, Event, ProgramName

_Place = tuple[str, str, str, bool]
"""Network namespace, interface, attach type, and whether programs there are extensions."""


def changes(before: Snapshot, after: Snapshot) -> list[Event]:
    """Return each change once: loaded, detached, replaced, attached, unloaded programs.

    In each group, programs are in the order of their ids: that is the order of loading. A program
    replaces another one if it is attached to an interface that the other one left. Extensions
    replace nobody: a dispatcher has many.
    """
    loaded = [_event(Change.LOADED, after, id) for id in sorted(after.programs)
              if id not in before.programs]  # fmt: skip
    unloaded = [_event(Change.UNLOADED, before, id) for id in sorted(before.programs)
                if id not in after.programs]  # fmt: skip
    left, taken = _new(after, before), _new(before, after)
    replaced, detached, attached = [], [], []
    for location in sorted(left.keys() | taken.keys()):
        gone, came = left.get(location, []), taken.get(location, [])
        if not location[3]:
            for old, new in list(_pairs(gone, came)):
                gone.remove(old)
                came.remove(new)
                previous = _name(before.programs[old[0]])
                replaced.append(_event(Change.REPLACED, after, *new, previous=previous))
        detached += [_event(Change.DETACHED, before, *each) for each in gone]
        attached += [_event(Change.ATTACHED, after, *each) for each in came]
    located = [
        event
        for group in (detached, replaced, attached)
        for event in sorted(group, key=lambda event: event.program.id)
    ]
    return [*loaded, *located, *unloaded]


_Attached = tuple[int, Attachment]
"""A program's id, and where it is attached."""


def _new(before: Snapshot, after: Snapshot) -> Mapping[_Place, list[_Attached]]:
    """Return the attachments of one snapshot that the other one lacks."""
    found: dict[_Place, list[_Attached]] = defaultdict(list)
    for id, attachments in sorted(after.attachments.items()):
        program = after.programs.get(id)
        if program is None:
            continue
        known = before.attachments.get(id, ()) if id in before.programs else ()
        for at in attachments:
            # The lower devices of a bond follow from the bond.
            if at not in known and not at.via:
                found[at.netns, at.interface, program.attach_type, program.extension].append(
                    (id, at)
                )
    return found


def _pairs(gone: list[_Attached], came: list[_Attached]) -> Iterator[tuple[_Attached, _Attached]]:
    """Yield who replaced whom: first in the same mode, then in another one."""
    free = list(came)
    for same_mode in True, False:
        for old in gone:
            for new in free:
                if old[0] != new[0] and (old[1].mode == new[1].mode) is same_mode:
                    free.remove(new)
                    yield old, new
                    break


def _event(
    change: Change,
    snapshot: Snapshot,
    id: int,
    location: Attachment | None = None,
    previous: ProgramName | None = None,
) -> Event:
    program = snapshot.programs[id]
    loaded_at = BOOT_CLOCK.unix_time(program.load_time) if program.load_time else None
    role = str(snapshot.part_of(program).role)
    return Event(change, _name(program), role, program.uid, loaded_at, location, previous)


def _name(program: XdpProgram) -> ProgramName:
    return ProgramName(program.id, program.function, program.tag)
