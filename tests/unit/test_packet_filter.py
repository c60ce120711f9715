# SPDX-License-Identifier: Apache-2.0
"""Packet filters: mistakes are shown, and a translation computes what libpcap computes."""

from random import Random

import pytest

from tests.tools.expressions import expressions
from tests.tools.interpreter import Machine
from tests.tools.random_filters import packet, program
from tests.tools.reference import Reference
from xdpscope import __main__ as command
from xdpscope.errors import XdpscopeError
from xdpscope.sessions.packet_filter import FilterError, PacketFilter, libpcap
from xdpscope.sessions.packet_filter.classic import Classic, check
from xdpscope.sessions.packet_filter.expression import MAX_LENGTH, REFUSED
from xdpscope.sessions.packet_filter.translate import Cast, Reader, StackError, translate

CAST = Cast(function=1, type=2, array=16)
READERS: tuple[Reader, ...] = ("plain", "cast", "copy")


@pytest.mark.parametrize(
    ("number", "seed"), [(700, 1), pytest.param(34_000, 2, marks=pytest.mark.nightly)]
)
def test_a_translation_computes_what_libpcap_computes(number: int, seed: int) -> None:
    """30 packets for each program: 21,000 pairs, 1,020,000 nightly, each with three readers."""
    matched = 0
    for each in range(number):
        random = Random(f"{seed} {each}")
        classic = program(random)
        reference = Reference(classic)
        assert check(classic) is None and reference.is_valid()
        translated = {reader: translate(classic, reader, CAST, depth=8) for reader in READERS}
        for _ in range(30):
            linear = packet(random)
            length = len(linear) + random.choice((0, 0, 6, 70_000))
            expected = reference.run(linear, length)
            matched += bool(expected)
            for reader, instructions in translated.items():
                found = Machine(linear, len(linear), length).run(instructions)
                assert found == expected, (each, reader, classic, linear, length)
    assert 0.1 < matched / (30 * number) < 0.9
