# SPDX-License-Identifier: Apache-2.0
"""Whatever call into the kernel fails, in a first scan or a later one, only that fails."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from errno import EACCES
from pathlib import Path

import pytest

from tests.kernel.conftest import reasons
from tests.kernel.faults import ERRORS, Faults, faulty
from tests.kernel.lab import Lab, frame
from tests.kernel.observing import Observer
from xdpscope.attach import targets
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.spec import Spec
from xdpscope.attach.variants import FlowSizes
from xdpscope.discovery import programs as source
from xdpscope.discovery import retry
from xdpscope.discovery.inventory import Inventory
from xdpscope.errors import KernelError, NotPermittedError
from xdpscope.kernel.netns import HOST
from xdpscope.libbpf import Program
from xdpscope.probes import flows

pytestmark = pytest.mark.one_kernel

RETENTION = 0.0
SIZES = FlowSizes(sets=64, sample_rate=1)


class Clock:
    """Time that passes as fast as a test wants, for those that wait to try again."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (retry, targets, flows):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """From now on every call is counted."""
    return faulty(monkeypatch)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(SIZES) as engine:
        yield engine


def watched(engine: Engine, stack: ExitStack) -> Observer:
    inventory = stack.enter_context(Inventory())
    return stack.enter_context(Observer(engine, inventory, Selection()))


def traced(observer: Observer) -> set[str]:
    return {name for name, reason in reasons(observer).items() if reason == ""}


def two_programs(lab: Lab) -> set[str]:
    """Attach them; return their names."""
    for name, interface in ("decide_pass", "xst0"), ("decide_drop", "xst1"):
        lab.attach(lab.load(name), lab.veth(interface))
    return {"decide_pass", "decide_drop"}


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def count_of_tests(observer: Observer, program: Program) -> int:
    """Packets of test runs: the kernel says that they come by the loopback device."""
    return sum(
        sum(count.tally.packets)
        for count in observer.counts()
        if count.program.id == program.info().id and count.location == (HOST, "lo")
    )


# Every twelfth call is tried with one error after the other; or, nightly, every call with all.
SHORT_OR_LONG = pytest.mark.parametrize(
    ("step", "errors"), [(12, 1), pytest.param(1, len(ERRORS), marks=pytest.mark.nightly)]
)


@pytest.mark.timeout(1800)
@SHORT_OR_LONG
def test_any_call_of_a_later_scan_may_fail(
    lab: Lab,
    engine: Engine,
    faults: Faults,
    clock: Clock,
    step: int,
    errors: int,
) -> None:
    """Two programs are traced, and a third appears."""
    stays = two_programs(lab)
    tried = Counter[str]()
    with ExitStack() as stack:
        observer = watched(engine, stack)
        observer.scan(RETENTION)
        assert traced(observer) == stays
        before = descriptors()
        at = 0
        while True:
            for number in range(errors):
                errno = ERRORS[(at // step + number) % len(ERRORS)]
                with closing(Lab()) as more:
                    program = more.load("decide_by_first_payload_byte")
                    more.attach(program, more.veth("xst9"))
                    with faults.injected(at, errno), suppress(KernelError, OSError):
                        observer.scan(RETENTION)
                    call = faults.calls[at] if not faults.done else ""
                    assert traced(observer) >= stays, (at, call, errno)
                    clock.ahead += 100
                    observer.scan(RETENTION)
                    assert traced(observer) == {*stays, "decide_by_first_payload_byte"}, (at, call)
                    program.test_run(frame(60), 3)
                    assert count_of_tests(observer, program) == 3, (at, call, errno)
                clock.ahead += 100
                observer.scan(RETENTION)
                observer.scan(RETENTION)
                assert traced(observer) == stays, (at, call, errno)
                tried[call] += 1
            if faults.done:
                break
            at += step
        assert descriptors() == before
    print(f"{tried.total()} errors injected: {dict(tried)}")


@pytest.mark.matrix
@pytest.mark.timeout(1800)
@SHORT_OR_LONG
def test_any_call_of_a_replacement_may_fail(
    lab: Lab,
    engine: Engine,
    faults: Faults,
    clock: Clock,
    step: int,
    errors: int,
) -> None:
    """A tracer is replaced by one that takes no packet for flows, and comes back."""
    program = lab.load("decide_pass")
    lab.attach(program, lab.veth("xst0"))
    own = program.info().id
    tried, sent, at = Counter[str](), 0, 0
    with ExitStack() as stack:
        observer = watched(engine, stack)
        observer.scan(RETENTION)
        # Other tests may have left programs, which are not attached.
        (target,) = (each for each in observer._targets if each.program.id == own)
        before = 0
        while not faults.done or not tried:
            for number in range(errors):
                errno = ERRORS[(at // step + number) % len(ERRORS)]
                for rate, kind in ((0, Spec.SAMPLED_OUT), (1, Spec.FLOWS)):
                    observer.sample_flows(rate, set() if rate else {own})
                    with faults.injected(at, errno), suppress(KernelError, OSError):
                        observer.scan(RETENTION)
                    call = faults.calls[at] if not faults.done else ""
                    program.test_run(frame(60), 3)
                    clock.ahead += 100
                    observer.scan(RETENTION)
                    assert target.tracer is not None and target.tracer.does(kind), (at, call, errno)
                    program.test_run(frame(60), 3)
                    sent += 6
                    assert count_of_tests(observer, program) == sent, (at, call, errno)
                    tried[call] += 1
            # The first replacement has loaded what stays.
            before = before or descriptors()
            at += step
        assert descriptors() == before
    print(f"{tried.total()} errors injected: {dict(tried)}")


@pytest.mark.timeout(1800)
@SHORT_OR_LONG
def test_any_call_of_a_first_scan_may_fail(
    lab: Lab,
    faults: Faults,
    clock: Clock,
    step: int,
    errors: int,
) -> None:
    stays = two_programs(lab)
    before, at, tried = descriptors(), 0, Counter[str]()
    engine = Engine(SIZES)
    held = set()
    while True:
        for number in range(errors):
            errno = ERRORS[(at // step + number) % len(ERRORS)]
            with ExitStack() as stack:
                observer = watched(engine, stack)
                failed = False
                with faults.injected(at, errno):
                    try:
                        observer.scan(RETENTION)
                    except (KernelError, OSError):
                        failed = True
                call = faults.calls[at] if not faults.done else ""
                # Nothing was found, and the scan says so; or one program at most is not traced.
                assert failed or len(traced(observer) & stays) >= 1, (at, call, errno)
                clock.ahead += 100
                observer.scan(RETENTION)
                assert traced(observer) == stays, (at, call, errno)
            held.add(descriptors())
            tried[call] += 1
        if faults.done:
            break
        at += step
    assert len(held) == 1, "what an observer has opened stays open with the engine"
    engine.close()
    assert descriptors() == before
    print(f"{tried.total()} errors injected: {dict(tried)}")


def test_a_program_that_may_not_be_opened(
    lab: Lab,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
) -> None:
    """As where SELinux forbids it: it is reported with all that can be known of it."""
    hidden, shown = lab.load("decide_pass"), lab.load("decide_drop")
    lab.attach(hidden, lab.veth("xst0"))
    lab.attach(shown, lab.veth("xst1"))
    info = hidden.info()
    forbidden = True

    class Guarded(Program):
        __slots__ = ()

        @classmethod
        def open(cls, program_id: int) -> Program:
            if forbidden and program_id == info.id:
                raise NotPermittedError(f"opening BPF program {program_id} failed", EACCES)
            return Program.open(program_id)

    monkeypatch.setattr(source, "Program", Guarded)
    with ExitStack() as stack:
        observer = watched(engine, stack)
        for _ in range(2):
            observer.scan(RETENTION)
            # Other tests may have left programs, which are not attached.
            found = reasons(observer)
            assert (found["decide_pass"], found["decide_drop"]) == ("unreadable", "")
        (status,) = (s for s in observer.statuses() if s.program.id == info.id)
        assert (status.program.tag, status.program.name) == (info.tag, info.name)
        assert [at.interface for at in status.attachments] == ["xst0"]
        forbidden = False
        observer.scan(RETENTION)
        assert reasons(observer)["decide_pass"] == "unreadable"
        clock.ahead += 61
        observer.scan(RETENTION)
        assert traced(observer) == {"decide_pass", "decide_drop"}
