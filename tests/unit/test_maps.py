# SPDX-License-Identifier: Apache-2.0
"""Where tail calls begin, from what is in prog arrays and who uses them."""

from xdpscope.attach.reason import Reason, Selection
from xdpscope.discovery.maps import MapEntry, MapKind, tail_called
from xdpscope.discovery.model import Attachment, Mode, Role, Snapshot, XdpProgram


def program(id: int, *maps: int) -> XdpProgram:
    return XdpProgram(id, "", f"p{id}", f"p{id}", 1, True, "xdp", map_ids=maps)


def programs(**maps: tuple[int, ...]) -> dict[int, XdpProgram]:
    return {int(name[1:]): program(int(name[1:]), *ids) for name, ids in maps.items()}


def holds(map_id: int, *members: int) -> list[MapEntry]:
    return [MapEntry(map_id, MapKind.PROG_ARRAY, id, (0, 0), 0, "") for id in members]


def test_over_several_arrays() -> None:
    """1 and 2 are called for packets; 3 calls 4 over another array, and 5 what holds itself."""
    known = programs(p1=(10,), p2=(10, 11), p3=(11, 12), p4=(), p5=(10,))
    entries = [*holds(10, 3, 5), *holds(11, 4), *holds(12, 4)]
    assert tail_called(entries, known, {1, 2}) == {3: (1, 2), 4: (1, 2), 5: (1, 2)}


def test_arrays_that_lead_to_each_other() -> None:
    known = programs(p1=(10,), p2=(11,), p3=(10,))
    entries = [*holds(10, 2), *holds(11, 3)]
    assert tail_called(entries, known, {1}) == {2: (1,), 3: (1,)}


def test_an_array_that_nobody_uses() -> None:
    assert tail_called(holds(10, 1), programs(p1=()), set()) == {1: ()}


def test_who_calls_need_not_be_in_service() -> None:
    known = programs(p1=(10,), p2=())
    assert tail_called(holds(10, 2), known, set()) == {2: (1,)}


def test_what_is_in_service_besides_is_no_leaf() -> None:
    """It is what calls begin with, even those that come to it by tail call."""
    known = programs(p1=(10,), p2=(10,), p3=())
    assert tail_called(holds(10, 2, 3), known, {1, 2}) == {3: (1, 2)}


def test_other_maps_and_programs_are_none_of_its_business() -> None:
    entries = [MapEntry(10, MapKind.DEVMAP, 2, (1, 2), 3, "eth0"), *holds(11, 77)]
    assert tail_called(entries, programs(p1=(10, 11), p2=()), {1}) == {}


def test_reasons() -> None:
    known = programs(p1=(10,), p2=(), p3=(), p4=())
    at = {1: (Attachment("host", "eth0", Mode.NATIVE),)}
    snapshot = Snapshot(
        programs=known, attachments=at, running=frozenset({3}), tail_called={2: (1,)}
    )
    found = {id: Selection().reason_against(each, snapshot) for id, each in known.items()}
    assert found == {1: None, 2: Reason.TAILCALL_ONLY, 3: None, 4: Reason.NOT_ATTACHED}
    assert [snapshot.part_of(each).role for each in known.values()] == [
        Role.ROOT,
        Role.TAILCALL,
        Role.ROOT,
        Role.ROOT,
    ]
