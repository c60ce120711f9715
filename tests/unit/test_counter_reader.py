# SPDX-License-Identifier: Apache-2.0
"""All packets of targets reach the totals, though quiet targets are not read again."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.tables import every_step

from xdpscope import bpf
from xdpscope.counters import counter_reader
from xdpscope.counters.counter_reader import Counted, CounterReader
from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.records import sums
from xdpscope.counters.totals import Location, Totals
from xdpscope.libbpf import Object

PROGRAMS = [70, 71, 72]
NUMBERS = [1, 2, 3]
DEVICE = 5 << 32 | 2
CPUS = 2


@pytest.fixture(scope="module")
def layout() -> np.dtype[Any]:
    with Object(bpf.path_of("verdicts")) as verdicts:
        return verdicts.btf.struct("target_counts")


@pytest.fixture
def records(layout: np.dtype[Any]) -> NDArray[Any]:
    """Of three targets on two CPUs; each has had a packet of 60 bytes from one device."""
    found = np.zeros((len(NUMBERS), CPUS), layout)
    found["devices"]["identity"][:, 0, 0] = DEVICE
    found["devices"]["name"][:, 0, 0] = b"eth0"
    found["devices"]["verdicts"][:, 0, 0, 1] = (1, 60)
    return found


def somewhere(serial: int, index: int, inode: int, name: str) -> Location:
    return "host", name


def drops(totals: Totals) -> list[tuple[int, int]]:
    tallies = [totals.of(program).get(("host", "eth0")) for program in PROGRAMS]
    return [(t.packets[1], t.bytes[1]) if t else (0, 0) for t in tallies]


def test_the_sum_grows_with_any_counter(records: NDArray[Any]) -> None:
    """And with nothing else."""
    for array in ("verdicts", "unaccounted"):
        for at in np.ndindex(records["devices"][array].shape):
            for name in ("packets", "bytes"):
                before = sums(records)
                records["devices"][array][name][at] += 1
                assert (sums(records) - before).tolist() == [n == at[0] for n in range(3)]
    for at in np.ndindex(records["unplaced"].shape):
        before = sums(records)
        records["unplaced"]["bytes"][at] += 1
        assert (sums(records) - before).tolist() == [n == at[0] for n in range(3)]
    before = sums(records)
    records["entry"]["owner"] += 1
    records["devices"]["mark"] += 1
    assert sums(records).tolist() == before.tolist()


def test_only_what_has_grown_is_read(
    records: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def of_target(values: NDArray[Any]) -> Any:
        read.append(values)
        return original(values)

    original = counter_reader.of_target
    monkeypatch.setattr(counter_reader, "of_target", of_target)
    totals = Totals()
    kept = CounterReader(totals)
    every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {}, somewhere))
    assert (drops(totals), len(read)) == ([(1, 60)] * 3, 3)
    seen = list(kept.seen)
    every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {}, somewhere))
    assert len(read) == 3
    assert list(kept.seen) == seen
    # Read in the middle of a count: packets first, bytes later.
    records["devices"]["verdicts"]["packets"][1, 1, 0, 1] += 1
    records["devices"]["identity"][1, 1, 0] = DEVICE
    every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {}, somewhere))
    records["devices"]["verdicts"]["bytes"][1, 1, 0, 1] += 100
    every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {}, somewhere))
    assert (drops(totals), len(read)) == ([(1, 60), (2, 160), (1, 60)], 5)


def test_a_step_adds_the_counts_of_a_few_targets(
    records: NDArray[Any], layout: np.dtype[Any]
) -> None:
    """However many were read together: to add one takes long."""
    few = counter_reader._ADDED_IN_STEP
    many = np.zeros((2 * few + 3, CPUS), layout)
    many[:] = records[0]
    numbers = list(range(1, len(many) + 1))
    kept = CounterReader(Totals())

    def added() -> list[int]:
        """The number of targets whose counts each step has added."""
        versions = [kept.version]
        for _ in kept.record([Counted(numbers, numbers, many)], {}, somewhere):
            versions.append(kept.version)
        return np.diff(versions).tolist()

    assert added() == [few, few, 3]
    many["devices"]["verdicts"]["packets"][4, 0, 0, 1] += 1
    assert added() == [1]


def test_what_has_no_place_yet_is_booked_when_it_has(records: NDArray[Any]) -> None:
    totals = Totals()
    kept = CounterReader(totals)
    for _ in range(2):
        every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {}, lambda *_: None))
        assert drops(totals) == [(0, 0)] * 3
    every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {}, somewhere))
    assert drops(totals) == [(1, 60)] * 3


def test_a_quiet_target_may_have_records_elsewhere(records: NDArray[Any]) -> None:
    totals = Totals()
    kept = CounterReader(totals)
    every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {}, somewhere))
    more = records["devices"][1, :, :1].T.copy()
    more["verdicts"]["packets"][0, 0, 1] = 4
    overflow = OverflowReading.of(more)
    for _ in range(2):
        every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {2: overflow}, somewhere))
        assert drops(totals) == [(1, 60), (5, 120), (1, 60)]
        assert len(list(kept.seen)) == 4
    # Taken out of the shared map, and then there again: it counts from 0.
    every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {}, somewhere))
    assert len(list(kept.seen)) == 3
    every_step(kept.record([Counted(PROGRAMS, NUMBERS, records)], {2: overflow}, somewhere))
    assert drops(totals) == [(1, 60), (9, 180), (1, 60)]


def test_what_an_idle_target_counts_is_left_out(records: NDArray[Any]) -> None:
    totals = Totals()
    kept = CounterReader(totals)
    counted = [Counted(PROGRAMS, NUMBERS, records)]
    for _ in range(2):
        every_step(kept.skip(counted, {}, lambda program: program == 71))
        every_step(kept.record([], {}, somewhere, NUMBERS))
        assert [len(totals.of(program)) for program in PROGRAMS] == [0, 0, 0]
    every_step(kept.record(counted, {}, somewhere))
    assert drops(totals) == [(0, 0), (1, 60), (0, 0)]
    records["devices"]["verdicts"]["packets"][:, 1, 0, 1] += 2
    records["devices"]["identity"][:, 1, 0] = DEVICE
    every_step(kept.skip(counted, {}, lambda program: program != 70))
    seen = len(list(kept.seen))
    every_step(kept.record(counted, {}, somewhere))
    assert drops(totals) == [(0, 0), (3, 60), (2, 0)]
    every_step(kept.record([], {}, somewhere, NUMBERS))
    assert len(list(kept.seen)) == seen
