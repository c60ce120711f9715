# SPDX-License-Identifier: Apache-2.0
"""Packet filters in the kernel return what libpcap's ``bpf_filter()`` returns."""

from collections.abc import Sequence
from itertools import islice
from random import Random

import pytest

from tests.kernel.conftest import kernel
from tests.kernel.filters import AT_ONCE, Filters, readers
from tests.kernel.flows import CAPTURES, SHORTEST, frames_of
from tests.kernel.mixture import samples
from tests.tools import packets, random_filters
from tests.tools.expressions import expressions
from tests.tools.reference import Reference
from xdpscope.sessions.packet_filter import FilterError, PacketFilter, Reader

# Attaching 32 tracers takes seconds, and longer on a busy emulator.
pytestmark = [pytest.mark.every_kernel, pytest.mark.timeout(900)]

_LONGEST = 1500


@pytest.fixture(scope="module")
def accepted() -> list[Reader]:
    """What this kernel takes; the cheapest that it must take is among them."""
    found = readers()
    assert "copy" in found
    assert "cast" in found or kernel() < (6, 2)
    assert "plain" in found or kernel() < (7, 0)
    return found


def mixed_packets(number: int, seed: int) -> list[bytes]:
    """Return packets of other people's captures and of many protocols, some of them cut."""
    random = Random(seed)
    captured = [frame for path in sorted(CAPTURES.glob("*.pcap")) for frame in frames_of(path)]
    mixed = [sample.frame for sample in samples()]
    found = random.sample(captured, number // 2) + random.sample(mixed, number // 2)
    cut = [frame[: random.randrange(len(frame) + 1)] for frame in random.sample(found, number // 4)]
    return [frame[:_LONGEST] for frame in packets.made() + found + cut if len(frame) >= SHORTEST]


def differences(
    filters: Sequence[PacketFilter],
    frames: Sequence[bytes],
    reader: Reader,
    function: str = "filter_ethernet",
) -> tuple[list[object], int]:
    """Return what the kernel and libpcap do not agree on, and how many packets matched."""
    found: list[object] = []
    matched = 0
    waiting = iter(filters)
    while some := list(islice(waiting, AT_ONCE)):
        raw = function == "filter_raw_ip"
        references = [Reference(each.raw_ip if raw else each.ethernet) for each in some]
        with Filters(some, reader, function) as running:
            for frame in frames:
                expected = [each.run(frame, len(frame)) for each in references]
                matched += sum(map(bool, expected))
                results = running.run(frame)
                if results != expected:
                    found.append(
                        (
                            frame.hex(),
                            [
                                (each.expression or each.ethernet, one, other)
                                for each, one, other in zip(some, results, expected, strict=True)
                                if one != other
                            ],
                        )
                    )
    return found, matched


@pytest.mark.parametrize(
    ("number", "step"), [(160, 4), pytest.param(1000, 1, marks=pytest.mark.nightly)]
)
def test_the_kernel_selects_what_libpcap_selects(
    accepted: list[Reader], number: int, step: int
) -> None:
    """All expressions nightly, each fourth one otherwise: to attach them takes minutes."""
    assert len(expressions()) >= 200
    filters = [PacketFilter.compile(each) for each in expressions()[::step]]
    frames = mixed_packets(number, 1)
    for reader in accepted:
        found, matched = differences(filters, frames, reader)
        assert not found, (reader, found[:3])
        assert matched > 10 * len(frames) // step


@pytest.mark.first_kernel
def test_the_kernel_selects_packets_that_begin_with_ip(accepted: list[Reader]) -> None:
    filters = [PacketFilter.compile(each) for each in expressions()]
    usable = [each for each in filters if each.raw_ip_error is None]
    assert len(usable) > 120
    frames = [frame[14:] for frame in mixed_packets(200, 2) if len(frame) >= 14 + SHORTEST]
    found, matched = differences(usable[::8], frames, accepted[0], "filter_raw_ip")
    assert not found, found[:3]
    assert matched
    nothing = [each for each in filters if each.raw_ip_error is not None][:AT_ONCE]
    found, matched = differences(nothing, frames[:20], accepted[0], "filter_raw_ip")
    assert not found and not matched


@pytest.mark.parametrize("programs", [32, pytest.param(640, marks=pytest.mark.nightly)])
def test_the_kernel_computes_what_libpcap_computes(accepted: list[Reader], programs: int) -> None:
    random = Random(3)
    filters = []
    for _ in range(programs):
        classic = random_filters.program(random)
        filters.append(PacketFilter("", classic, classic))
    frames = [random_filters.packet(random) for _ in range(80)]
    frames = [frame for frame in frames if len(frame) >= SHORTEST]
    for reader in accepted:
        found, matched = differences(filters, frames, reader)
        assert not found, (reader, found[:3])
        assert matched


@pytest.mark.matrix
def test_long_filters_are_taken_or_refused_with_a_message(accepted: list[Reader]) -> None:
    """The verifier follows each branch: a filter of some 800 instructions must not be too much."""
    ports = " or ".join(f"port {number}" for number in range(1000, 1060))
    hosts = " or ".join(f"net 10.{number}.0.0/16" for number in range(100))
    for text in (ports, hosts, f"({ports}) and ({hosts})", "+".join(["ip[0]"] * 150) + " > 9"):
        try:
            filters = [PacketFilter.compile(text)]
        except FilterError as error:  # libpcap itself gives up on a slow machine
            assert "libpcap takes longer" in str(error)
            continue
        found, _ = differences(filters, mixed_packets(20, 4), accepted[0])
        assert not found, found[:3]
