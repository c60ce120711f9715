# SPDX-License-Identifier: Apache-2.0
"""Devices beyond those in a target's own record: deleted records take no count with them."""

import time
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import ENOMEM
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernel.conftest import Counts, counted, expect
from tests.kernel.flows import check_sums, expect_flows, observing, on_one_cpu
from tests.kernel.lab import Lab, Veth, frame
from tests.kernel.observing import Observer
from tests.kernel.pinned import udp
from tests.reference import flow_of
from tests.tables import every_step
from tests.waiting import wait_for
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import _any_matches
from xdpscope.counters import locations
from xdpscope.errors import KernelError
from xdpscope.kernel import netns
from xdpscope.libbpf import Map, Program, typed

pytestmark = pytest.mark.every_kernel

INLINE = 4
"""DEVICES_INLINE of bpf/common/xdpscope.h."""

AWAY = "xstaway"


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Pin this thread: each CPU gives the slots of its record to the devices that it meets
    first.
    """
    with on_one_cpu():
        yield


def fill(lab: Lab, program: Program) -> Counts:
    """Let devices take all places in the target's own record; return what they counted."""
    for number in range(INLINE):
        veth = lab.veth(f"xstkeep{number}")
        lab.attach(program, veth)
        veth.send(frame(60))
    return {("decide_drop", f"xstkeep{number}", "drop"): (1, 60) for number in range(INLINE)}


def move_away(lab: Lab, veth: Veth) -> None:
    lab.route.link("set", index=veth.index, net_ns_fd=AWAY)


def move_back(lab: Lab, veth: Veth) -> None:
    """With the same ifindex as before."""
    with lab.within(AWAY) as inside:
        inside.route.link("set", index=inside.index(veth.name), net_ns_pid=1)
    lab.route.link("set", index=veth.index, state="up")
    # The kernel lets the peer send a moment later, and drops what comes before.
    state = Path(f"/sys/class/net/{veth.peer}/operstate")
    wait_for(lambda: state.read_text() == "up\n", patience=30)
    lab.route.link("get", index=lab.index(veth.peer))  # waits for a change that is under way


def overflow(engine: Engine) -> int:
    """How many records there are beyond the targets' own."""
    return sum(len(records) for records in every_step(engine.overflow()).values())


@contextmanager
def observed(lab: Lab, observer: Observer) -> Iterator[tuple[Veth, Counts]]:
    """Yield a device whose record is an overflow record, and what the others have counted."""
    program = lab.load("decide_drop")
    lab.attach(program, lab.veth("xst0"))
    observer.scan(0)
    lab.attach(None, Veth("xst0", "xst0p", lab.index("xst0")))
    counts = fill(lab, program)
    veth = Veth("xst0", "xst0p", lab.index("xst0"))
    lab.attach(program, veth)
    with lab.namespace(AWAY):
        yield veth, counts


@pytest.mark.usefixtures("one_cpu")
def test_a_device_that_returns_counts_on(lab: Lab, engine: Engine, observer: Observer) -> None:
    """Its record is deleted meanwhile; the new one may have less or more than the old one had."""
    with observed(lab, observer) as (veth, expected):
        sent = 0
        for packets in (5, 8, 2):
            veth.send(frame(60), times=packets)
            sent += packets
            expect(observer, expected | {("decide_drop", "xst0", "drop"): (sent, sent * 60)})
            assert overflow(engine) == 1
            observer.scan(1000)
            move_away(lab, veth)
            observer.scan(1000)
            assert overflow(engine) == 0
            move_back(lab, veth)
        expect(observer, expected | {("decide_drop", "xst0", "drop"): (sent, sent * 60)})


@pytest.mark.first_kernel
@pytest.mark.usefixtures("one_cpu")
def test_counts_of_each_cpu_have_what_overflows(lab: Lab, observer: Observer) -> None:
    with observed(lab, observer) as (veth, expected):
        veth.send(frame(60), times=5)
        expect(observer, expected | {("decide_drop", "xst0", "drop"): (5, 300)})
        found = observer.cpu_counts().items()
        sums = {location[1]: counts.sum(axis=(0, 1)).tolist() for (_, location), counts in found}
        assert sums == {location: [*both] for (_, location, _), both in counted(observer).items()}


@pytest.mark.usefixtures("one_cpu")
def test_what_comes_before_the_deletion_is_counted(
    lab: Lab, engine: Engine, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after the last reading: here the device returns between the two."""

    def returning(keys: Iterable[Any]) -> Any:
        if keys := list(keys):
            move_back(lab, veth)
            veth.send(frame(60), times=3)
        return original(keys)

    original = engine.delete_overflow
    with observed(lab, observer) as (veth, expected):
        veth.send(frame(60), times=5)
        observer.scan(1000)
        observer.scan(1000)
        move_away(lab, veth)
        monkeypatch.setattr(engine, "delete_overflow", returning)
        observer.scan(1000)
        assert overflow(engine) == 0
        expect(observer, expected | {("decide_drop", "xst0", "drop"): (8, 480)})
        veth.send(frame(60), times=2)
        expect(observer, expected | {("decide_drop", "xst0", "drop"): (10, 600)})


def forge(
    engine: Engine, target: int, devices: Iterable[int], serial: int, inode: int, packets: int = 1
) -> None:
    """Put overflow records into the kernel's map as if devices had dropped packets of 60 bytes."""
    with engine.templates.map("overflow") as overflow:
        values = np.zeros((overflow.info.cpus, overflow.info.stride), np.uint8)
        key = np.zeros((), engine.templates.btf.struct("overflow_key"))
        record = typed(values, engine.templates.btf.struct("device_counts"))[0:1]
        key["target"] = target
        for device in devices:
            record["identity"] = key["identity"] = serial << 32 | device
            record["index"], record["netns"] = INLINE + device % 1000, inode
            record["name"] = b"gone%d" % device
            record["verdicts"]["packets"][0, 1] = packets
            record["verdicts"]["bytes"][0, 1] = 60 * packets
            put(overflow, key.tobytes(), values.tobytes())


def put(overflow: Map, key: bytes, values: bytes) -> None:
    """Wait for memory: the kernel takes it from a small stock, which it fills again meanwhile."""
    while True:
        try:
            return overflow.update(key, values)
        except KernelError as error:
            if error.errno != ENOMEM:
                raise
            time.sleep(0.001)


def records(engine: Engine) -> int:
    """Return how many overflow records the kernel holds, whoever they belong to."""
    with engine.templates.map("overflow") as overflow:
        return len(overflow.items()[0])


def number_of(observer: Observer, program: Program) -> int:
    """Return the number of a program's tracer."""
    own = program.info().id
    (tracer,) = (t.tracer for t in observer._targets if t.program.id == own and t.tracer)
    return tracer.number


@pytest.mark.first_kernel
def test_a_program_that_goes_takes_its_records_along(
    lab: Lab, engine: Engine, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a single record being read for it."""
    staying, going = lab.load("decide_pass"), lab.load("decide_drop")
    lab.attach(staying, lab.veth("xst0"))
    veth = lab.veth("xst1")
    lab.attach(going, veth)
    observer.scan(0)
    elsewhere = {"serial": 1 << 31, "inode": 1}
    forge(engine, number_of(observer, staying), range(1, 6), **elsewhere)
    forge(engine, number_of(observer, going), range(1, 3001), **elsewhere)
    observer.scan(0)  # gives the namespace a name
    assert sum(packets for packets, _ in counted(observer).values()) == 3005
    (tracer,) = (t.tracer for t in observer._targets if t.program.function == "decide_drop")
    assert tracer is not None
    with monkeypatch.context() as patch:
        for name in ("items", "lookup", "lookup_into", "lookup_and_delete", "delete"):
            patch.setattr(Map, name, None)
        tracer.discard()
    lab.delete(veth)
    going.close()
    assert records(engine) == 3005
    for _ in range(3):
        assert overflow(engine) == 5
    assert records(engine) == 5


@pytest.mark.matrix
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("devices", "rounds"), [(100, 4), pytest.param(400, 250, marks=pytest.mark.nightly)]
)
def test_records_that_come_and_go_leave_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, devices: int, rounds: int
) -> None:
    """Each device has a name of its own. Memory is flat, and every packet is counted.

    It is traced in the last rounds only: the agent is three times as slow then.
    """
    step, last, traced = rounds // 4, max(2, rounds // 10), []
    monkeypatch.setattr(locations, "_REMEMBERED", devices // 4)
    with Engine(FlowSizes(sets=64, sample_rate=1)) as engine, observing(engine) as observer:
        program = lab.load("decide_drop")
        lab.attach(program, lab.veth("xst0"))
        observer.scan(0)
        number = number_of(observer, program)
        namespaces = observer._snapshot.namespaces.items()
        (host,) = ((serial, inode) for serial, (inode, name) in namespaces if name == netns.HOST)
        for round_ in range(1, rounds + 1):
            if round_ == rounds - 2 * last + 1:
                tracemalloc.start()
            gone = range(1_000_000 + round_ * devices, 1_000_000 + (round_ + 1) * devices)
            forge(engine, number, gone, *host, packets=round_)
            # A record is deleted at the second scan that does not find its device.
            observer.scan(1000)
            assert records(engine) == devices
            if round_ % step == 0:
                found = counted(observer)
                expected = {
                    ("decide_drop", f"gone{device}", "drop"): (round_, 60 * round_)
                    for device in gone
                }
                assert {key: found.get(key) for key in expected} == expected
                check_sums(observer)
            observer.scan(0)
            assert records(engine) == 0
            if round_ in (rounds - last, rounds):
                _any_matches.cache_clear()  # it remembers the last 8,192 names
                traced.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    before, after = traced
    print(f"bytes that {last * devices} devices more have taken: {after - before}")
    assert after - before < 150 * last * devices


@pytest.mark.first_kernel
@pytest.mark.usefixtures("one_cpu")
def test_flows_go_on_after_100000_devices(lab: Lab) -> None:
    with Engine(FlowSizes(sets=64, sample_rate=1)) as engine, observing(engine) as observer:
        program = lab.load("decide_drop")
        veths = [lab.veth(f"xst{number}") for number in range(INLINE + 3)]
        for veth in veths:
            lab.attach(program, veth)
        observer.scan(0)
        (tracer,) = (t.tracer for t in observer._targets if t.tracer)
        records = tracer._counts.lookup(bytes(4))
        typed(records, engine.target_counts)["devices_overflow"] = 100_000
        tracer._counts.update(bytes(4), records.tobytes())
        expected = {}
        for number, veth in enumerate(veths):
            for kind in (udp(4000), frame(60)):
                veth.send(kind, times=number + 1)
                key = "decide_drop", veth.name, "drop", flow_of(kind)
                expected[key] = number + 1, (number + 1) * len(kind)
        expect_flows(observer, expected)
        (overflow,) = every_step(engine.overflow()).values()
        indices = overflow.indices[overflow.bound]
        assert sorted(indices.tolist()) == [100_000 + INLINE + n for n in range(3)]
        # The last index is spent, and there is none for a further device.
        records = tracer._counts.lookup(bytes(4))
        typed(records, engine.target_counts)["devices_overflow"] = 1 << 32
        tracer._counts.update(bytes(4), records.tobytes())
        last = lab.veth("xstlast")
        lab.attach(program, last)
        last.send(udp(4000), times=2)
        expected["decide_drop", "xstlast", "drop", "table_full"] = 2, 2 * len(udp(4000))
        expect_flows(observer, expected)


@pytest.mark.usefixtures("one_cpu")
def test_without_an_agent_records_do_not_grow_for_ever(
    lab: Lab, engine: Engine, observer: Observer
) -> None:
    """Further devices are counted, but not by name, until the next agent has read the records."""
    program = lab.load("decide_drop")
    lab.attach(program, lab.veth("xst0"))
    observer.scan(0)
    expected = fill(lab, program)
    late = [lab.veth(f"xst{number}") for number in range(1, 6)]
    for veth in late:
        lab.attach(program, veth)
    assert counted(observer) == expected
    with engine.templates.map(".data.budget") as budget:
        budget.update(bytes(4), np.int64(2).tobytes())
    for packets in 3, 4:
        for veth in late:
            veth.send(frame(60), times=packets)
    assert records(engine) == 2
    for veth in late[:2]:
        expected["decide_drop", veth.name, "drop"] = (7, 420)
    expected["decide_drop", "unknown", "drop"] = (21, 1260)
    expect(observer, expected)
    for veth in late[2:]:
        veth.send(frame(60), times=2)
        expected["decide_drop", veth.name, "drop"] = (2, 120)
    expect(observer, expected)
