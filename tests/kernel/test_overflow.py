# SPDX-License-Identifier: Apache-2.0
"""Devices beyond those in a target's own record: deleted records take no count with them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.conftest import Counts, expect
from tests.kernel.flows import on_one_cpu
from tests.kernel.lab import Lab, Veth, frame
from tests.waiting import wait_for
from xdpscope.libbpf import Program
from xdpscope.observer import Observer
from xdpscope.tracing.engine import Engine

pytestmark = pytest.mark.every_kernel

INLINE = 4
"""DEVICES_INLINE of bpf/xdpscope.h."""

AWAY = "xstaway"


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Each CPU gives the places in its record to the devices that it meets first."""
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
    return sum(len(records) for records in engine.spilled().values())


@contextmanager
def observed(lab: Lab, observer: Observer) -> Iterator[tuple[Veth, Counts]]:
    """A device whose record is an overflow record, and what the others have counted."""
    program = lab.load("decide_drop")
    lab.attach(program, lab.veth("xst0"))
    observer.look(0)
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
            observer.look(1000)
            move_away(lab, veth)
            observer.look(1000)
            assert overflow(engine) == 0
            move_back(lab, veth)
        expect(observer, expected | {("decide_drop", "xst0", "drop"): (sent, sent * 60)})


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

    original = engine.take_spilled
    with observed(lab, observer) as (veth, expected):
        veth.send(frame(60), times=5)
        observer.look(1000)
        observer.look(1000)
        move_away(lab, veth)
        monkeypatch.setattr(engine, "take_spilled", returning)
        observer.look(1000)
        assert overflow(engine) == 0
        expect(observer, expected | {("decide_drop", "xst0", "drop"): (8, 480)})
        veth.send(frame(60), times=2)
        expect(observer, expected | {("decide_drop", "xst0", "drop"): (10, 600)})
