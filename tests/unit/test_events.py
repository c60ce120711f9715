# SPDX-License-Identifier: Apache-2.0
"""Changes of programs: each appears once, in order; and their times."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from xdpscope.config import Discovery
from xdpscope.discovery.model import Attachment, Mode, Snapshot, XdpProgram
from xdpscope.kernel.boot import BOOT_CLOCK, BootClock
from xdpscope.probes import Scan, events
from xdpscope.probes.events import EventsProbe
from xdpscope.probes.events.changes import changes
from xdpscope.probes.events.report import as_json

NATIVE, GENERIC = Mode.NATIVE, Mode.GENERIC


def program(id: int, extension: bool = False) -> XdpProgram:
    name = f"program_{id}"
    return XdpProgram(
        id, f"{id:016x}", name, name, 1, True, "xdp", extension, load_time=id * 10**9, uid=1000
    )


def snapshot(
    where: dict[int, list[str | Attachment]], extensions: tuple[int, ...] = ()
) -> Snapshot:
    """Programs, and the interfaces that each is attached to."""
    attachments = {
        id: tuple(
            at if isinstance(at, Attachment) else Attachment("host", at, NATIVE) for at in locations
        )
        for id, locations in where.items()
        if locations
    }
    programs = {id: program(id, id in extensions) for id in where}
    return Snapshot(programs, attachments, namespaces={1: (1, "host")})


def shown(before: Snapshot, after: Snapshot) -> list[str]:
    return [
        f"{event.change} {event.program.id}"
        + (f" {event.location.interface} {event.location.mode}" if event.location else "")
        + (f" for {event.previous.id}" if event.previous else "")
        for event in changes(before, after)
    ]


def test_life_of_a_program() -> None:
    steps = [
        snapshot({}),
        snapshot({7: []}),
        snapshot({7: ["eth0"]}),
        snapshot({7: ["eth0", "eth1"]}),
        snapshot({7: ["eth1"]}),
        snapshot({7: ["eth1"]}),
        snapshot({7: []}),
        snapshot({}),
    ]
    found = [shown(before, after) for before, after in pairwise(steps)]
    assert found == [
        ["loaded 7"],
        ["attached 7 eth0 native"],
        ["attached 7 eth1 native"],
        ["detached 7 eth0 native"],
        [],
        ["detached 7 eth1 native"],
        ["unloaded 7"],
    ]


def test_everything_at_once_is_in_order() -> None:
    before = snapshot({3: ["eth3"], 5: ["eth0", "eth1"], 6: []})
    after = snapshot({3: ["eth4"], 8: ["eth1"], 9: ["eth0"]})
    assert shown(before, after) == [
        "loaded 8",
        "loaded 9",
        "detached 3 eth3 native",
        "replaced 8 eth1 native for 5",
        "replaced 9 eth0 native for 5",
        "attached 3 eth4 native",
        "unloaded 5",
        "unloaded 6",
    ]


def test_replaced_in_another_mode() -> None:
    generic = Attachment("host", "eth0", GENERIC)
    assert shown(snapshot({5: ["eth0"], 6: []}), snapshot({5: [], 6: [generic]})) == [
        "replaced 6 eth0 generic for 5"
    ]
    # The same program in another mode replaces nobody.
    assert shown(snapshot({5: ["eth0"]}), snapshot({5: [generic]})) == [
        "detached 5 eth0 native",
        "attached 5 eth0 generic",
    ]


def test_offloaded_program_beside_one_of_the_host() -> None:
    card = Attachment("host", "eth0", Mode.OFFLOAD)
    before = snapshot({5: ["eth0"], 6: [card], 7: [], 8: []})
    after = snapshot({5: [], 6: [], 7: ["eth0"], 8: [card]})
    assert shown(before, after) == [
        "replaced 7 eth0 native for 5",
        "replaced 8 eth0 offload for 6",
    ]


def test_new_dispatcher_takes_the_components_along() -> None:
    before = snapshot({10: ["eth0"], 11: ["eth0"], 12: ["eth0"]}, extensions=(11, 12))
    after = snapshot({12: ["eth0"], 20: ["eth0"], 21: ["eth0"]}, extensions=(12, 21))
    assert shown(before, after) == [
        "loaded 20",
        "loaded 21",
        "detached 11 eth0 native",
        "replaced 20 eth0 native for 10",
        "attached 21 eth0 native",
        "unloaded 10",
        "unloaded 11",
    ]


def test_lower_devices_of_a_bond_have_no_events() -> None:
    lower = Attachment("host", "eth0", NATIVE, via="bond0")
    bond = Attachment("host", "bond0", NATIVE, receives=False)
    assert shown(snapshot({5: []}), snapshot({5: [bond, lower]})) == ["attached 5 bond0 native"]


class Watched:
    def __init__(self) -> None:
        self.probe = EventsProbe()
        self.probe.reconfigure(Discovery())

    def scan(self, found: Snapshot) -> None:
        self.probe.update(Scan(found))

    def changes(self, limit: int = 100, since: float | None = None) -> list[str]:
        found = self.probe.events(limit, since)
        return [f"{each.event.change} {each.event.program.id}" for each in found]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_events_begin_with_the_first_scan_that_succeeded(watched: Watched) -> None:
    watched.scan(Snapshot())  # it failed
    watched.scan(snapshot({5: ["eth0"]}))
    assert watched.changes() == []
    now = snapshot({5: ["eth0"], 6: []})
    watched.scan(now)
    watched.scan(now)
    assert watched.changes() == ["loaded 6"]


def test_log_and_json_have_the_same_facts(watched: Watched) -> None:
    watched.scan(snapshot({5: ["eth0"], 6: []}))
    before = time.time()
    with capture_logs() as logs:
        watched.scan(snapshot({5: [], 6: ["eth0"]}))
    (noted,) = watched.probe.events(10)
    found = as_json(noted)
    assert before - 0.001 <= noted.time <= time.time() + 0.001
    assert found.pop("time") == noted.time
    assert found.pop("loaded_at") == BOOT_CLOCK.unix_time(6 * 10**9)
    assert found == {
        "event": "replaced",
        "program_id": 6,
        "program": "program_6",
        "tag": "0000000000000006",
        "role": "root",
        "uid": 1000,
        "netns": "host",
        "interface": "eth0",
        "mode": "native",
        "previous": {"program_id": 5, "program": "program_5", "tag": "0000000000000005"},
    }
    assert logs == [
        {
            "log_level": "info",
            "event": "program replaced",
            "program_id": 6,
            "program": "program_6",
            "tag": "0000000000000006",
            "role": "root",
            "uid": 1000,
            "netns": "host",
            "interface": "eth0",
            "mode": "native",
            "previous_id": 5,
            "previous_program": "program_5",
            "previous_tag": "0000000000000005",
        }
    ]


def test_newest_events_are_kept_and_asked_for(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVENTS_LIMIT", 3)
    watched.scan(snapshot({}))
    for count in range(1, 6):
        watched.scan(snapshot({id: [] for id in range(1, count + 1)}))
    assert watched.changes() == ["loaded 3", "loaded 4", "loaded 5"]
    assert watched.changes(limit=2) == ["loaded 4", "loaded 5"]
    assert watched.changes(since=watched.probe.events(3)[-1].time) == []
    assert watched.changes(since=0) == watched.changes()


def test_clock_that_is_set_back(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([2000.0, 1000.0])
    watched.scan(snapshot({}))
    monkeypatch.setattr(time, "time", lambda: next(times))
    watched.scan(snapshot({1: []}))
    watched.scan(snapshot({1: [], 2: []}))
    assert [each.time for each in watched.probe.events(10)] == [2000.0, 2000.0]


def test_namespaces_that_are_no_longer_watched(watched: Watched) -> None:
    elsewhere = Attachment("blue", "eth0", NATIVE)
    everywhere = replace(
        snapshot({5: ["eth0", elsewhere]}), namespaces={1: (1, "host"), 2: (2, "blue")}
    )
    watched.scan(everywhere)
    watched.probe.reconfigure(Discovery(netns="host"))
    watched.scan(snapshot({5: ["eth0"], 6: []}))
    assert watched.changes() == ["loaded 6"]
    watched.probe.reconfigure(Discovery(netns="host"))
    watched.scan(snapshot({5: [], 6: []}))
    assert watched.changes() == ["loaded 6", "detached 5"]


def test_load_time_does_not_jitter_and_follows_a_clock_that_is_set() -> None:
    offsets = [1_000_000_000_000_000_000, 1_000_000_000_000_400_000]
    clock = BootClock(lambda: offsets[0])
    first = clock.unix_time(5_123_456_789)
    assert first == 1_000_000_005.123
    offsets.pop(0)
    assert clock.unix_time(5_123_456_789) == first
    offsets[0] += 3_600_000_000_000
    assert clock.unix_time(5_123_456_789) == 1_000_003_605.124
