# SPDX-License-Identifier: Apache-2.0
"""Which programs and devices a session selects."""

import pytest

from xdpscope.discovery.model import Attachment, Mode, Snapshot, XdpProgram
from xdpscope.sessions.selectors import Selectors, kernel_name
from xdpscope.sessions.tracers import Plan

PROGRAM = XdpProgram(
    id=12, tag="0123456789abcdef", name="xdp_main_functi", function="xdp_main_function",
    entry_type_id=5, jited=True, attach_type="xdp",
)  # fmt: skip

SNAPSHOT = Snapshot(
    programs={12: PROGRAM},
    attachments={
        12: (
            Attachment("host", "bond0", Mode.NATIVE, receives=False),
            Attachment("host", "eth1", Mode.NATIVE, via="bond0"),
            Attachment("blue", "eth0", Mode.GENERIC),
        )
    },
    interfaces={(1, 2): ("host", "eth1"), (1, 3): ("host", "bond0"), (7, 2): ("blue", "eth0")},
    uppers={("host", "eth1"): ("bond0",)},
    namespaces={1: (4026531840, "host"), 7: (4026532000, "blue")},
)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((), True),
        (("12",), True),
        (("0123456789abcdef",), True),
        (("xdp_*",), True),
        (("xdp_main_functi",), False),  # the truncated name is nobody's
        (("1",), False),
        (("other", "*_function"), True),
    ],
)
def test_programs(wanted: tuple[str, ...], expected: bool) -> None:
    assert Selectors(programs=wanted).wants(PROGRAM, SNAPSHOT) is expected


@pytest.mark.parametrize(
    ("interfaces", "namespaces", "devices"),
    [
        (("eth*",), (), {(4026531840, 2), (4026532000, 2)}),
        (("bond0",), (), {(4026531840, 2), (4026531840, 3)}),  # its lower device too
        ((), ("blue",), {(4026532000, 2)}),
        (("eth0",), ("host",), set()),
    ],
)
def test_devices(
    interfaces: tuple[str, ...], namespaces: tuple[str, ...], devices: set[tuple[int, int]]
) -> None:
    selectors = Selectors(interfaces=interfaces, namespaces=namespaces)
    assert selectors.devices(SNAPSHOT) == devices
    assert selectors.wants(PROGRAM, SNAPSHOT) is bool(devices)


def test_verdicts() -> None:
    assert Selectors().verdict_bits == 0b111111
    assert Selectors(verdicts=frozenset(["drop", "unknown"])).verdict_bits == 0b100010
    assert [kernel_name(verdict) for verdict in (0, 4, 5, 4294967295)] == [
        "XDP_ABORTED", "XDP_REDIRECT", "5", "4294967295",
    ]  # fmt: skip


PAIR = ("capture_exit", "capture_entry")
LATE = Selectors(verdicts=frozenset(["drop"]))


@pytest.mark.parametrize(
    ("plan", "altering", "unaltering"),
    [
        (Plan(), PAIR, PAIR),
        (Plan(exit=False), ("capture_entry",), ("capture_entry",)),
        (Plan(entry=False), ("capture_exit_only",), ("capture_exit_only",)),
        (Plan(exit=False, selectors=LATE), PAIR, ("capture_exit_only",)),
        (Plan(selectors=LATE), PAIR, PAIR),
        (Plan(entry=False, selectors=Selectors(min_inside=5)), PAIR, PAIR),
    ],
)
def test_as_few_tracers_as_can_be(
    plan: Plan, altering: tuple[str, ...], unaltering: tuple[str, ...]
) -> None:
    assert plan.programs(writes_packets=True) == altering
    assert plan.programs(writes_packets=False) == unaltering
