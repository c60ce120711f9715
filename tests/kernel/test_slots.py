# SPDX-License-Identifier: Apache-2.0
"""Slots of devices that no longer exist go to other devices, and no packet is lost by that."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.flows import accounted, check_sums, differs, observing, on_one_cpu
from tests.kernel.forked import observing as observing_pinned
from tests.kernel.lab import Lab, Veth, attempt
from tests.kernel.observing import Observer
from tests.kernel.pinned import READ_ONLY, WRITING, settled, udp
from tests.reference import flow_of
from tests.tables import every_step
from tests.waiting import wait_for
from xdpscope.attach.engine import Engine
from xdpscope.attach.tracer import Tracer
from xdpscope.attach.variants import FlowSizes

pytestmark = pytest.mark.every_kernel

INLINE = 4
"""DEVICES_INLINE of bpf/common/xdpscope.h."""

SIZE = 60
FLOWS = FlowSizes(sets=64, sample_rate=1)


@contextmanager
def observed(lab: Lab, function: str) -> Iterator[tuple[Engine, Observer, Any]]:
    """Yield an engine, an observer and a program; with flows, except for ``decide_drop``."""
    flows = function != "decide_drop"
    with Engine(FLOWS if flows else None) as engine, observing(engine) as observer:
        yield engine, observer, lab.load(function, "flows" if flows else "verdicts")


def tracer_of(observer: Observer) -> Tracer:
    (tracer,) = (target.tracer for target in observer._targets if target.tracer)
    return tracer


def in_slots(observer: Observer) -> set[bytes]:
    """Return the names of the devices that have a slot on any CPU."""
    devices = tracer_of(observer).records()["devices"]
    return set(devices["name"][devices["identity"] != 0].tolist())


def overflowing(engine: Engine) -> set[bytes]:
    """Return the names of the devices that have a record elsewhere."""
    return {name for each in every_step(engine.overflow()).values() for name in each.names.tolist()}


def drops(observer: Observer) -> dict[str, tuple[int, int]]:
    """Return packets and bytes of each interface, also of one that is gone."""
    observer.counts()
    totals = observer._reader.totals.of(tracer_of(observer)._target)
    return {
        interface: (sum(tally.packets), sum(tally.bytes))
        for (_, interface), tally in totals.items()
    }


def expect_drops(observer: Observer, packets: dict[str, int]) -> None:
    expected = {name: (number, number * SIZE) for name, number in packets.items()}
    wait_for(lambda: drops(observer) == expected, patience=10)
    assert drops(observer) == expected
    if observer.flow_counts() is not None:
        check_sums(observer)


def devices(lab: Lab, program: Any, *names: str) -> list[Veth]:
    veths = [lab.veth(name) for name in names]
    for veth in veths:
        lab.attach(program, veth)
    return veths


@pytest.mark.parametrize("function", ["decide_drop", READ_ONLY])
def test_a_slot_goes_from_a_device_that_is_gone_to_a_new_one(lab: Lab, function: str) -> None:
    """At the first packet of the new one. Its flows are its own, although they have equal keys."""
    names = [[f"xst{round_}{number}" for number in range(INLINE)] for round_ in range(2)]
    with observed(lab, function) as (engine, observer, program), on_one_cpu():
        sent = {}
        lab.attach(program, lab.veth("xsts"))
        observer.scan(0)
        for number, group in enumerate(names, start=1):
            veths = devices(lab, program, *group)
            observer.scan(0)
            for times, veth in enumerate(veths, start=number):
                veth.send(udp(4000), times=times)
                sent[veth.name] = times
            expect_drops(observer, sent)
            assert in_slots(observer) == {name.encode() for name in group}
            if function != "decide_drop":
                key = flow_of(udp(4000))
                differs(
                    accounted(observer),
                    {(function, n, "drop", key): (sent[n], sent[n] * SIZE) for n in group},
                )
            for veth in veths:
                lab.delete(veth)
            for _ in range(3):
                observer.scan(0)
            assert overflowing(engine) == set()
            expect_drops(observer, sent)


@pytest.mark.matrix
@pytest.mark.parametrize("function", [WRITING])
def test_a_device_gets_the_slot_of_one_that_goes_after_it_came(lab: Lab, function: str) -> None:
    """And the record that it had until then stays in its counts."""
    names = [f"xst{number}" for number in range(INLINE + 1)]
    with observed(lab, function) as (engine, observer, program), on_one_cpu():
        *others, last = devices(lab, program, *names)
        observer.scan(0)
        for veth in (*others, last):
            veth.send(udp(4000), times=3)
        expect_drops(observer, dict.fromkeys(names, 3))
        assert overflowing(engine) == {last.name.encode()}
        lab.delete(others[0])
        for _ in range(2):
            observer.scan(0)
        for packets in (7, 8):
            last.send(udp(4000), times=packets - 3 if packets == 7 else 1)
            expect_drops(observer, dict.fromkeys(names, 3) | {last.name: packets})
            assert in_slots(observer) == {name.encode() for name in names[1:]}
        if function != "decide_drop":
            found = accounted(observer)
            assert found[function, last.name, "drop", flow_of(udp(4000))] == (8, 8 * SIZE)


def send_on(cpu: int, veths: list[Veth], end: threading.Event, sent: dict[str, int]) -> None:
    """Send by each device in turn, on one CPU."""
    os.sched_setaffinity(0, {cpu})
    with ExitStack() as stack:
        senders = [stack.enter_context(veth.sender()) for veth in veths]
        while not end.is_set():
            for veth, sender in zip(veths, senders, strict=True):
                attempt(sender, udp(4000 + cpu))
                sent[veth.name] += 1
            end.wait(0.02)


@pytest.mark.first_kernel
@pytest.mark.parametrize("function", ["decide_drop", READ_ONLY, WRITING])
def test_records_move_under_traffic_on_every_cpu(lab: Lab, function: str) -> None:
    """Here all devices exist: they take the slots from each other all the time."""
    cpus = sorted(os.sched_getaffinity(0))
    names = [f"xst{number}" for number in range(INLINE + 2)]
    with observed(lab, function) as (engine, observer, program):
        veths = devices(lab, program, *names)
        observer.scan(0)
        observer.counts()
        end, sent = threading.Event(), [dict.fromkeys(names, 0) for _ in cpus]
        threads = [
            threading.Thread(target=send_on, args=(cpu, veths, end, sent[at]), daemon=True)
            for at, cpu in enumerate(cpus)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(in_slots(observer)) >= INLINE, patience=30)
        seen, before = 0, drops(observer)
        wait_for(lambda: overflowing(engine), patience=30)
        for _ in range(12):
            devices_ = tracer_of(observer).records()["devices"]
            with observer._reader.lock:
                found = set(devices_["identity"].reshape(-1).tolist()) - {0}
                every_step(engine.vacancies.publish(found))
            end.wait(0.02)
            now = drops(observer)
            observer.flow_counts()
            assert all(now[name] >= counts for name, counts in before.items())
            before = now
            seen = engine.vacancies.moves
        end.set()
        for thread in threads:
            thread.join()
        with observer._reader.lock:
            every_step(engine.vacancies.publish(set()))
        assert seen > 12
        expect_drops(
            observer,
            {veth.name: sum(each[veth.name] for each in sent) - veth.lost for veth in veths},
        )


@pytest.mark.first_kernel
@pytest.mark.parametrize("sizes", [None, FLOWS], ids=["verdicts", "flows"])
def test_slots_change_hands_while_no_agent_runs(
    lab: Lab, pin_path: Path, sizes: FlowSizes | None
) -> None:
    names = [f"xst{number}" for number in range(INLINE + 1)]
    program = lab.load(READ_ONLY, "flows")
    with on_one_cpu():
        *others, late = devices(lab, program, *names)
        with observing_pinned(pin_path, sizes) as observer:
            for _ in range(3):
                observer.scan(0)
            assert settled(pin_path, program.info().id)
            for veth in others:
                veth.send(udp(4000), times=3)
            expect_drops(observer, dict.fromkeys(names[:INLINE], 3))
            lab.delete(others[0])
            for _ in range(2):
                observer.scan(0)
        late.send(udp(4000), times=5)
        with observing_pinned(pin_path, sizes) as observer:
            observer.scan(0)
            assert in_slots(observer) == {name.encode() for name in names[1:]}
            expect_drops(observer, dict.fromkeys(names[:INLINE], 3) | {late.name: 5})
            if sizes is None:
                return
            late.send(udp(4000), times=2)
            expect_drops(observer, dict.fromkeys(names[:INLINE], 3) | {late.name: 7})
            # It is not known any more which packets before were of which device on this CPU.
            key = READ_ONLY, late.name, "drop", flow_of(udp(4000))
            differs(accounted(observer), {key: (2, 2 * SIZE)})
