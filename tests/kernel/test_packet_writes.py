# SPDX-License-Identifier: Apache-2.0
"""The programs that certainly leave their packets unchanged."""

import os

import pytest

from tests.kernel import raw
from tests.kernel.lab import Lab, function_names
from xdpscope.attach.packet_writes import read_only_calls, writes_packets
from xdpscope.libbpf import Instruction

pytestmark = pytest.mark.every_kernel

PROGRAMS = [name for name in function_names("alteration") if name.startswith(("keeps", "alters"))]


@pytest.fixture(scope="module")
def read_only() -> frozenset[int]:
    return read_only_calls()


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_may_alter_packets_is_known(lab: Lab, name: str, read_only: frozenset[int]) -> None:
    instructions = lab.load(name, "alteration").instructions()
    assert writes_packets(instructions, read_only) == name.startswith("alters")


def test_without_knowing_helpers_only_what_calls_none_is_certain(lab: Lab) -> None:
    assert writes_packets(lab.load("keeps_counting", "alteration").instructions(), frozenset())
    assert not writes_packets(lab.load("decide_drop").instructions(), frozenset())


def test_what_is_secret_may_alter_packets(read_only: frozenset[int]) -> None:
    assert writes_packets([], read_only)


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def _writing(*middle: Instruction, through: int = 2) -> list[Instruction]:
    """Return a program that has the packet in r2, does something, and writes through a register."""
    return [
        Instruction(0x61, 2, 1, 0, 0),  # r2 = data
        Instruction(0x61, 3, 1, 4, 0),  # r3 = data_end
        Instruction(0xB7, 0, 0, 0, 2),  # r0 = XDP_PASS
        Instruction(0xBF, 4, 2, 0, 0),
        Instruction(0x07, 4, 0, 0, 14),
        Instruction(0x2D, 4, 3, len(middle) + 2, 0),  # if r4 > r3, to the end
        *middle,
        Instruction(0x72, through, 0, 0, 1),  # *(u8 *)through = 1
        Instruction(0xB7, 0, 0, 0, 2),
        Instruction(0x95, 0, 0, 0, 0),
    ]


_SAVE, _CLEAR = Instruction(0x7B, 10, 2, -8, 0), Instruction(0x7A, 10, 0, -8, 0)
_FORGET = Instruction(0xB7, 2, 0, 0, 0)

# What loads on which kernels, and hides the pointer to the packet in an atomic operation.
ATOMIC = {
    "add": ((5, 10), _writing(_CLEAR, Instruction(0xDB, 10, 2, -8, 0))),
    "exchange": ((5, 12), _writing(_SAVE, _FORGET, Instruction(0xDB, 10, 2, -8, 0xE1))),
    "compare and exchange": (
        (5, 12), _writing(_SAVE, _FORGET, Instruction(0xDB, 10, 2, -8, 0xF1), through=0),
    ),
    "load-acquire": (
        (6, 15), _writing(_SAVE, _FORGET, Instruction(0xDB, 2, 10, -8, 0x100)),
    ),
    "store-release": (
        (6, 15),
        _writing(
            Instruction(0xDB, 10, 2, -8, 0x110), _FORGET, Instruction(0x79, 2, 10, -8, 0)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATOMIC)
def test_a_pointer_in_an_atomic_operation(name: str, read_only: frozenset[int]) -> None:
    since, instructions = ATOMIC[name]
    if _kernel() < since:
        pytest.skip(f"this instruction came with Linux {since[0]}.{since[1]}")
    with raw.load_xdp(instructions) as program:
        verdict, _ = program.test_run(bytes(64))
        assert verdict == 2
        assert writes_packets(program.instructions(), read_only)


def test_an_indirect_jump(read_only: frozenset[int]) -> None:
    """The instruction after it leaves the packet alone; the target does not."""
    if _kernel() < (6, 19):
        pytest.skip("indirect jumps came with Linux 6.19")
    instructions = _writing(
        Instruction(0x18, 5, 2, 0, 0),  # r5 = the table
        Instruction(0, 0, 0, 0, 0),
        Instruction(0x79, 5, 5, 0, 0),
        Instruction(0x0D, 5, 0, 0, 0),  # gotox r5
        Instruction(0x95, 0, 0, 0, 0),
    )
    with raw.jump_table(11, 10) as table:
        instructions[6] = instructions[6]._replace(imm=table.fileno())
        with raw.load_xdp(instructions) as program:
            assert writes_packets(program.instructions(), read_only)
