# SPDX-License-Identifier: Apache-2.0
"""The time inside a program is in the right bucket, of each packet that is to be measured."""

from collections.abc import Iterator

import pytest

from tests.kernel.conftest import counted, expect
from tests.kernel.flows import check_sums, on_one_cpu
from tests.kernel.lab import Drizzle, Lab, addressed, frame
from tests.kernel.observing import Observer
from tests.kernel.pinned import READ_ONLY, WRITING
from tests.kernel.test_lifecycle import extension_of, link_targets  # noqa: F401 - a fixture
from tests.waiting import wait_for
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import Flows, Latency
from xdpscope.discovery.inventory import Inventory
from xdpscope.probes.latency.times import BOUNDS, Times

pytestmark = pytest.mark.every_kernel

SIZES = {
    "verdicts": None,
    "flows": FlowSizes(sets=64, sample_rate=1),
    "sampled": FlowSizes(sets=64, sample_rate=10),
}
ON, OFF = Latency(enabled=True), Latency()

SPIN = 2**17
"""Nanoseconds that a packet takes which ``slow`` makes."""


@pytest.fixture(scope="module", params=SIZES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine(SIZES[request.param]) as engine:
        yield engine


@pytest.fixture
def observer(engine: Engine) -> Iterator[Observer]:
    with (
        Inventory() as inventory,
        Observer(engine, inventory, Selection(), Flows()) as observer,
    ):
        yield observer


def slow() -> bytes:
    return frame(60, bytes([SPIN >> 16]))


def times(observer: Observer) -> dict[str, Times]:
    """Return the histograms, by program."""
    return {each.program.function: each.times for each in observer.latencies()}


def measure(observer: Observer, latency: Latency = ON) -> None:
    """Switch it on or off, and wait until that is done for each program."""
    observer.measure(latency)
    wait_for(lambda: observer.scan(0) or not observer._targets.incomplete())


def up_to(found: Times, nanoseconds: int) -> int:
    """Return how many packets took at most this."""
    return dict(found.cumulative)[nanoseconds / 1e9]


def expect_times(observer: Observer, **packets: int) -> None:
    """Fail unless each program has so many times, in its counts too."""
    wait_for(lambda: {name: each.packets for name, each in times(observer).items()} == packets)
    for (name, *_), (found, _) in counted(observer).items():
        assert found == packets[name]


@pytest.mark.first_kernel
def test_a_busy_loop_is_in_its_bucket(lab: Lab, observer: Observer) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("spin", "latency"), veth)
    measure(observer)
    assert times(observer) == {"spin": Times()}
    veth.send(frame(60), times=50)
    expect_times(observer, spin=50)
    fast = times(observer)["spin"]
    # Not all: an emulated CPU stands still now and then.
    assert up_to(fast, SPIN) > 25
    assert 0 < fast.seconds / 50 < 0.1

    veth.send(slow(), times=50)
    expect_times(observer, spin=100)
    both = times(observer)["spin"]
    assert up_to(both, SPIN) == up_to(fast, SPIN)
    bucket = BOUNDS.index(2 * SPIN / 1e9)
    assert both.buckets[bucket] - fast.buckets[bucket] > 25
    assert both.seconds - fast.seconds >= 50 * SPIN / 1e9


@pytest.mark.usefixtures("link_targets")
def test_nested_programs_have_times_of_their_own(lab: Lab, observer: Observer) -> None:
    veth, dispatcher = lab.veth("xst0"), lab.load("xdp_dispatcher", "latency")
    with extension_of(dispatcher, "prog0") as extension, extension.attached():
        lab.attach(dispatcher, veth)
        measure(observer)
        veth.send(slow(), times=30)
        expect_times(observer, xdp_dispatcher=30, drop_instead=30)
        found = times(observer)
        assert up_to(found["xdp_dispatcher"], SPIN) == 0
        assert up_to(found["drop_instead"], SPIN) > 15


def test_a_tail_call_counts_at_the_program_that_calls(lab: Lab, observer: Observer) -> None:
    programs = lab.load_together("latency", "spin_in_tail_call", "spin")
    programs.put("leaves", 0, programs["spin"])
    veth = lab.veth("xst0")
    lab.attach(programs["spin_in_tail_call"], veth)
    measure(observer)
    veth.send(slow(), times=20)
    expect_times(observer, spin_in_tail_call=20)
    assert up_to(times(observer)["spin_in_tail_call"], SPIN) == 0


@pytest.mark.first_kernel
def test_one_packet_of_ten(lab: Lab, observer: Observer) -> None:
    program = lab.load("spin", "latency")
    lab.attach(program, lab.veth("xst0"))
    measure(observer, Latency(enabled=True, sample_rate=10))
    # Of each ten that a CPU runs, one at random. A test run may move to another CPU meanwhile.
    with on_one_cpu():
        for run in range(1, 4):
            program.test_run(slow(), 1000)
            assert times(observer)["spin"].packets == 100 * run
    assert up_to(times(observer)["spin"], SPIN) == 0
    before = times(observer)["spin"].packets
    measure(observer)
    with on_one_cpu():
        program.test_run(frame(60), 100)
    # Up to nine were still to be skipped.
    assert 91 <= times(observer)["spin"].packets - before <= 100


def test_switched_under_traffic_it_loses_no_packet(lab: Lab, observer: Observer) -> None:
    """Nor does it count one twice, in verdicts and flows."""
    veths = {name: lab.veth(f"xst{n}") for n, name in enumerate((READ_ONLY, WRITING))}
    for name, veth in veths.items():
        lab.attach(lab.load(name, "flows"), veth)
    measure(observer, OFF)
    data = addressed(frame(60), what=1)
    assert times(observer) == {}
    traffic = Drizzle((veth.sender(), data) for veth in veths.values())
    traffic.start()
    try:
        measured = 0
        for _ in range(4):
            measure(observer)
            before, sent = times(observer), traffic.sent
            wait_for(lambda sent=sent: traffic.sent > sent + 20)
            assert all(times(observer)[name].packets >= before[name].packets + 15 for name in veths)
            measure(observer, OFF)
            stopped = times(observer)
            assert min(each.packets for each in stopped.values()) > measured
            measured = max(each.packets for each in stopped.values())
            wait_for(lambda sent=sent: traffic.sent > sent + 40)
            assert times(observer) == stopped
    finally:
        traffic.stop()
    sums = {name: traffic.sent - veth.lost for name, veth in veths.items()}
    expect(observer, {(n, veths[n].name, "drop"): (s, s * 60) for n, s in sums.items()})
    if observer.flow_counts() is not None:
        check_sums(observer)
