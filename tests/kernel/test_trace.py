# SPDX-License-Identifier: Apache-2.0
"""``xdpscope trace`` prints every packet as it was sent, with what became of it."""

import json
import re
import signal
import time

import pytest

from tests.kernel.conftest import kernel
from tests.kernel.lab import Lab, settled_objects
from tests.kernel.sessions import (
    ABORT,
    DECAPSULATE,
    DROP,
    ENCAPSULATE,
    KEEP,
    REWRITE,
    Command,
    instructed,
    running,
)
from tests.kernel.test_chains import LINKS, chain, needs_loader, send_some

FRAGMENTS = kernel() >= (5, 18)


def _program(lab: Lab):
    return lab.load("does_as_told", "sessions") if FRAGMENTS else lab.load("decide_pass")


@pytest.mark.every_kernel
def test_each_packet_has_a_line(lab: Lab) -> None:
    if not FRAGMENTS:
        pytest.skip("the program needs multi-buffer XDP (5.18)")
    veth = lab.veth("xst0")
    lab.attach(_program(lab), veth)
    before = settled_objects()

    with running("trace") as command:
        for what in (KEEP, DROP, REWRITE, ENCAPSULATE, DECAPSULATE, ABORT):
            veth.send(instructed(what, 1))
        time.sleep(1)
        output, errors = command.finish()

    flow = "192.168.1.12:5060 -> 192.168.1.138:5060 UDP"
    lines = [re.sub(r"^\S+ ", "", line) for line in output.splitlines()]
    lines = [re.sub(r"[\d.]+ (ns|us|ms)", "T", line) for line in lines]
    assert lines == [
        f"xst0 {flow} 100 does_as_told (fentry) (fexit: XDP_PASS) T",
        f"xst0 {flow} 100 does_as_told (fentry) (fexit: XDP_DROP) T",
        f"xst0 {flow} 100 does_as_told (fentry) (fexit: XDP_PASS)"
        " T, destination 192.168.1.138:5060 -> 10.0.0.2:5060",
        f"xst0 {flow} 100 does_as_told (fentry) (fexit: XDP_TX)"
        " T, encapsulated in IPIP 10.0.0.1 -> 10.0.0.2, length 100 -> 120",
        f"xst0 10.1.1.1 -> 192.168.1.138 IPIP [IPIP: {flow}] 120 does_as_told (fentry)"
        " (fexit: XDP_PASS) T, decapsulated from IPIP 10.1.1.1 -> 192.168.1.138,"
        " length 120 -> 100",
        f"xst0 {flow} 100 does_as_told (fentry) (fexit: XDP_ABORTED) T",
    ]
    assert "fentry: 6 captured, 0 lost, 6 matched" in errors
    assert "fexit: 6 captured, 0 lost, 6 matched" in errors
    assert settled_objects() == before


@pytest.mark.parametrize(
    "emit",
    [
        pytest.param("entry", marks=pytest.mark.nightly),
        "exit",
        pytest.param("entry,exit", marks=pytest.mark.nightly),
    ],
)
@pytest.mark.one_kernel
def test_a_verdict_selects(lab: Lab, emit: str) -> None:
    if not FRAGMENTS:
        pytest.skip("the program needs multi-buffer XDP (5.18)")
    veth = lab.veth("xst0")
    lab.attach(_program(lab), veth)

    with running("trace", "--verdict", "drop,aborted", "--emit", emit, "--json") as command:
        for number in range(99, 102):
            veth.send(instructed(DECAPSULATE, number), instructed(KEEP, number))
        veth.send(instructed(ABORT, 5))
        time.sleep(1)
        output, errors = command.finish()

    lines = [json.loads(line) for line in output.splitlines()]
    points = emit.split(",")
    assert [line["verdict"] for line in lines] == ["XDP_DROP", "XDP_ABORTED"]
    assert {line["version"] for line in lines} == {1}
    for line in lines:
        assert [name for name in ("entry", "exit") if line[name]] == points
    if "entry" in points:
        assert lines[0]["entry"]["protocol"] == "IPIP"
        assert lines[0]["entry"]["length"] == 120
    if "exit" in points:
        assert lines[0]["exit"]["source"] == "192.168.1.12"
        assert lines[0]["exit"]["length"] == 100
    assert "2 captured, 0 lost, 2 matched" in errors


@pytest.mark.first_kernel
@pytest.mark.every_kernel
def test_a_program_that_comes_later_joins(lab: Lab) -> None:
    veth = lab.veth("xst0")

    with running("trace", "--interface", "xst0", waits=True) as command:
        command.wait_for_note("waiting for one")
        program = lab.load("decide_drop")
        lab.attach(program, veth)
        command.wait_for_note(f"tracing decide_drop (program {program.info().id}) too")
        veth.send(instructed(KEEP, 1), times=3)
        time.sleep(1)
        output, _ = command.finish()

    assert output.count("decide_drop (fentry) (fexit: XDP_DROP)") == 3


@pytest.mark.one_kernel
def test_count_ends_it_and_no_program_is_refused_silently(lab: Lab) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass"), veth)

    with running("trace", "--count", "3", "--program", "decide_*") as command:
        veth.send(instructed(KEEP, 1), times=5)
        output, _ = command.wait()
    assert len(output.splitlines()) == 3
    assert command.process.returncode == 0


@pytest.mark.one_kernel
def test_nothing_stays_after_a_kill(lab: Lab) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_pass"), veth)
    before = settled_objects()

    with running("trace") as command:
        veth.send(instructed(KEEP, 1), times=5)
        command.finish(signal.SIGKILL)
    assert settled_objects() == before


@pytest.mark.first_kernel
@needs_loader
@pytest.mark.every_kernel
def test_a_chain_names_the_component_that_dropped(lab: Lab) -> None:
    veth = lab.veth("xst0")
    with (
        chain(veth, *reversed(LINKS)),
        running("trace", "--verdict", "drop", "--emit", "exit") as command,
    ):
        send_some(veth)
        time.sleep(1)
        output, _ = command.finish()
    words = [line.split() for line in output.splitlines()]
    assert [line[-3] for line in words] == ["drop_some", "xdp_dispatcher"] * 5
    assert all(line[-2:] == ["(fexit:", "XDP_DROP)"] for line in words)


@pytest.mark.one_kernel
def test_a_program_that_only_tail_calls_reach_is_refused(lab: Lab) -> None:
    loaded = lab.load_together("maps", "call_near", "leaf_pass")
    loaded.put("near", 1, loaded["leaf_pass"])
    lab.attach(loaded["call_near"], lab.veth("xst0"))
    command = Command("trace", "--program", "leaf_pass")
    _, errors = command.wait()
    assert command.process.returncode == 1
    assert "cannot trace leaf_pass" in errors
    assert "tailcall_only" in errors
