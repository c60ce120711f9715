# SPDX-License-Identifier: Apache-2.0
"""The fixtures that kernel tests share: a lab, and an observer of it."""

import platform
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pyroute2.config
import pytest
import structlog
from structlog.typing import EventDict

from tests.kernel.lab import Lab
from tests.kernel.observing import Observer
from tests.kernel.pinned import BPFFS, wipe
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.discovery.inventory import Inventory
from xdpscope.errors import VanishedError
from xdpscope.libbpf import Program

_FIRST_KERNEL = (6, 1)

# A child that makes a namespace has two seconds, else; a busy emulator takes longer.
pyroute2.config.default_communicate_timeout = 60

Counts = dict[tuple[str, str, str], tuple[int, int]]
"""(program, interface, verdict) to (packets, bytes)."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """Report at once why a test failed: a machine that is killed takes pytest's own report
    along.

    A test that `make test` runs on the first kernel alone fails if it is skipped there.
    """
    report = yield
    if report.skipped and kernel() == _FIRST_KERNEL and runs_nowhere_else(item):
        report.outcome = "failed"
        report.longrepr = f"skipped, and `make test` runs it on no other kernel: {report.longrepr}"
    if report.failed:
        terminal = item.config.pluginmanager.get_plugin("terminalreporter")
        terminal.write_line(f"\nFAILED {report.nodeid}, {report.when}: {report.longreprtext}\n")
    return report


def runs_nowhere_else(item: pytest.Item) -> bool:
    """Return whether `make test` runs a test on its first kernel alone."""
    markers = {mark.name for mark in item.iter_markers()}
    return bool(markers & {"first_kernel", "one_kernel"}) and not markers & {"matrix", "nightly"}


exceptions_logged: list[str] = []
"""What the code under test logged with a traceback since the test began."""


def _note_exception(_: object, __: str, event: EventDict) -> EventDict:
    if event.get("exc_info"):
        exceptions_logged.append(f"{event['event']}: {event['exc_info']}")
    return event


# By default structlog draws tracebacks with all variables: a minute each in an emulated machine.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        _note_exception,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
    ]
)


@pytest.fixture(autouse=True)
def no_exception_is_logged() -> Iterator[None]:
    """Fail a test in which a part of the agent failed and only said so in the log.

    A test that causes that clears ``exceptions_logged``.
    """
    exceptions_logged.clear()
    yield
    assert exceptions_logged == []


@pytest.fixture(autouse=True)
def freed_in_the_end() -> Iterator[None]:
    """Wait until the kernel has freed the XDP programs of the test: the next test would see them.

    A program lives on until its tracers are freed, and that takes a grace period of RCU.
    """
    before = set(Program.ids())
    yield
    end = time.monotonic() + 10
    while any(map(_is_xdp, set(Program.ids()) - before)) and time.monotonic() < end:
        time.sleep(0.02)


def _is_xdp(program_id: int) -> bool:
    try:
        with Program.open(program_id) as program:
            return program.info().is_xdp
    except VanishedError:
        return False


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture
def pin_path() -> Iterator[Path]:
    """Yield a directory for pins, which is not there before and afterwards."""
    path = BPFFS / "xst"
    wipe(path)
    yield path
    wipe(path)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Close it at the end of the test: other modules check for leftovers."""
    with Engine() as engine:
        yield engine


@pytest.fixture
def observer(engine: Engine) -> Iterator[Observer]:
    with Inventory() as inventory, Observer(engine, inventory, Selection()) as observer:
        yield observer


def kernel() -> tuple[int, int]:
    """Return the running kernel's version."""
    major, minor, *_ = platform.release().split(".")
    return int(major), int(minor)


def preempts() -> bool:
    """Return whether packets preempt each other on one CPU: the kernel then runs a tracer for one
    only.
    """
    return "PREEMPT_RT" in platform.version()


def counted(observer: Observer) -> Counts:
    """Return all counts that are not 0."""
    from xdpscope.program_types.xdp import VERDICTS

    return {
        (count.program.function, count.location[1], verdict): (packets, size)
        for count in observer.counts()
        for verdict, packets, size in zip(
            VERDICTS, count.tally.packets, count.tally.bytes, strict=True
        )
        if packets or size
    }


def expect(observer: Observer, expected: Counts) -> None:
    """Fail unless exactly this is counted, no less, and a moment later still no more.

    The kernel may put off the work for a packet (ksoftirqd), so there is some patience.
    """
    end = time.monotonic() + 10
    while counted(observer) != expected and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.02)
    assert counted(observer) == expected


def reasons(observer: Observer) -> dict[str, str]:
    """Return each program's reason, empty where it is traced."""
    return {s.program.function: str(s.reason or "") for s in observer.statuses()}
