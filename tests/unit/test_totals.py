# SPDX-License-Identifier: Apache-2.0
"""Totals that only grow, whatever the readings do."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.tables import every_step

from xdpscope import bpf
from xdpscope.counters.device_names import Uppers
from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.records import UNPLACED, DeviceReading, by_device, no_counts, of_target
from xdpscope.counters.retention import Retention
from xdpscope.counters.series_index import Seen, SeriesIndex
from xdpscope.counters.totals import Location, Totals
from xdpscope.discovery.model import Snapshot
from xdpscope.libbpf import Object
from xdpscope.probes.verdicts.by_cpu import add_overflow, by_cpu
from xdpscope.probes.verdicts.report import cpus_as_json
from xdpscope.program_types.xdp import VERDICTS

PROGRAM = 7
INLINE = "inline"


def reading(drops: int, size: int = 60, name: str = "eth0") -> DeviceReading:
    counts = no_counts()
    counts[0, 1] = drops, drops * size
    return DeviceReading(name, counts, inode=1)


def by_index(serial: int, index: int, inode: int, name: str) -> Location:
    return f"ns{serial}", name


def drops(totals: Totals) -> dict[Location, tuple[int, int]]:
    return {location: (t.packets[1], t.bytes[1]) for location, t in totals.of(PROGRAM).items()}


def test_what_a_record_grew_by_is_booked_once() -> None:
    totals = Totals()
    for total in (3, 3, 10):
        totals.record(PROGRAM, INLINE, {(1, 2): reading(total)}, by_index)
    assert drops(totals) == {("ns1", "eth0"): (10, 600)}


def test_growth_goes_to_the_name_of_now() -> None:
    totals = Totals()
    totals.record(PROGRAM, INLINE, {(1, 2): reading(3, name="old")}, by_index)
    totals.record(PROGRAM, INLINE, {(1, 2): reading(5, name="old")}, lambda *_: ("ns1", "new"))
    assert drops(totals) == {("ns1", "old"): (3, 180), ("ns1", "new"): (2, 120)}


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),  # ifindex
            st.integers(0, 50),  # packets more
            st.sampled_from(["eth0", "eth1"]),  # its name now
        ),
        max_size=60,
    )
)
def test_every_packet_is_booked_and_nothing_shrinks(
    history: list[tuple[int, int, str]],
) -> None:
    totals, kernel, sent = Totals(), {}, 0
    before: dict[Location, tuple[int, int]] = {}
    for index, more, name in history:
        kernel[1, index] = kernel.get((1, index), 0) + more
        sent += more
        totals.record(
            PROGRAM,
            INLINE,
            {k: reading(v) for k, v in kernel.items()},
            lambda *_, n=name: ("host", n),
        )
        now = drops(totals)
        assert all(now[location] >= total for location, total in before.items())
        before = now
    assert sum(packets for packets, _ in before.values()) == sent
    assert sum(size for _, size in before.values()) == sent * 60


def test_forgetting() -> None:
    totals = Totals()
    totals.record(PROGRAM, INLINE, {(1, 2): reading(1), (1, 3): reading(1, name="eth1")}, by_index)
    totals.forget_location(("ns1", "eth0"))
    assert set(totals.locations()) == {("ns1", "eth1")}
    totals.forget_program(PROGRAM)
    assert drops(totals) == {}


def test_what_is_gone_stays_for_a_time_whoever_reads() -> None:
    gone: Retention[str] = Retention()
    gone.gone("a", now=0)
    gone.gone("a", now=9)  # once is enough
    gone.gone("b", now=21)
    assert gone.over(now=59, retention=60) == []
    assert gone.over(now=60, retention=60) == ["a"]
    assert gone.over(now=81, retention=60) == ["b"]


def test_what_is_back_is_not_gone() -> None:
    gone: Retention[str] = Retention()
    gone.gone("a", now=0)
    gone.back("a")
    assert "a" not in gone
    gone.gone("a", now=5)
    assert gone.over(now=64, retention=60) == [], "this end is not that old"


def test_no_more_stay_than_allowed() -> None:
    gone: Retention[int] = Retention(limit=2)
    for number in range(5):
        gone.gone(number, now=number)
    assert gone.over(now=5, retention=60) == [0, 1, 2]


def test_records_of_several_cpus_are_summed_by_device() -> None:
    """The layout comes from the compiled object, as in production."""
    with Object(bpf.path_of("verdicts")) as verdicts:
        layout = verdicts.btf.struct("target_counts")
        names = verdicts.btf.enum("verdict")
    assert [f"VERDICT_{verdict.upper()}" for verdict in VERDICTS] == list(names)[:-1]
    assert list(names.values()) == list(range(len(VERDICTS) + 1))

    values = np.zeros(3, layout)
    values[0]["devices"][0]["identity"] = 5 << 32 | 2
    values[0]["devices"][0]["name"] = b"eth0"
    values[0]["devices"][0]["verdicts"][1] = (2**63, 120)
    values[2]["devices"][0]["identity"] = 5 << 32 | 9
    values[2]["devices"][0]["name"] = b"\xff\xfe"
    values[2]["devices"][0]["verdicts"][2] = (1, 1514)
    values[2]["devices"][1]["identity"] = 5 << 32 | 2
    values[2]["devices"][1]["name"] = b"eth0"
    values[2]["devices"][1]["verdicts"][1] = (3, 180)
    values[2]["devices"][1]["unaccounted"][0][1] = (2, 120)
    values[1]["unplaced"][0] = (4, 240)

    found = of_target(values)
    assert {identity: each.name for identity, each in found.items()} == {
        (5, 2): "eth0",
        (5, 9): r"\xff\xfe",
        UNPLACED: "",
    }
    nonzero = {
        identity: {tuple(at): each.counts[*at].tolist() for at in np.argwhere(each.counts)[:, :2]}
        for identity, each in found.items()
    }
    assert nonzero == {
        (5, 2): {(0, 1): [2**63 + 3, 300], (1, 1): [2, 120]},
        (5, 9): {(0, 2): [1, 1514]},
        UNPLACED: {(0, 0): [4, 240], (4, 0): [4, 240]},
    }


def test_overflow_records_are_summed_part_by_part() -> None:
    """As all of them together, and each target's by itself."""
    with Object(bpf.path_of("verdicts")) as verdicts:
        layout = verdicts.btf.struct("device_counts")
    random = np.random.default_rng(1)
    records = np.zeros((40, 3), layout)
    records.view(np.uint64)[...] = random.integers(2**64, size=(40, 195), dtype=np.uint64)
    records["name"], records["netns"], records["index"] = b"eth0", 5, np.arange(120).reshape(40, 3)
    records["identity"] = np.arange(1, 41)[:, None]
    # Not every CPU has met every device, and the last device is not bound yet.
    absent = random.random(records.shape) < 0.3
    absent[:, 1] = False
    absent[39] = True
    records[absent] = np.zeros((), layout)
    targets = random.integers(3, size=40)

    parts = [OverflowReading.of(records[begin : begin + 7]) for begin in range(0, 40, 7)]
    found = dict(OverflowReading.joined(parts).split(targets))
    assert found.keys() == {0, 1, 2}
    for target, reading in found.items():
        mine = records[targets == target]
        expected = by_device(mine)
        assert reading.by_device().keys() == expected.keys()
        for device, each in reading.by_device().items():
            assert (each.name, each.inode) == (expected[device].name, expected[device].inode)
            assert (each.counts == expected[device].counts).all()
        devices, cpus = np.nonzero(mine["identity"])
        assert [at.tolist() for at in reading.bound] == [devices.tolist(), cpus.tolist()]
        assert (reading.indices[reading.bound] == mine["index"][devices, cpus]).all()
        packets = mine["verdicts"]["packets"].sum(axis=(1, 2), dtype=np.uint64)
        assert (reading.packets == packets).all()


def test_a_device_may_lose_one_of_its_records() -> None:
    totals = Totals()
    totals.record(PROGRAM, INLINE, {(1, 2): reading(3)}, by_index)
    totals.record(PROGRAM, "overflow", {(1, 2): reading(4)}, by_index)
    assert drops(totals) == {("ns1", "eth0"): (7, 420)}
    totals.record(PROGRAM, "overflow", {}, by_index)
    totals.record(PROGRAM, INLINE, {(1, 2): reading(5)}, by_index)
    assert drops(totals) == {("ns1", "eth0"): (9, 540)}
    totals.record(PROGRAM, "overflow", {(1, 2): reading(2)}, by_index)
    assert drops(totals) == {("ns1", "eth0"): (11, 660)}


def test_as_long_as_nothing_moves_no_device_is_asked_for_again() -> None:
    asked: list[int] = []
    locations: dict[int, Location | None] = {2: ("host", "eth0"), 3: None}

    def location_of(_serial: int, index: int, _inode: int, _name: str) -> Location | None:
        asked.append(index)
        return locations[index]

    def seen(*indices: int) -> Seen:
        count = len(indices)
        return Seen(
            PROGRAM, 1, np.array([5 << 32 | index for index in indices], np.uint64),
            np.full(count, 5), np.array([b"eth"] * count),
            np.arange(count), np.zeros(count, np.intp), np.arange(count),
        )  # fmt: skip

    series_index = SeriesIndex()
    assert every_step(series_index.update([seen(2)], location_of, "a scan"))
    assert not every_step(series_index.update([seen(2)], location_of, "a scan"))
    assert asked == [2]
    assert not every_step(series_index.update([seen(2)], location_of, "the next"))
    assert asked == [2, 2]
    # One that was nowhere may be somewhere by now.
    assert every_step(series_index.update([seen(2, 3)], location_of, "the next"))
    locations[3] = "host", "eth1"
    assert every_step(series_index.update([seen(2, 3)], location_of, "the next"))
    assert series_index.owner(1) == (PROGRAM, ("host", "eth1"))


def test_no_step_handles_all_of_hundreds_of_targets() -> None:
    """Each step holds the lock, for which a scrape waits."""
    asked: list[int] = []

    def location_of(_serial: int, index: int, _inode: int, _name: str) -> Location | None:
        asked.append(index)
        return "host", f"eth{index}"

    seen = [
        Seen(
            PROGRAM + number, number, np.array([5 << 32 | number], np.uint64), np.array([5]),
            np.array([b"eth"]), np.array([0]), np.array([0]), np.array([0]),
        )
        for number in range(500)
    ]  # fmt: skip
    in_step = []
    for _ in SeriesIndex().update(seen, location_of, "a view"):
        in_step.append(len(asked))
        asked.clear()
    assert sum(in_step) == 500
    assert max(in_step) < 100

    totals = Totals()
    for number in range(500):
        totals.record(PROGRAM + number, INLINE, {(1, number): reading(5)}, by_index)
    steps = totals.packets_of({(1, 3), (1, 7)})
    assert len(list(steps)) > 5
    assert every_step(totals.packets_of({(1, 3), (1, 7), (1, 500)})) == {(1, 3): 5, (1, 7): 5}


def test_a_smaller_reading_is_a_new_record() -> None:
    """Deleted and created again between two readings."""
    totals = Totals()
    for total in (5, 2, 4):
        totals.record(PROGRAM, INLINE, {(1, 2): reading(total)}, by_index)
    assert drops(totals) == {("ns1", "eth0"): (9, 540)}
    # Fewer packets, though of more bytes.
    totals.record(PROGRAM, INLINE, {(1, 2): reading(3, size=1000)}, by_index)
    assert drops(totals) == {("ns1", "eth0"): (12, 3540)}


def test_a_deleted_record_is_booked_and_forgotten() -> None:
    """The next one counts from 0, even if it has overtaken the deleted one."""
    totals = Totals()
    totals.record(PROGRAM, INLINE, {(1, 2): reading(5), (1, 3): reading(1, name="eth1")}, by_index)
    totals.close(PROGRAM, INLINE, {(1, 2): reading(7)}, by_index)
    now = {(1, 2): reading(9), (1, 3): reading(2, name="eth1")}
    totals.record(PROGRAM, INLINE, now, by_index)
    assert drops(totals) == {("ns1", "eth0"): (16, 960), ("ns1", "eth1"): (2, 120)}


def test_a_bond_selects_what_has_left_it_for_a_minute() -> None:
    uppers, eth0, eth1 = Uppers(), ("host", "eth0"), ("host", "eth1")
    both = Snapshot(uppers={eth0: ("bond0",), eth1: ("bond0",)})
    one = Snapshot(uppers={eth0: ("bond0",)})
    uppers.update(both, 0)
    uppers.update(one, 10)
    first = uppers.version
    uppers.update(one, 69)
    assert (uppers.of(eth0), uppers.of(eth1)) == (("bond0",), ("bond0",))
    assert uppers.version == first
    uppers.update(one, 70)
    assert (uppers.of(eth0), uppers.of(eth1)) == (("bond0",), ())
    assert uppers.version > first
    uppers.update(Snapshot(uppers={eth0: ("bond0",), eth1: ("bond1",)}), 80)
    assert uppers.of(eth1) == ("bond1",)


def test_counts_of_each_cpu_add_up_to_the_reading() -> None:
    """On three CPUs: devices in other slots on each, one only in the overflow, one unplaced."""
    with Object(bpf.path_of("verdicts")) as loaded:
        records = np.zeros(3, loaded.btf.struct("target_counts"))
        overflow = np.zeros((1, 3), loaded.btf.struct("device_counts"))
    for cpu, slot, ifindex, packets in (0, 0, 2, 5), (1, 1, 2, 7), (1, 0, 3, 11), (2, 0, 2, 0):
        device = records["devices"][cpu, slot]
        device["identity"], device["name"] = 1 << 32 | ifindex, f"eth{ifindex}"
        device["verdicts"][1] = packets, 60 * packets
    overflow[0, 2]["identity"], overflow[0, 2]["name"] = 1 << 32 | 3, "eth3"
    overflow[0, 2]["verdicts"][2] = 13, 1300
    records["unplaced"][2][0] = 17, 1700

    found = by_cpu(records, by_index)
    add_overflow(found, overflow, by_index)
    assert {location: counts[:, :3, 0].tolist() for location, counts in found.items()} == {
        ("ns1", "eth2"): [[0, 5, 0], [0, 7, 0], [0, 0, 0]],
        ("ns1", "eth3"): [[0, 0, 0], [0, 11, 0], [0, 0, 13]],
        ("ns0", ""): [[0, 0, 0], [0, 0, 0], [17, 0, 0]],
    }
    shown = cpus_as_json(found["ns1", "eth3"])
    assert [(each["cpu"], each["packets"]["pass"], each["bytes"]["drop"]) for each in shown] == [
        (1, 0, 660),
        (2, 13, 0),
    ]
    nothing = by_cpu(records, lambda *_: None)
    add_overflow(nothing, overflow, lambda *_: None)
    assert nothing == {}


def test_counts_that_move_between_stores_are_no_growth() -> None:
    """Also if they grew before, and if a part of them stays."""
    totals = Totals()
    steps = [((5, 0), 5), ((2, 4), 6), ((3, 4), 7), ((0, 9), 9), ((6, 9), 15), ((6, 0), 15)]
    for (placed, beyond), total in steps:
        now = {(1, 2): reading(placed)} if placed else {}
        totals.move(PROGRAM, INLINE, now, "overflow")
        totals.record(PROGRAM, INLINE, now, by_index)
        totals.record(PROGRAM, "overflow", {(1, 2): reading(beyond)} if beyond else {}, by_index)
        assert drops(totals) == {("ns1", "eth0"): (total, 60 * total)}
