# SPDX-License-Identifier: Apache-2.0
"""Programs and interfaces that come, change and go under observation."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from errno import EBUSY
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.kernel.conftest import counted, expect, reasons
from tests.kernel.lab import Lab, frame
from tests.kernel.observing import Observer
from tests.kernel.programs import compiled
from xdpscope.attach import targets
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Reason, Selection
from xdpscope.config import GlobFilter
from xdpscope.discovery import claims
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.links import TracingLinks
from xdpscope.discovery.model import Snapshot
from xdpscope.errors import KernelError
from xdpscope.libbpf import Btf, Link, Object, Program

pytestmark = pytest.mark.every_kernel

_FUNCTION = 12  # BTF_KIND_FUNC


def is_loaded(program_id: int) -> bool:
    return program_id in Program.ids()


def wait_until_gone(program_id: int) -> bool:
    """Wait: the kernel frees programs a moment after the last reference."""
    end = time.monotonic() + 5
    while is_loaded(program_id) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_loaded(program_id)


@pytest.fixture
def link_targets(engine: Engine) -> None:
    """For what takes knowing who holds a program: a kernel that does not tell skips it."""
    if not engine.reports_targets:
        pytest.skip("this kernel does not tell what a tracing link is on (Linux 5.13)")


def test_devices_are_recognised_cheaply(engine: Engine) -> None:
    assert engine.watches_devices


@pytest.mark.first_kernel
def test_a_program_nobody_else_holds_is_let_go(lab: Lab, observer: Observer) -> None:
    veth, program = lab.veth("xst0"), lab.load("decide_pass")
    program_id = program.info().id
    lab.attach(program, veth)
    observer.scan(0)
    assert reasons(observer) == {"decide_pass": ""}

    lab.attach(None, veth)
    program.close()
    assert is_loaded(program_id), "our tracer holds it"
    observer.scan(0)

    assert wait_until_gone(program_id)
    veth.send(frame(60), times=3)
    observer.scan(1000)
    assert reasons(observer) == {"decide_pass": "vanished"}


@pytest.mark.first_kernel
def test_all_are_traced_and_can_be_scraped_before_the_log_says_so(
    lab: Lab, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a log that nobody reads: it takes no line."""
    veths = [lab.veth(f"xst{number}") for number in range(3)]
    for veth in veths:
        lab.attach(lab.load("decide_pass"), veth)
    written, read = threading.Event(), threading.Event()

    def full(event: str, **_: object) -> None:
        if event == "tracing":
            written.set()
            assert read.wait(60)

    monkeypatch.setattr(targets, "_log", SimpleNamespace(info=full))
    with ThreadPoolExecutor() as threads:
        try:
            scan = threads.submit(observer.scan, 0)
            assert written.wait(60)
            for veth in veths:
                veth.send(frame(60), times=2)
            found = threads.submit(counted, observer).result(timeout=60)
            assert not scan.done()
        finally:
            read.set()
        scan.result(timeout=60)
    assert found == {("decide_pass", f"xst{number}", "pass"): (2, 120) for number in range(3)}


@pytest.mark.first_kernel
def test_counts_of_what_is_gone_are_shown_for_a_while(lab: Lab, observer: Observer) -> None:
    veth, program = lab.veth("xst0"), lab.load("decide_pass")
    lab.attach(program, veth)
    observer.scan(0)
    veth.send(frame(60), times=3)
    lab.attach(None, veth)
    program.close()
    for _ in range(3):
        observer.scan(1000)
        time.sleep(0.1)
        expect(observer, {("decide_pass", "xst0", "pass"): (3, 180)})

    observer.scan(0)
    expect(observer, {})
    assert observer.statuses() == []


@pytest.mark.usefixtures("link_targets")
def test_an_idle_program_is_armed_but_not_kept_alive(lab: Lab, observer: Observer) -> None:
    veth, program = lab.veth("xst0"), lab.load("decide_pass")
    program_id = program.info().id
    observer.scan(0)
    assert reasons(observer) == {"decide_pass": "not_attached"}

    lab.attach(program, veth)
    veth.send(frame(60), times=3)  # before another scan
    observer.scan(0)
    expect(observer, {("decide_pass", "xst0", "pass"): (3, 180)})

    lab.attach(None, veth)
    observer.scan(0)
    assert reasons(observer) == {"decide_pass": "not_attached"}
    program.close()
    observer.scan(0)
    assert wait_until_gone(program_id)


@pytest.mark.first_kernel
def test_a_dispatcher_is_left_alone_until_it_is_in_service(lab: Lab, observer: Observer) -> None:
    dispatcher = lab.load("xdp_dispatcher", "dispatcher")
    observer.scan(0)
    assert reasons(observer) == {"xdp_dispatcher": "not_attached"}

    with extension_of(dispatcher, "xdp_dispatcher") as extension, extension.attached():
        pass  # with a tracer there this would have been EBUSY

    veth = lab.veth("xst0")
    lab.attach(dispatcher, veth)
    observer.scan(0)
    veth.send(frame(60))
    expect(observer, {("xdp_dispatcher", "xst0", "pass"): (1, 60)})
    assert [s.part.role for s in observer.statuses()] == ["dispatcher"]


class Extension:
    """A freplace program, loaded."""

    def __init__(self, program: Program, function: int) -> None:
        self.program = program
        self.function = function
        """The number of the function to be replaced, in its program's BTF."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        with Link.trace(self.program, 0):
            yield


@contextmanager
def extension_of(
    target: Program, function: str, name: str = "drop_instead", source: str = "extension"
) -> Iterator[Extension]:
    with ExitStack() as stack:
        loaded = stack.enter_context(Object(compiled(source)))
        loaded.set_autoload(name)
        loaded.set_attach_target(name, target, function)
        loaded.load()
        types = stack.enter_context(Btf.from_kernel(target.info().btf_id))
        number = types.find(function, _FUNCTION)
        assert number is not None
        yield Extension(stack.enter_context(loaded.program(name)), number)


@pytest.mark.usefixtures("link_targets")
def test_a_replaced_entry_function_is_busy_until_it_is_free(lab: Lab, observer: Observer) -> None:
    """Meanwhile it is its replacement that decides, and is counted."""
    veth, program = lab.veth("xst0"), lab.load("decide_pass")
    other, bystander = lab.veth("xst1"), lab.load("decide_tx")
    with extension_of(program, "decide_pass") as extension:
        with extension.attached():
            lab.attach(program, veth)
            lab.attach(bystander, other)
            observer.scan(0)
            assert reasons(observer) == {"decide_pass": "busy", "decide_tx": "", "drop_instead": ""}
            assert not any(observer.attach_failures().values()), "known without trying"
            veth.send(frame(60), times=3)
        observer.scan(0)
    assert reasons(observer)["decide_pass"] == ""
    veth.send(frame(60))
    expect(
        observer,
        {
            ("drop_instead", "xst0", "drop"): (3, 180),
            ("decide_pass", "xst0", "pass"): (1, 60),
        },
    )


def test_a_tracer_makes_way_for_an_extension(lab: Lab, engine: Engine, observer: Observer) -> None:
    """A refused target that stays loaded is not tried again after the next scan."""
    veth, program = lab.veth("xst0"), lab.load("decide_pass")
    lab.attach(program, veth)
    observer.scan(0)
    veth.send(frame(60), times=2)
    with extension_of(program, "decide_pass") as extension:
        with pytest.raises(KernelError) as refused, extension.attached():
            pass
        assert refused.value.errno == EBUSY
        observer.scan(0)
        assert reasons(observer) == {"decide_pass": "busy", "drop_instead": "not_attached"}
        with extension.attached():
            observer.scan(0)
            veth.send(frame(60), times=3)
            expected = {("decide_pass", "xst0", "pass"): (2, 120)}
            if engine.reports_targets:  # else it could be in a dispatcher only, for all we know
                expected["drop_instead", "xst0", "drop"] = (3, 180)
            expect(observer, expected)
    time.sleep(1.1)  # where the kernel does not tell what a link is on, an attempt was refused
    observer.scan(0)
    veth.send(frame(60))
    expect(observer, {**expected, ("decide_pass", "xst0", "pass"): (3, 180)})


@pytest.mark.first_kernel
@pytest.mark.usefixtures("link_targets")
def test_a_program_with_an_extension_to_come_is_not_armed(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_pass")
    observer.scan(0)
    with extension_of(program, "decide_pass") as extension:
        observer.scan(0)
        with extension.attached():
            pass  # with a tracer there this would have been EBUSY


@pytest.mark.first_kernel
@pytest.mark.usefixtures("link_targets")
def test_an_extension_that_never_comes_hides_no_program(
    lab: Lab, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded for a function, which is left to it for a minute."""
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + clock.ahead, ahead=0.0)
    monkeypatch.setattr(claims, "time", clock)
    lab.attach(lab.load("decide_pass"), lab.veth("xst0"))
    program = lab.load("decide_tx")
    lab.attach(program, lab.veth("xst1"))
    with extension_of(program, "decide_tx"):
        for clock.ahead, reason in (0.0, "busy"), (50.0, "busy"), (61.0, ""), (61.0, ""):
            observer.scan(0)
            assert reasons(observer)["decide_tx"] == reason


@pytest.mark.first_kernel
@pytest.mark.usefixtures("link_targets")
def test_what_is_attached_nowhere_is_left_alone_on_demand(lab: Lab, engine: Engine) -> None:
    program = lab.load("decide_pass")
    with Inventory() as inventory, Observer(engine, inventory, Selection()) as observer:
        observer.scan(0)
        traced = [link for link in TracingLinks().read() if link.target == program.info().id]
        assert len(traced) == 1
        observer.reconfigure(Selection(arm=False))
        observer.scan(0)
        traced = [link for link in TracingLinks().read() if link.target == program.info().id]
        assert not traced
        lab.attach(program, lab.veth("xst0"))
        observer.scan(0)
        assert reasons(observer) == {"decide_pass": ""}


class Unsuspecting(Inventory):
    """Does not see that an entry function is replaced: it happens after the scan."""

    def take(self) -> Snapshot:
        return replace(super().take(), claimed=frozenset())


@pytest.mark.first_kernel
def test_a_function_that_is_taken_before_we_come(lab: Lab, engine: Engine) -> None:
    veth, program = lab.veth("xst0"), lab.load("decide_pass")
    other, bystander = lab.veth("xst1"), lab.load("decide_tx")
    lab.attach(program, veth)
    lab.attach(bystander, other)
    with (
        extension_of(program, "decide_pass") as extension,
        Unsuspecting() as inventory,
        Observer(engine, inventory, Selection()) as observer,
    ):
        with extension.attached():
            observer.scan(0)
            observer.scan(0)
            assert reasons(observer)["decide_pass"] == "busy"
            assert reasons(observer)["decide_tx"] == ""
            assert observer.attach_failures() == {Reason.BUSY: 1}, "not at every scan"
        time.sleep(1.1)  # it is tried again after a second
        observer.scan(0)
        assert reasons(observer)["decide_pass"] == ""


@pytest.mark.first_kernel
@pytest.mark.usefixtures("link_targets")
def test_two_observers_do_not_keep_a_program_for_each_other(lab: Lab, engine: Engine) -> None:
    program = lab.load("decide_pass")
    program_id = program.info().id
    with (
        Inventory() as one,
        Inventory() as other,
        Observer(engine, one, Selection()) as first,
        Observer(engine, other, Selection()) as second,
    ):
        first.scan(0)
        second.scan(0)
        program.close()
        first.scan(0)
        second.scan(0)
        assert wait_until_gone(program_id)


@pytest.mark.usefixtures("link_targets")
def test_what_traces_excludes_an_extension() -> None:
    """The kernel's rule that arming has to respect; were it lifted, it could be simpler."""
    lab = Lab()
    try:
        program = lab.load("decide_pass")
        with (
            Engine() as engine,
            Inventory() as inventory,
            Observer(engine, inventory, Selection()) as observer,
        ):
            observer.scan(0)
            with (
                extension_of(program, "decide_pass") as extension,
                pytest.raises(KernelError) as refused,
                extension.attached(),
            ):
                pass
        assert refused.value.errno == EBUSY
    finally:
        lab.close()


@pytest.mark.usefixtures("link_targets")
def test_replacement_under_traffic_accounts_for_every_packet(lab: Lab, observer: Observer) -> None:
    veth = lab.veth("xst0")
    old, new = lab.load("decide_drop"), lab.load("decide_pass")
    lab.attach(old, veth)
    observer.scan(0)

    with veth.sending(frame(60)) as traffic:
        for replacement in range(20):
            lab.attach((new, old)[replacement % 2], veth)
            observer.scan(0)

    found = counted(observer)
    assert set(found) == {("decide_drop", "xst0", "drop"), ("decide_pass", "xst0", "pass")}
    assert traffic.sent > 20
    assert sum(packets for packets, _ in found.values()) == traffic.sent - veth.lost


@pytest.mark.first_kernel
def test_a_renamed_interface_takes_nothing_along(lab: Lab, observer: Observer) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    observer.scan(0)
    veth.send(frame(60), times=3)
    observer.scan(0)
    lab.route.link("set", index=veth.index, state="down")
    lab.route.link("set", index=veth.index, ifname="xstnew")
    lab.route.link("set", index=veth.index, state="up")
    observer.scan(1000)
    veth.send(frame(60), times=5)

    expect(
        observer,
        {
            ("decide_drop", "xst0", "drop"): (3, 180),
            ("decide_drop", "xstnew", "drop"): (5, 300),
        },
    )
    lab.route.link("del", index=veth.index)


@pytest.mark.matrix
def test_a_name_that_comes_back_goes_on_from_its_total(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_drop")
    total = 0
    for round_ in range(1, 13):
        veth = lab.veth("xst0")
        lab.attach(program, veth)
        observer.scan(0)
        veth.send(frame(60), times=round_)
        total += round_
        expect(observer, {("decide_drop", "xst0", "drop"): (total, total * 60)})
        lab.delete(veth)
        observer.scan(1000)
        expect(observer, {("decide_drop", "xst0", "drop"): (total, total * 60)})
        observer.scan(0)
        expect(observer, {})


@pytest.mark.matrix
def test_devices_that_take_each_others_place(lab: Lab, observer: Observer) -> None:
    """A new device may have the address of one that is gone: it must not be taken for it."""
    program = lab.load("decide_drop")
    lab.attach(program, lab.veth("xstkeep"))
    observer.scan(0)
    expected = {}
    for number in range(1, 41):
        veth = lab.veth(f"xst{number}")
        lab.attach(program, veth)
        veth.send(frame(60), times=number)
        expected["decide_drop", veth.name, "drop"] = (number, number * 60)
        lab.delete(veth)
    expect(observer, expected)


@pytest.mark.first_kernel
def test_overflow_devices_that_go_take_nothing_back(lab: Lab, observer: Observer) -> None:
    program = lab.load("decide_drop")
    for number in range(6):
        lab.attach(program, lab.veth(f"xstkeep{number}"))
    observer.scan(0)
    expected = {}
    for _ in range(3):
        for number in range(6):
            name = f"xst{number}"
            veth = lab.veth(name)
            lab.attach(program, veth)
            veth.send(frame(60), times=number + 1)
            packets = expected.get(("decide_drop", name, "drop"), (0, 0))[0] + number + 1
            expected["decide_drop", name, "drop"] = packets, packets * 60
        expect(observer, expected)
        for number in range(6):
            lab.route.link("del", index=lab.index(f"xst{number}"))
        observer.scan(1000)
        expect(observer, expected)


@pytest.mark.usefixtures("link_targets")
def test_a_device_that_moves_is_counted_where_it_is(lab: Lab, observer: Observer) -> None:
    """Address and ifindex stay the same; the namespace is another."""
    program = lab.load("decide_drop")
    veth = lab.veth("xst0")
    lab.attach(program, veth)
    observer.scan(0)
    veth.send(frame(60), times=3)
    with lab.namespace("xstns"):
        lab.route.link("set", index=veth.index, net_ns_fd="xstns")
        with lab.within("xstns") as inside:
            inside.route.link("set", index=inside.index("xst0"), state="up")
        observer.scan(1000)
        veth.send(frame(60), times=5)
        locations = {
            count.location: count.tally.packets[1]
            for count in observer.counts()
            if any(count.tally.packets)
        }
        assert locations == {("host", "xst0"): 3, ("xstns", "xst0"): 5}


@pytest.mark.first_kernel
@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(programs=GlobFilter(exclude=("decide_*",))), "excluded"),
        (Selection(programs=GlobFilter(include=("xdp_*",))), "excluded"),
        (Selection(programs=GlobFilter(include=("decide_p*",))), ""),
        (Selection(interfaces=GlobFilter(exclude=("xst0",))), "excluded"),
        (Selection(interfaces=GlobFilter(include=("xst?",))), ""),
    ],
)
def test_scope(lab: Lab, engine: Engine, selection: Selection, expected: str) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass"), veth)
    with Inventory() as inventory, Observer(engine, inventory, selection) as observer:
        observer.scan(0)
        veth.send(frame(60))
        assert reasons(observer) == {"decide_pass": expected}
        assert bool(counted(observer)) == (expected == "")


@pytest.mark.first_kernel
def test_a_scope_that_narrows_keeps_the_other_interface(lab: Lab, observer: Observer) -> None:
    program, first, second = lab.load("decide_drop"), lab.veth("xst0"), lab.veth("xst1")
    lab.attach(program, first)
    lab.attach(program, second)
    observer.reconfigure(Selection(interfaces=GlobFilter(exclude=("xst1",))))
    observer.scan(0)
    first.send(frame(60), times=2)
    second.send(frame(60), times=3)
    expect(observer, {("decide_drop", "xst0", "drop"): (2, 120)})
    observer.reconfigure(Selection())
    expect(
        observer,
        {
            ("decide_drop", "xst0", "drop"): (2, 120),
            ("decide_drop", "xst1", "drop"): (3, 180),
        },
    )


@pytest.mark.first_kernel
def test_a_program_without_btf(lab: Lab, observer: Observer) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass", "verdicts", "-g0"), veth)
    observer.scan(0)
    assert reasons(observer) == {"decide_pass": "no_btf"}


@pytest.mark.first_kernel
def test_a_program_that_is_not_jited(lab: Lab, observer: Observer) -> None:
    switch = Path("/proc/sys/net/core/bpf_jit_enable")
    try:
        switch.write_text("0")
    except OSError:
        pytest.skip("CONFIG_BPF_JIT_ALWAYS_ON: this kernel has no interpreter")
    try:
        program = lab.load("decide_pass")
    finally:
        switch.write_text("1")
    lab.attach(program, lab.veth("xst0"))
    observer.scan(0)
    assert reasons(observer) == {"decide_pass": "not_jited"}


class Deceived(Inventory):
    """Still sees a program that is gone: it vanishes between listing and attaching."""

    ghost = 0

    def take(self) -> Snapshot:
        seen = super().take()
        programs, attachments = dict(seen.programs), dict(seen.attachments)
        model = next(iter(programs.values()))
        programs[self.ghost] = replace(model, id=self.ghost, function="ghost")
        attachments[self.ghost] = attachments[model.id]
        return replace(seen, programs=programs, attachments=attachments)


@pytest.mark.first_kernel
def test_a_program_that_vanishes_before_it_is_traced(lab: Lab, engine: Engine) -> None:
    veth, program, victim = lab.veth("xst0"), lab.load("decide_drop"), lab.load("decide_pass")
    Deceived.ghost = victim.info().id
    victim.close()
    assert wait_until_gone(Deceived.ghost)
    lab.attach(program, veth)
    with Deceived() as inventory, Observer(engine, inventory, Selection()) as observer:
        observer.scan(0)
        assert reasons(observer) == {"decide_drop": "", "ghost": "vanished"}
        assert observer.attach_failures()[Reason.VANISHED] == 1
        veth.send(frame(60))
        expect(observer, {("decide_drop", "xst0", "drop"): (1, 60)})
