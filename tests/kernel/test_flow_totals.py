# SPDX-License-Identifier: Apache-2.0
"""What becomes of the flow tables: on the kernel's own maps, with numbers that are known."""

import random
import tracemalloc
from collections.abc import Iterator
from math import log
from pathlib import Path

import numpy as np
import pytest

from tests.tables import (
    OWNER,
    PROGRAM,
    TARGET,
    Table,
    every_step,
    flow_table,
    name_of,
    series_index,
    total,
)
from xdpscope import bpf
from xdpscope.config import Flows
from xdpscope.counters.series_index import Seen, SeriesIndex
from xdpscope.libbpf import Object, possible_cpus
from xdpscope.probes.flows.query import FlowQuery
from xdpscope.probes.flows.slots import FAMILIES, Family
from xdpscope.probes.flows.totals import FlowCount, FlowTotals
from xdpscope.program_types.xdp import VERDICTS

pytestmark = pytest.mark.one_kernel

DROP = VERDICTS.index("drop")


@pytest.fixture
def table() -> Iterator[Table]:
    with flow_table(sets=64) as table:
        yield table


def totals_of(table: Table, patience: float = 0, **limits: float) -> FlowTotals:
    """Read twice: a new series counts from the reading after the one that gives it."""
    return FlowTotals([table.reader], Flows(**limits), patience)  # type: ignore[arg-type]


def exported(flow_totals: FlowTotals) -> dict[str, tuple[int, int]]:
    return {count.flow.source: (count.packets, count.bytes) for count in flow_totals.exported}


def held(
    flow_totals: FlowTotals,
    known: SeriesIndex,
    query: FlowQuery = FlowQuery(),  # noqa: B008 - it is frozen
    scopes: list[int] | None = None,
) -> list[FlowCount]:
    """Return the flows that a query finds."""
    return flow_totals.held(known, query, scopes).describe()


def series_of(known: SeriesIndex) -> list[int]:
    """Return every scope of PROGRAM."""
    return known.series_where(lambda program, _: program == PROGRAM)


def other(flow_totals: FlowTotals) -> tuple[int, int]:
    tally = flow_totals.other(OWNER)
    return tally.packets[DROP], tally.bytes[DROP]


def test_a_flow_is_told_by_its_whole_key(table: Table) -> None:
    flow_totals, known = totals_of(table), series_index()
    table.put((3, 0, 0), table.flow4(1), packets=5, size=500)
    table.write()
    every_step(flow_totals.read(known, total(5, 500), now=1, moved=True))
    assert (exported(flow_totals), other(flow_totals)) == ({"10.0.0.1": (0, 0)}, (5, 500))
    (count,) = held(flow_totals, known)
    assert (count.owner, count.verdict, count.packets, count.bytes) == (OWNER, "drop", 5, 500)
    flow = count.flow
    assert (flow.protocol, flow.source, flow.destination) == ("udp", "10.0.0.1", "192.0.2.1")
    assert (flow.source_port, flow.destination_port) == (1000, 53)


@pytest.mark.skipif(possible_cpus() < 2, reason="one CPU has nothing to be merged with")
@pytest.mark.parametrize("before", [0, (1 << 62) + 1])
def test_a_flow_on_several_cpus_is_one(table: Table, before: int) -> None:
    """Summed exactly, whatever it has had before."""
    flow_totals, known = totals_of(table), series_index()
    table.put((3, 0, 0), table.flow4(1), packets=5, size=500 + before)
    table.put((9, 1, 2), table.flow4(1), packets=2, size=300)
    table.write()
    every_step(flow_totals.read(known, total(7, 800 + before), now=1, moved=True))
    assert flow_totals.entries == 1
    assert exported(flow_totals) == {"10.0.0.1": (0, 0)}
    assert [flow.bytes for flow in held(flow_totals, known)] == [800 + before]
    for where in (3, 0, 0), (9, 1, 2):
        table.slots[where]["packets"] += 1
        table.slots[where]["bytes"] += 100
    table.write()
    every_step(flow_totals.read(known, total(9, 1000 + before), now=2, moved=False))
    assert exported(flow_totals) == {"10.0.0.1": (2, 200)}
    assert other(flow_totals) == (7, 800 + before)


def test_a_plain_array_has_the_sets_of_one_cpu_after_those_of_another() -> None:
    """Each CPU has a device of its own under the same index."""
    sets, cpus, known = 16, 3, SeriesIndex()
    seen = Seen(
        PROGRAM, TARGET, (5 << 32) + np.arange(cpus, dtype=np.uint64), np.full(cpus, 5),
        np.array([b"eth0", b"eth1", b"eth2"]), np.arange(cpus), np.arange(cpus),
        np.zeros(cpus, np.uint64),
    )  # fmt: skip
    every_step(known.update([seen], lambda *device: ("host", device[3]), ""))
    with flow_table(sets, cpus) as table:
        assert table.sets.shape == (sets * cpus, 1)
        flow_totals = totals_of(table)
        expected = {}
        for cpu in range(cpus):
            for at, way in ((0, 0), (7, 3), (sets - 1, 2)):
                packets = 100 * cpu + 10 * at + way + 1
                table.put((cpu * sets + at, 0, way), table.flow4(at), packets, 60 * packets)
                expected[f"eth{cpu}", f"10.0.0.{at}"] = packets, 60 * packets
        table.write()
        every_step(flow_totals.read(known, {}, now=1, moved=True))
        flows = held(flow_totals, known)
    found = {(each.owner[1][1], each.flow.source): (each.packets, each.bytes) for each in flows}
    assert found == expected


def test_what_leaves_the_table_or_the_top_is_in_other(table: Table) -> None:
    flow_totals, known = totals_of(table, top=1), series_index()
    table.put((0, 0, 0), table.flow4(1), packets=100, size=6000)
    table.put((0, 0, 1), table.flow4(2), packets=10, size=600)
    table.write()
    every_step(flow_totals.read(known, total(110, 6600), now=1, moved=True))
    assert exported(flow_totals) == {"10.0.0.1": (0, 0)}
    assert other(flow_totals) == (110, 6600)

    # The second gets ahead: it has its own series, for what comes from now on.
    table.slots[0, 0, 1]["packets"], table.slots[0, 0, 1]["bytes"] = 1010, 60600
    table.write()
    every_step(flow_totals.read(known, total(1110, 66600), now=2, moved=False))
    assert exported(flow_totals) == {"10.0.0.2": (0, 0)}
    assert other(flow_totals) == (1110, 66600)
    table.slots[0, 0, 1]["packets"], table.slots[0, 0, 1]["bytes"] = 1015, 60900
    table.write()
    every_step(flow_totals.read(known, total(1115, 66900), now=2, moved=False))
    assert exported(flow_totals) == {"10.0.0.2": (5, 300)}
    assert other(flow_totals) == (1110, 66600)

    # It is pushed out; another one has its place, with as many packets.
    table.put((0, 0, 1), table.flow4(3), packets=1015, size=60900)
    table.write()
    every_step(flow_totals.read(known, total(2130, 127800), now=3, moved=False))
    assert exported(flow_totals) == {"10.0.0.3": (0, 0)}
    assert other(flow_totals) == (2130, 127800)
    assert flow_totals.evictions == {"idle": 0, "pressure": 1}


@pytest.mark.parametrize("still", [False, True])
def test_idle_flows_age_out_and_come_back(table: Table, still: bool) -> None:
    """Whether or not it is known that nothing has come."""
    flow_totals, known = totals_of(table, idle_timeout=10), series_index()
    table.put((0, 0, 0), table.flow4(1), packets=5, size=300)
    table.write()
    every_step(flow_totals.read(known, total(5, 300), now=100, moved=True))
    every_step(flow_totals.read(known, total(5, 300), now=110, moved=False, still=still))
    assert flow_totals.exported[0].rate == pytest.approx(5 * log(2) / 10 / 2)
    assert flow_totals.entries == 1
    every_step(flow_totals.read(known, total(5, 300), now=111, moved=False, still=still))
    assert (flow_totals.entries, flow_totals.exported, other(flow_totals)) == (0, [], (5, 300))
    every_step(flow_totals.read(known, total(5, 300), now=200, moved=False, still=still))
    assert flow_totals.evictions == {"idle": 1, "pressure": 0}

    table.slots[0, 0, 0]["packets"], table.slots[0, 0, 0]["bytes"] = 7, 420
    table.write()
    every_step(flow_totals.read(known, total(7, 420), now=201, moved=False))
    assert (flow_totals.entries, exported(flow_totals)) == (1, {"10.0.0.1": (0, 0)})
    assert other(flow_totals) == (7, 420)


def test_where_nothing_was_counted_nothing_is_read(table: Table) -> None:
    """But for sets that were being changed when they were last read."""
    flow_totals, known = totals_of(table), series_index()
    table.put((3, 0, 0), table.flow4(1), packets=5, size=300)
    table.sets[3, 0]["started"] += 1
    table.write()
    every_step(flow_totals.read(known, total(5, 300), now=1, moved=True))
    assert (exported(flow_totals), other(flow_totals)) == ({}, (0, 0))
    table.sets[3, 0]["done"] += 1
    table.write()
    every_step(flow_totals.read(known, total(5, 300), now=2, moved=False, still=True))
    assert (exported(flow_totals), other(flow_totals)) == ({"10.0.0.1": (0, 0)}, (5, 300))
    table.slots[3, 0, 0]["packets"] = 6
    table.write()
    every_step(flow_totals.read(known, total(5, 300), now=3, moved=False, still=True))
    assert exported(flow_totals) == {"10.0.0.1": (0, 0)}
    every_step(flow_totals.read(known, total(6, 300), now=4, moved=False))
    assert exported(flow_totals) == {"10.0.0.1": (1, 0)}


def test_bytes_that_come_a_moment_later(table: Table) -> None:
    """The kernel counts a packet, then its bytes; a reading may come in between."""
    flow_totals, known = totals_of(table), series_index()
    slot = table.slots[3, 0, 0]
    table.put((3, 0, 0), table.flow4(1), packets=1, size=60)
    table.write()
    every_step(flow_totals.read(known, total(1, 60), now=1, moved=True))
    slot["packets"] = 2
    table.write()
    every_step(flow_totals.read(known, total(1, 60), now=2, moved=False))
    slot["bytes"] = 120
    table.write()
    every_step(flow_totals.read(known, total(2, 120), now=3, moved=False))
    assert (exported(flow_totals), other(flow_totals)) == ({"10.0.0.1": (1, 60)}, (1, 60))


def test_a_flow_that_was_replaced_by_itself(table: Table) -> None:
    """Pushed out and back between two readings, with more packets but fewer bytes."""
    flow_totals, known = totals_of(table), series_index()
    table.put((3, 0, 0), table.flow4(1), packets=5, size=5000)
    table.write()
    every_step(flow_totals.read(known, total(5, 5000), now=1, moved=True))
    table.put((3, 0, 0), table.flow4(1), packets=6, size=360)
    table.write()
    every_step(flow_totals.read(known, total(11, 5360), now=2, moved=False))
    assert (exported(flow_totals), other(flow_totals)) == ({"10.0.0.1": (6, 360)}, (5, 5000))


def test_no_more_are_held_than_allowed(table: Table) -> None:
    flow_totals, known = totals_of(table, max_entries=10), series_index()
    for number in range(40):
        table.put((number, 0, 0), table.flow4(number), packets=number + 1, size=100)
    table.write()
    every_step(flow_totals.read(known, total(820, 4000), now=1, moved=True))
    assert flow_totals.entries == 10
    assert flow_totals.evictions == {"idle": 0, "pressure": 30}
    assert set(exported(flow_totals)) == {f"10.0.0.{number}" for number in range(30, 40)}
    assert (
        sum(packets for packets, _ in exported(flow_totals).values()) + other(flow_totals)[0] == 820
    )


def test_a_renamed_interface_takes_nothing_along(table: Table) -> None:
    flow_totals, known = totals_of(table), series_index()
    table.put((0, 0, 0), table.flow4(1), packets=5, size=300)
    table.write()
    every_step(flow_totals.read(known, total(5, 300), now=1, moved=True))
    assert name_of(known, "eth1")
    totals = total(5, 300)
    totals[7, ("host", "eth1")] = total(0, 0)[OWNER]
    every_step(flow_totals.read(known, totals, now=2, moved=True))
    assert other(flow_totals) == (5, 300)
    table.slots[0, 0, 0]["packets"], table.slots[0, 0, 0]["bytes"] = 9, 540
    table.write()
    totals[7, ("host", "eth1")] = total(4, 240)[OWNER]
    every_step(flow_totals.read(known, totals, now=3, moved=False))
    (count,) = flow_totals.exported
    assert (count.owner[1], count.packets, count.bytes) == (("host", "eth1"), 4, 240)


@pytest.mark.parametrize("moved", [False, True])
def test_a_set_in_the_middle_of_a_change_is_left_for_later(table: Table, moved: bool) -> None:
    """``other`` too: else what is in there now would later be in its flow as well."""
    flow_totals, known = totals_of(table), series_index()
    table.put((0, 0, 0), table.flow4(1), packets=5, size=300)
    table.put((1, 0, 0), table.flow4(2), packets=5, size=300)
    table.write()
    every_step(flow_totals.read(known, total(10, 600), now=1, moved=True))
    assert (exported(flow_totals), other(flow_totals)) == (
        {"10.0.0.1": (0, 0), "10.0.0.2": (0, 0)}, (10, 600),
    )  # fmt: skip

    # A third is being put beside the first, by a CPU that is stopped; meanwhile both go on.
    table.put((0, 0, 1), table.flow4(3), packets=1000, size=60000)
    table.sets["done"][0, 0] -= 1
    for at in 0, 1:
        table.slots[at, 0, 0]["packets"] += 100
        table.slots[at, 0, 0]["bytes"] += 6000
    table.write()
    for now in 2, 3:
        every_step(flow_totals.read(known, total(210, 12600), now=now, moved=moved))
        assert (exported(flow_totals), other(flow_totals)) == (
            {"10.0.0.1": (0, 0), "10.0.0.2": (100, 6000)}, (10, 600),
        )  # fmt: skip

    table.sets["done"][0, 0] += 1
    table.write()
    every_step(flow_totals.read(known, total(1210, 72600), now=4, moved=False))
    assert exported(flow_totals) == {
        "10.0.0.1": (100, 6000), "10.0.0.2": (100, 6000), "10.0.0.3": (0, 0),
    }  # fmt: skip
    assert other(flow_totals) == (1010, 60600)


def test_every_scraper_reads_a_new_series_at_0(table: Table) -> None:
    """Two that scrape at different intervals; what comes before a series counts is in other."""
    flow_totals, known = totals_of(table, patience=65), series_index()
    read: dict[int, list[int]] = {15: [], 60: []}
    sent, before = 0, 0
    flow_totals.shown("a person who reads once", now=995)
    for now in range(301):
        sent += 10
        if now >= 7:
            if now == 7:
                table.put((0, 0, 0), table.flow4(1), packets=0, size=0)
            table.slots[0, 0, 0]["packets"] += 10
            table.slots[0, 0, 0]["bytes"] += 600
            table.write()
        scraping = [interval for interval in read if (now + 4) % interval == 0]
        if scraping or now % 5 == 0:  # a scrape, or a scan of the host
            every_step(
                flow_totals.read(known, total(sent, 60 * sent), now=1000 + now, moved=now == 0)
            )
            shown = exported(flow_totals).get("10.0.0.1")
            assert (shown or (0, 0))[0] + other(flow_totals)[0] == sent
            assert other(flow_totals)[0] >= before
            before = other(flow_totals)[0]
            for interval in scraping:
                flow_totals.shown(f"every {interval} s", now=1000 + now)
                if shown is not None:
                    read[interval].append(shown[0])
    assert all(values[0] == 0 and values[-1] > 1500 for values in read.values())


def test_nothing_is_lost_whatever_happens(table: Table) -> None:
    """250 readings of a table under random traffic; the totals are the truth."""
    dice = random.Random(20261121)
    flow_totals, known = (
        totals_of(table, max_entries=90, top=20, idle_timeout=5),
        series_index(),
    )
    packets, before, highest = 0, 0, {}
    for now in range(1, 251):
        for _ in range(dice.randrange(12)):
            where = dice.randrange(64), dice.randrange(possible_cpus()), dice.randrange(4)
            slot, more = table.slots[where], dice.randrange(1, 100)
            if slot["packets"] == 0 or dice.random() < 0.3:
                table.put(where, table.flow4(dice.randrange(300)), more, more * 60)
            else:
                slot["packets"] += more
                slot["bytes"] += more * 60
            packets += more
        table.write()
        every_step(flow_totals.read(known, total(packets, packets * 60), now, moved=now == 1))
        assert len(flow_totals.exported) <= 20
        assert flow_totals.entries <= 90
        assert other(flow_totals)[0] >= before
        before = other(flow_totals)[0]
        shown = exported(flow_totals)
        assert sum(count for count, _ in shown.values()) + before == packets
        assert sum(size for _, size in shown.values()) + other(flow_totals)[1] == packets * 60
        assert all(shown[name][0] >= highest[name] for name in shown.keys() & highest.keys())
        highest = {name: count for name, (count, _) in shown.items()}
    assert flow_totals.evictions["idle"] and flow_totals.evictions["pressure"]


@pytest.mark.matrix
@pytest.mark.parametrize("readings", [60, pytest.param(240, marks=pytest.mark.nightly)])
def test_coming_and_going_takes_no_memory(readings: int) -> None:
    """A reading every five seconds; every flow lives for a minute or two."""
    resident = []
    with flow_table(sets=1024) as table:
        flow_totals, known = totals_of(table, max_entries=3000, top=200), series_index()
        packets = 0
        for interval in range(readings):
            for number in range(100):
                flow = interval * 100 + number
                where = flow % 1024, flow % possible_cpus(), (flow // 1024) % 4
                table.put(where, table.flow4(flow), 3 + number, 60)
                packets += 3 + number
            table.write()
            every_step(
                flow_totals.read(known, total(packets, 0), now=5.0 * interval, moved=interval == 0)
            )
            shown = sum(count for count, _ in exported(flow_totals).values())
            assert shown + other(flow_totals)[0] == packets
            if interval % (readings // 12) == 0:
                resident.append(int(Path("/proc/self/statm").read_text().split()[1]))
    assert flow_totals.entries <= 1300  # what has come in the last minute
    assert sum(flow_totals.evictions.values()) == readings * 100 - flow_totals.entries
    pages = 1 << 20 >> 12
    assert resident[-1] - resident[len(resident) // 2] <= pages, resident


@pytest.mark.matrix
@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=pytest.mark.nightly)])
def test_devices_that_come_and_go_take_no_memory(rounds: int) -> None:
    """A thousand at a time, each with a location of its own, some with flows."""
    devices, flows = 1000, 50
    traced: list[int] = []

    def location(serial: int, index: int, inode: int, name: str) -> tuple[str, str]:
        return "host", name

    with flow_table(sets=1024) as table:
        flow_totals, known = totals_of(table, max_entries=3000, top=100), SeriesIndex()
        tracemalloc.start()
        for round_ in range(rounds):
            numbers = np.arange(devices) + round_ * devices
            names = [b"veth%d" % number for number in numbers]
            seen = Seen(
                PROGRAM, TARGET, (5 << 32) + numbers.astype(np.uint64), np.full(devices, 5),
                np.array(names), np.arange(devices), np.zeros(devices, np.uint64), numbers,
            )  # fmt: skip
            for device in range(flows):
                key = table.at_device(table.flow4(device), int(numbers[device]))
                table.put((device, 0, round_ % 4), key, packets=round_ + 1, size=60)
            table.write()
            tally = total(round_ + 1, 60)[OWNER]
            totals = {(PROGRAM, ("host", name.decode())): tally for name in names}
            for now in 2 * round_, 2 * round_ + 1:
                moved = every_step(known.update([seen], location, round_))
                every_step(flow_totals.read(known, totals, now, moved))
            assert len(series_of(known)) == devices
            assert len(flow_totals.exported) == flows
            assert {count.owner for count in flow_totals.exported} <= totals.keys()
            assert {count.verdict for count in flow_totals.exported} == {"drop"}
            if round_ % (rounds // 10) == 0:
                traced.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert traced[-1] - traced[2] < 1 << 20, traced


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"IPv{family.version}")
def test_an_index_has_21_bits(family: Family) -> None:
    """The last that a record can have is the one before the one that stands for none."""
    with Object(bpf.path_of("flows")) as loaded:
        key = np.zeros((), loaded.btf.struct(family.key))
    for index in (0, 3, 4, 65535, 65536, 100003, 0x1FFFFE):
        for verdict in range(len(VERDICTS)):
            key["verdict"], key["device"] = verdict | index >> 16 << 3, index & 0xFFFF
            key["protocol"] = 255
            word = np.frombuffer(key.tobytes(), np.uint64)[family.words - 1]
            assert family.index(word) == index
            key["verdict"], key["device"] = verdict, 0
            rest = np.frombuffer(key.tobytes(), np.uint64)[family.words - 1]
            assert family.without_index(word) == rest


def test_flows_that_cannot_be_read_keep_their_owner(table: Table) -> None:
    """Even if the record of their device is gone meanwhile."""
    flow_totals, known = totals_of(table), series_index()
    table.put((0, 0, 0), table.flow4(1), packets=5, size=300)
    table.write()
    every_step(flow_totals.read(known, total(5, 300), now=1, moved=True))
    table.sets[0, 0]["started"] += 1
    table.write()
    assert every_step(known.update([], lambda *_: None, None))
    for now in 2, 3:
        every_step(flow_totals.read(known, {}, now=now, moved=now == 2))
        (found,) = held(flow_totals, known)
        assert found.owner == OWNER
    table.sets[0, 0]["done"] += 1
    table.write()
    every_step(flow_totals.read(known, {}, now=4, moved=False))
    assert held(flow_totals, known) == []
    assert series_of(known) == []


def test_flows_are_found_by_verdict_and_in_order(table: Table) -> None:
    flow_totals, known = totals_of(table, top=0), series_index()
    for number in range(1, 9):
        verdict = "pass" if number % 2 else "drop"
        table.put((number, 0, 0), table.flow4(number, verdict), packets=number, size=60)
    table.write()
    every_step(flow_totals.read(known, total(36, 480), now=1, moved=True))
    assert flow_totals.exported == []
    found = held(flow_totals, known, FlowQuery(limit=3, verdict="pass"))
    assert [count.flow.source for count in found] == ["10.0.0.7", "10.0.0.5", "10.0.0.3"]
    assert held(flow_totals, known, scopes=[]) == []
    assert len(held(flow_totals, known, scopes=series_of(known))) == 8


def slot_of(known: SeriesIndex, interface: str, moved: int) -> bool:
    """Bind the target's first slot on each CPU to a device; whether any owner may be another."""
    cpus, identity = possible_cpus(), int.from_bytes(interface.encode(), "big")
    seen = Seen(
        PROGRAM, TARGET, np.array([identity], np.uint64), np.array([5]),
        np.array([interface.encode()]), np.zeros(cpus, np.uint32), np.arange(cpus),
        np.zeros(cpus, np.uint64), np.full(cpus, moved, np.uint64),
    )  # fmt: skip
    return bool(every_step(known.update([seen], lambda *device: ("host", device[3]), "")))


def test_a_slot_that_changes_hands_gives_no_flow_to_another_device(table: Table) -> None:
    """Not even if the first device has it again at the next reading."""
    flow_totals, known = totals_of(table), SeriesIndex()
    assert slot_of(known, "a", 0)
    owners = {name: (PROGRAM, ("host", name)) for name in ("a", "b")}
    table.put((0, 0, 0), table.flow4(1), packets=5, size=300)
    table.put((0, 0, 1), table.flow4(2), packets=1, size=60)
    sums = {owners["a"]: total(6, 360)[OWNER]}
    sent, moves = 5, 0
    for now, (name, more) in enumerate([("a", 0), ("b", 3), ("b", 0), ("a", 4), ("a", 0)]):
        moves += now > 0 and more > 0
        slot_of(known, name, moves)
        sent += more
        table.slots[0, 0, 0]["packets"], table.slots[0, 0, 0]["bytes"] = sent, 60 * sent
        table.write()
        sums[owners["b"]] = total(3 * (now > 0), 180 * (now > 0))[OWNER]
        sums[owners["a"]] = total(6 + 4 * (now > 2), 360 + 240 * (now > 2))[OWNER]
        every_step(flow_totals.read(known, sums, now=now + 1, moved=True))
        assert {(each.packets, each.bytes) for each in flow_totals.exported} == {(0, 0)}
        for owner, tally in sums.items():
            assert flow_totals.other(owner).packets == tally.packets
        listed = [(each.owner[1][1], each.packets) for each in held(flow_totals, known)]
        assert sorted(listed) == {0: [("a", 1), ("a", 5)], 1: [("b", 3)], 3: [("a", 4)]}.get(
            now, sorted(listed)
        )


def test_a_slot_that_changed_hands_before_is_listed_from_now_on(table: Table) -> None:
    flow_totals, known = totals_of(table), SeriesIndex()
    table.put((0, 0, 0), table.flow4(1), packets=8, size=480)
    table.write()
    for now, sent in enumerate((8, 10), start=1):
        slot_of(known, "b", 1)
        table.slots[0, 0, 0]["packets"], table.slots[0, 0, 0]["bytes"] = sent, 60 * sent
        table.write()
        every_step(flow_totals.read(known, {}, now=now, moved=True))
        assert [each.packets for each in held(flow_totals, known)] == ([2] if now > 1 else [])
