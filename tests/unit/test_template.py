# SPDX-License-Identifier: Apache-2.0
"""Instructions are put into a program in the place of others, and jumps lead where they led."""

import pytest
from xdpscope.libbpf._raw import ffi

from xdpscope.libbpf import Instruction, Template
from xdpscope.libbpf import instruction as isa

EXIT = Instruction(isa.JMP | isa.EXIT, 0, 0, 0, 0)
NOP = Instruction(isa.JMP | isa.JA, 0, 0, 0, 0)
MARKER = 0x7C4F11E7DEAD0001


def mov(register: int, value: int) -> Instruction:
    return Instruction(isa.ALU64 | isa.MOV | isa.K, register, 0, 0, value)


def jump(offset: int) -> Instruction:
    return Instruction(isa.JMP32 | isa.JEQ | isa.K, 1, 0, offset, 0)


def template(*instructions: Instruction) -> Template:
    return Template(ffi.new("struct bpf_insn[]", 1), 0).replaced(0, 1, instructions)


def listed(found: Template) -> list[Instruction]:
    return [Instruction(i.code, i.dst_reg, i.src_reg, i.off, i.imm) for i in found.instructions]


def test_jumps_and_calls_lead_where_they_led() -> None:
    call = Instruction(isa.JMP | isa.CALL, 0, 1, 0, 0)
    helper = Instruction(isa.JMP | isa.CALL, 0, 0, 0, 5)
    callback = Instruction(isa.LOAD_64, 2, 4, 0, 0), Instruction(0, 0, 0, 0, 0)
    program = template(
        callback[0]._replace(imm=8), callback[1],  # both functions begin at 9
        jump(3), jump(0), call._replace(imm=4),  # over the place; not so far
        mov(3, 7),  # the place
        jump(-2), helper, EXIT,  # back to the place
        mov(0, 1), jump(-8), EXIT,  # back over the place
    )  # fmt: skip
    new = [mov(4, 1), mov(4, 2), mov(4, 3)]
    assert listed(program.replaced(5, 1, new)) == [
        callback[0]._replace(imm=10), callback[1],
        jump(5), jump(0), call._replace(imm=6),
        *new,
        jump(-4), helper, EXIT,
        mov(0, 1), jump(-10), EXIT,
    ]  # fmt: skip


def test_a_marker_of_two_instructions_is_found_and_replaced() -> None:
    low = Instruction(isa.LOAD_64, 0, 0, 0, (MARKER & 0xFFFFFFFF) - (1 << 32))
    high = Instruction(0, 0, 0, 0, MARKER >> 32)
    program = template(jump(2), low, high, EXIT)
    slots = program.constant_slots(MARKER)
    assert slots == (1,)
    assert listed(program.replaced(slots[0], 2, [mov(0, 1)])) == [jump(1), mov(0, 1), EXIT]
    assert listed(program.replaced(slots[0], 2, [])) == [jump(0), EXIT]


def test_what_cannot_be_replaced_is_an_error() -> None:
    with pytest.raises(ValueError, match="leads into"):
        template(jump(1), NOP, NOP, EXIT).replaced(1, 2, [NOP])
    with pytest.raises(ValueError, match="too far"):
        template(jump(1), NOP, EXIT).replaced(1, 1, [NOP] * 0x8000)


def test_the_depth_of_a_frame() -> None:
    store = Instruction(isa.STX | isa.MEM | isa.DW, 10, 1, -24, 0)
    load = Instruction(isa.LDX | isa.MEM | isa.DW, 1, 10, -32, 0)
    copy = Instruction(isa.ALU64 | isa.MOV | isa.X, 2, 10, 0, 0)
    add = Instruction(isa.ALU64 | isa.ADD | isa.K, 2, 0, 0, -64)
    other = Instruction(isa.ALU64 | isa.ADD | isa.K, 3, 0, 0, -300)
    assert template(EXIT).frame_depth() == 0
    assert template(store, EXIT).frame_depth() == 24
    assert template(store, load, EXIT).frame_depth() == 32
    assert template(copy, other, add, EXIT).frame_depth() == 64
    assert template(copy, mov(2, 0), add, EXIT).frame_depth() == 0
