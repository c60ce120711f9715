# SPDX-License-Identifier: Apache-2.0
"""Packets that nobody would send, each read as the reference reads it; a hundred thousand nightly.

Hypothesis makes whole packets (odd_packets.py). Of each there are many: cut at every length, and
with every byte of its headers changed.
"""

import random
from collections.abc import Iterator
from itertools import chain, cycle

import pytest

from tests.kernel.flows import (
    SHORTEST,
    TEST_RUN_DEVICE,
    Expected,
    Sums,
    accounted,
    check_sums,
    differs,
    mac_verdict,
    observing,
)
from tests.kernel.lab import Lab
from tests.kernel.odd_frames import examples
from tests.reference import flow_of
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes
from xdpscope.libbpf import Program

pytestmark = pytest.mark.every_kernel

PROGRAMS = ("decide_by_source_mac", "write_and_decide")
"""Packets of the first are read where they leave it, those of the other where they come in."""

SETS = 8192
"""So many that no flow of one example finds its places taken; each has tables of its own."""

HEADERS = 180
"""No further bytes of a packet are changed."""


def variants(frame: bytes, source: random.Random) -> Iterator[bytes]:
    """Yield the frame; all that it can be cut to; each byte of its headers changed, some cut as
    well.
    """
    yield frame
    for length in range(SHORTEST, len(frame)):
        yield frame[:length]
    for at in range(11, min(len(frame), HEADERS)):
        changed = bytearray(frame)
        changed[at] = source.choice([0, 255, changed[at] ^ (1 << source.randrange(8))])
        yield bytes(changed)
        changed[at] = source.randrange(256)
        changed[source.randrange(11, len(frame))] = source.randrange(256)
        yield bytes(changed[: source.randrange(SHORTEST, len(frame) + 1)])


def packets(frames: list[bytes], seed: int, number: int) -> list[bytes]:
    """So many of the frames' variants, of all of them equally many."""
    source = random.Random(seed)
    made = list(chain.from_iterable(variants(frame, source) for frame in frames))
    if len(made) > number:
        return source.sample(made, number)
    return made + source.choices(made, k=number - len(made))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "each"), [(2, 150), pytest.param(25, 4100, marks=pytest.mark.nightly)]
)
def test_packets_that_nobody_would_send(lab: Lab, number: int, each: int) -> None:
    programs = [lab.load(name, "flows") for name in PROGRAMS]
    for index, program in enumerate(programs):
        lab.attach(program, lab.veth(f"xst{index}"))
    turns = cycle(zip(PROGRAMS, programs, strict=True))
    made = examples(number)
    assert len(made) == number
    for frames, seed in made:
        _check(*next(turns), packets(frames, seed, each))


def _check(name: str, program: Program, frames: list[bytes]) -> None:
    with (
        Engine(FlowSizes(sets=SETS, sample_rate=1)) as engine,
        observing(engine) as observer,
    ):
        observer.scan(0)
        expected, example = Expected(), {}
        for frame in frames:
            program.test_run(frame)
            expected.add(name, TEST_RUN_DEVICE, mac_verdict(frame), frame)
            example[mac_verdict(frame), flow_of(frame)] = frame
        found = accounted(observer)
        _name_packets(found, expected.sums, example)
        differs(found, expected.sums)
        check_sums(observer)


def _name_packets(found: Sums, expected: Sums, example: dict[object, bytes]) -> None:
    """Print a packet for whatever differs, for pytest to show."""
    for key in sorted(expected, key=str):
        if found.get(key) != expected[key]:
            print(key, example[key[2:]].hex())
