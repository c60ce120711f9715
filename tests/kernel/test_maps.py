# SPDX-License-Identifier: Apache-2.0
"""Programs behind maps: of prog arrays, devmaps and cpumaps."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.kernel.conftest import counted, expect, reasons
from tests.kernel.flows import Expected, expect_flows, observing
from tests.kernel.lab import Lab, Loaded, Veth, addressed, frame
from tests.kernel.observing import Observer
from tests.kernel.test_lifecycle import (
    extension_of,
    is_loaded,
    link_targets,  # noqa: F401 - a fixture
)
from tests.kernel.test_xdp_tools import udp
from tests.waiting import wait_for
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes
from xdpscope.discovery.model import Mode
from xdpscope.libbpf import Btf, Program
from xdpscope.report import ProgramStatus

pytestmark = pytest.mark.every_kernel

DROP, PASS = 1, 2


def status(observer: Observer, function: str) -> ProgramStatus:
    return next(s for s in observer.statuses() if s.program.function == function)


def role(observer: Observer, function: str) -> str:
    return status(observer, function).part.role


def id_of(program: Program) -> int:
    return program.info().id


@pytest.fixture(params=["native", "generic"])
def mode(request: pytest.FixtureRequest) -> str:
    """Return how the program that redirects is run."""
    found: str = request.param
    if found == "generic":
        with Btf.of_kernel() as btf:
            if not btf.has_function("cpu_map_generic_redirect"):
                pytest.skip("no programs for redirected socket buffers: Linux 5.15")
    return found


# Tail calls.

LEAVES = ("leaf_drop", "leaf_pass", "leaf_call_far", "leaf_tx")


@pytest.fixture
def caller(lab: Lab) -> Loaded:
    """Three leaves, of which the third calls a fourth."""
    loaded = lab.load_together("maps", "call_near", *LEAVES)
    for at, leaf in ((0, "leaf_drop"), (1, "leaf_pass"), (150, "leaf_call_far")):
        loaded.put("near", at, loaded[leaf])
    loaded.put("far", 0, loaded["leaf_tx"])
    return loaded


def test_a_tail_calls_verdict_is_the_roots(lab: Lab, observer: Observer, caller: Loaded) -> None:
    veth = lab.veth("xst0")
    lab.attach(caller["call_near"], veth)
    observer.scan(0)

    for times, (where, size) in enumerate(((0, 60), (1, 70), (150, 80), (3, 90)), start=1):
        veth.send(addressed(frame(size), where=where), times=times)

    expect(
        observer,
        {
            ("call_near", "xst0", "drop"): (1, 60),
            ("call_near", "xst0", "pass"): (2, 140),
            ("call_near", "xst0", "tx"): (3, 240),
            ("call_near", "xst0", "aborted"): (4, 360),
        },
    )
    assert reasons(observer) == {"call_near": "", **dict.fromkeys(LEAVES, "tailcall_only")}
    for leaf in LEAVES:
        part = status(observer, leaf).part
        assert (part.role, part.callers) == ("tailcall", (id_of(caller["call_near"]),))
    assert role(observer, "call_near") == "root"
    shown = {count.program.function for count in observer.counts()}
    assert shown == {"call_near"}, "no zeros of programs that cannot be counted"


def test_a_leaf_that_is_attached_too(lab: Lab, observer: Observer, caller: Loaded) -> None:
    """It is traced for what comes to it directly."""
    root, leaf = lab.veth("xst0"), lab.veth("xst1")
    lab.attach(caller["call_near"], root)
    lab.attach(caller["leaf_call_far"], leaf)
    observer.scan(0)

    root.send(addressed(frame(60), where=150), times=2)
    leaf.send(frame(60), times=3)

    expect(
        observer,
        {
            ("call_near", "xst0", "tx"): (2, 120),
            ("leaf_call_far", "xst1", "tx"): (3, 180),
        },
    )
    assert role(observer, "leaf_call_far") == "root"
    assert status(observer, "leaf_tx").part.callers == (id_of(caller["leaf_call_far"]),)


def test_a_leaf_comes_and_goes(lab: Lab, observer: Observer, caller: Loaded) -> None:
    lab.attach(caller["call_near"], lab.veth("xst0"))
    caller.take_out("near", 1)
    observer.scan(0)
    assert (role(observer, "leaf_pass"), reasons(observer)["leaf_pass"]) == ("root", "not_attached")
    caller.put("near", 1, caller["leaf_pass"])
    observer.scan(0)
    assert reasons(observer)["leaf_pass"] == "tailcall_only"
    assert status(observer, "leaf_pass").run_seconds is None, "not armed"
    veth = lab.veth("xst1")
    caller.take_out("near", 1)
    lab.attach(caller["leaf_pass"], veth)
    observer.scan(0)
    veth.send(frame(60), times=3)
    expect(observer, {("leaf_pass", "xst1", "pass"): (3, 180)})


# Where packets leave.


@dataclass(frozen=True)
class Way:
    """Packets sent into ``entrance`` leave by the exits; what arrives there is dropped."""

    entrance: Veth
    exits: tuple[Veth, Veth]
    programs: Loaded

    def send(self, where: int, what: int, size: int = 60, times: int = 1) -> None:
        self.entrance.send(addressed(frame(size), where=where, what=what), times=times)


@pytest.fixture(params=["devices", "devices_by_hash"])
def devmap(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def way(lab: Lab, mode: str, devmap: str) -> Iterator[Way]:
    redirect = "to_device" if devmap == "devices" else "to_device_by_hash"
    programs = lab.load_together(
        "maps", redirect, "where_it_leaves", "write_where_it_leaves", "on_the_cpu"
    )
    entrance, *exits = (lab.veth(name) for name in ("xst0", "xst1", "xst2"))
    arrival = lab.load("decide_drop")
    for veth in exits:
        # A pair takes redirected packets if what is at its other end could be run there.
        lab.attach(arrival, Veth(veth.peer, veth.name, lab.index(veth.peer)))
    lab.attach(programs[redirect], entrance, mode)
    yield Way(entrance, (exits[0], exits[1]), programs)


def test_programs_of_a_devmap(lab: Lab, observer: Observer, way: Way, devmap: str) -> None:
    first, second = way.exits
    way.programs.put(devmap, 7, first.index, way.programs["where_it_leaves"])
    way.programs.put(devmap, 199, second.index, way.programs["where_it_leaves"])
    observer.scan(0)

    way.send(7, DROP, 60, times=5)
    way.send(7, PASS, 100, times=7)
    way.send(199, PASS, 1000, times=11)

    redirect = "to_device" if devmap == "devices" else "to_device_by_hash"
    expect(
        observer,
        {
            (redirect, "xst0", "redirect"): (23, 300 + 700 + 11_000),
            ("where_it_leaves", "xst1", "drop"): (5, 300),
            ("where_it_leaves", "xst1", "pass"): (7, 700),
            ("where_it_leaves", "xst2", "pass"): (11, 11_000),
            ("decide_drop", "xst1p", "drop"): (7, 700),
            ("decide_drop", "xst2p", "drop"): (11, 11_000),
        },
    )
    found = status(observer, "where_it_leaves")
    assert found.part.role == "devmap"
    assert [(at.netns, at.interface, at.mode) for at in found.attachments] == [
        ("host", "xst1", Mode.NATIVE),
        ("host", "xst2", Mode.NATIVE),
    ]
    assert found.reason is None


@pytest.mark.first_kernel
def test_an_entry_is_replaced_and_deleted(
    lab: Lab, engine: Engine, observer: Observer, way: Way, devmap: str
) -> None:
    first, _ = way.exits
    way.programs.put(devmap, 0, first.index, way.programs["where_it_leaves"])
    observer.scan(0)
    way.send(0, PASS, times=3)
    expected = {("where_it_leaves", "xst1", "pass"): (3, 180)}
    expect_of(observer, "leaves", expected)

    way.programs.put(devmap, 0, first.index, way.programs["write_where_it_leaves"])
    if not engine.reports_targets:
        observer.scan(0)  # else it was armed
    way.send(0, DROP, times=4)
    observer.scan(0)
    expected["write_where_it_leaves", "xst1", "drop"] = 4, 240
    expect_of(observer, "leaves", expected)
    assert reasons(observer)["where_it_leaves"] == "not_attached"
    assert reasons(observer)["write_where_it_leaves"] == ""

    way.programs.take_out(devmap, 0)
    observer.scan(0)
    assert reasons(observer)["write_where_it_leaves"] == "not_attached"
    assert not status(observer, "write_where_it_leaves").attachments
    expect_of(observer, "leaves", expected)


def expect_of(observer: Observer, part: str, expected: dict[tuple[str, str, str], object]) -> None:
    """Fail unless exactly this is counted of the functions with this in their names."""

    def found() -> dict[tuple[str, str, str], object]:
        return {key: sums for key, sums in counted(observer).items() if part in key[0]}

    wait_for(lambda: found() == expected, patience=60)


def test_nothing_is_kept_for_a_devmap(lab: Lab, engine: Engine, observer: Observer) -> None:
    """An entry holds its program, a tracer must not."""
    if not engine.reports_targets:
        pytest.skip("this kernel does not tell what a tracing link is on (Linux 5.13)")
    veth = lab.veth("xst0")
    kept = lab.load_together("maps", "to_device")
    loaded = lab.load_together("maps", "where_it_leaves", "to_device")
    program = loaded["where_it_leaves"]
    program_id = id_of(program)
    kept.put("devices", 0, veth.index, program)
    loaded.close()
    observer.scan(0)
    assert is_loaded(program_id)
    assert reasons(observer)["where_it_leaves"] == ""

    kept.take_out("devices", 0)
    wait_for(lambda: is_detached(observer, program_id))


def is_detached(observer: Observer, program_id: int) -> bool:
    """Return whether it is gone after one more scan: the kernel releases it a grace period
    later.
    """
    observer.scan(0)
    return not is_loaded(program_id)


@pytest.mark.parametrize("function", ["where_it_leaves", "write_where_it_leaves"])
def test_flows_where_packets_leave(lab: Lab, function: str) -> None:
    """Read at the exit, and of a program that writes at the entry."""
    programs = lab.load_together("maps", "to_device", function)
    entrance, veth = lab.veth("xst0"), lab.veth("xst1")
    arrival = Veth(veth.peer, veth.name, lab.index(veth.peer))
    lab.attach(lab.load("decide_drop"), arrival)
    lab.attach(programs["to_device"], entrance)
    programs.put("devices", 0, veth.index, programs[function])
    expected = Expected()
    with Engine(FlowSizes(sets=256, sample_rate=1)) as engine, observing(engine) as observer:
        observer.scan(0)
        for port in range(1, 6):
            for what, verdict in ((DROP, "drop"), (PASS, "pass")):
                data = addressed(udp(port, 60 + port), what=what)
                entrance.send(data, times=port)
                expected.add("to_device", "xst0", "redirect", data, port)
                expected.add(function, "xst1", verdict, data, port)
                if what == PASS:
                    expected.add("decide_drop", "xst1p", "drop", data, port)
        expect_flows(observer, expected.sums)


@pytest.mark.first_kernel
def test_more_devices_than_a_target_has_places_for(lab: Lab, observer: Observer) -> None:
    programs = lab.load_together("maps", "to_device", "where_it_leaves")
    entrance = lab.veth("xst0")
    lab.attach(programs["to_device"], entrance)
    arrival = lab.load("decide_drop")
    for number in range(1, 8):
        veth = lab.veth(f"xst{number}")
        lab.attach(arrival, Veth(veth.peer, veth.name, lab.index(veth.peer)))
        programs.put("devices", number, veth.index, programs["where_it_leaves"])
    observer.scan(0)
    expected = {}
    for number in range(1, 8):
        entrance.send(addressed(frame(60), where=number, what=DROP), times=number)
        expected["where_it_leaves", f"xst{number}", "drop"] = number, 60 * number
    expect_of(observer, "leaves", expected)


@pytest.mark.usefixtures("link_targets")
def test_an_extension_of_a_devmaps_program(lab: Lab, observer: Observer) -> None:
    """Sees packets where that would, and decides in its stead."""
    programs = lab.load_together("maps", "to_device", "where_it_leaves")
    entrance, veth = lab.veth("xst0"), lab.veth("xst1")
    lab.attach(programs["to_device"], entrance)
    lab.attach(lab.load("decide_drop"), Veth(veth.peer, veth.name, lab.index(veth.peer)))
    with (
        extension_of(programs["where_it_leaves"], "where_it_leaves") as extension,
        extension.attached(),
    ):
        programs.put("devices", 0, veth.index, programs["where_it_leaves"])
        observer.scan(0)
        entrance.send(addressed(frame(60), what=PASS), times=3)
        expect(
            observer,
            {
                ("to_device", "xst0", "redirect"): (3, 180),
                ("drop_instead", "xst1", "drop"): (3, 180),
            },
        )
        assert reasons(observer)["where_it_leaves"] == "busy"


# On another CPU.


def test_a_program_of_a_cpumap(lab: Lab, observer: Observer, mode: str) -> None:
    programs = lab.load_together("maps", "to_cpu", "on_the_cpu")
    first, second = lab.veth("xst0"), lab.veth("xst1")
    for veth in (first, second):
        lab.attach(programs["to_cpu"], veth, mode)
    programs.put("cpus", 0, 192, programs["on_the_cpu"])
    observer.scan(0)

    first.send(addressed(frame(100), what=PASS), times=7)
    second.send(addressed(frame(1000), what=PASS), times=11)
    expected = {
        ("to_cpu", "xst0", "redirect"): (7, 700),
        ("to_cpu", "xst1", "redirect"): (11, 11_000),
        ("on_the_cpu", "xst0", "pass"): (7, 700),
        ("on_the_cpu", "xst1", "pass"): (11, 11_000),
    }
    expect(observer, expected)
    # One at a time: once the program has dropped a socket buffer, the kernel does not run it
    # on those that came to the CPU with it (cpu_map_bpf_prog_run_skb(), until 6.14).
    for number in range(1, 6):
        first.send(addressed(frame(60), what=DROP))
        expected["to_cpu", "xst0", "redirect"] = 7 + number, 700 + 60 * number
        expected["on_the_cpu", "xst0", "drop"] = number, 60 * number
        expect(observer, expected)
    found = status(observer, "on_the_cpu")
    assert (found.part.role, found.attachments, found.reason) == ("cpumap", (), None)

    programs.take_out("cpus", 0)
    observer.scan(0)
    assert reasons(observer)["on_the_cpu"] == "not_attached"


# Maps themselves.


@pytest.mark.first_kernel
def test_entries_far_into_large_maps(lab: Lab, observer: Observer) -> None:
    """With more places than are read at once; and one full of the same program."""
    programs = lab.load_together("maps", "call_near", "leaf_drop", "leaf_pass")
    for at in range(200):
        programs.put("near", at, programs["leaf_drop"])
    programs.put("near", 199, programs["leaf_pass"])
    observer.scan(0)
    assert role(observer, "leaf_drop") == role(observer, "leaf_pass") == "tailcall"
    assert status(observer, "leaf_pass").part.callers == (id_of(programs["call_near"]),)


@pytest.mark.first_kernel
def test_a_device_in_another_namespace(lab: Lab, observer: Observer) -> None:
    """The entry means the interface of the namespace that it was put in from."""
    programs = lab.load_together("maps", "to_device", "where_it_leaves")
    with lab.namespace("xstns"), lab.within("xstns") as inside:
        veth = inside.veth("xstin")
        programs.put("devices", 0, veth.index, programs["where_it_leaves"])
        observer.scan(0)
        locations = [
            (at.netns, at.interface) for at in status(observer, "where_it_leaves").attachments
        ]
        assert locations == [("xstns", "xstin")]
