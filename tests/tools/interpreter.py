# SPDX-License-Identifier: Apache-2.0
"""Runs translated filters in user space: the few instructions that they consist of, strictly.

What the kernel's verifier refuses, and what would be a fault, raises AssertionError: registers and
stack bytes that nobody wrote, loads outside of the packet, jumps to nowhere.
"""

import operator
from collections.abc import Callable, Sequence

from xdpscope.libbpf import Instruction
from xdpscope.libbpf import instruction as isa

PACKET = 1 << 40
FRAME = 1 << 41
STACK = 512
_MASK = (1 << 64) - 1
_SIZES = {isa.B: 1, isa.H: 2, isa.W: 4, isa.DW: 8}
_PROBE_READ_KERNEL = 113

_OPERATIONS: dict[int, Callable[[int, int], int]] = {
    isa.ADD: operator.add, isa.SUB: operator.sub, isa.MUL: operator.mul, isa.DIV: operator.floordiv,
    isa.MOD: operator.mod, isa.OR: operator.or_, isa.AND: operator.and_, isa.XOR: operator.xor,
    isa.LSH: operator.lshift, isa.RSH: operator.rshift, isa.NEG: lambda value, _: -value,
}  # fmt: skip
_COMPARISONS: dict[int, Callable[[int, int], bool]] = {
    isa.JEQ: operator.eq, isa.JNE: operator.ne, isa.JGT: operator.gt, isa.JGE: operator.ge,
    isa.JLT: operator.lt, isa.JLE: operator.le, isa.JSET: lambda value, mask: bool(value & mask),
}  # fmt: skip


class Machine:
    """The memory and registers of one run."""

    def __init__(self, packet: bytes, linear: int, length: int) -> None:
        self.packet = packet  # with bytes behind its end, which only copies may read
        self.linear = linear
        self.stack = bytearray(STACK)
        self.initialised = bytearray(STACK)
        self.registers: list[int | None] = [None] * 11
        self.registers[1:4] = [PACKET, linear, length]
        self.registers[10] = FRAME

    def run(self, program: Sequence[Instruction]) -> int:
        """Return r0 behind the last instruction, or where one ends the program around it."""
        at, steps = 0, 0
        while at < len(program):
            steps += 1
            assert steps < 100_000, "a loop"
            if program[at].code == isa.JMP | isa.EXIT:
                return self[0]
            at = self._step(at, program[at])
        assert at == len(program), "a jump behind the end"
        return self[0]

    def __getitem__(self, register: int) -> int:
        value = self.registers[register]
        assert value is not None, f"r{register} is read, but nobody wrote it"
        return value

    def _step(self, at: int, each: Instruction) -> int:
        klass = each.klass
        if klass in (isa.ALU, isa.ALU64):
            self.registers[each.dst] = self._calculated(each)
        elif klass == isa.LDX:
            assert each.mode == isa.MEM
            self.registers[each.dst] = self._loaded(self[each.src] + each.off, _SIZES[each.size])
        elif klass in (isa.ST, isa.STX):
            value = self[each.src] if klass == isa.STX else each.imm
            self._store(self[each.dst] + each.off, _SIZES[each.size], value)
        elif each.code == isa.JMP | isa.CALL:
            self._call(each)
        else:
            assert klass in (isa.JMP, isa.JMP32), each
            return at + 1 + (each.off if self._jumps(each) else 0)
        return at + 1

    def _calculated(self, each: Instruction) -> int:
        bits = 32 if each.klass == isa.ALU else 64
        mask = (1 << bits) - 1
        if each.operation == isa.END:
            assert each.code == isa.ALU | isa.END | 0x08
            size = each.imm // 8
            low = self[each.dst] & ((1 << each.imm) - 1)
            return int.from_bytes(low.to_bytes(size, "little"), "big")
        operand = (self[each.src] if each.by_register else each.imm) & mask
        if each.operation == isa.MOV:
            return operand
        value = self[each.dst] & mask
        shifts = each.operation in (isa.LSH, isa.RSH)
        assert not shifts or operand < bits, "a shift by too many bits"
        assert each.operation not in (isa.DIV, isa.MOD) or operand, "a division by 0"
        return _OPERATIONS[each.operation](value, operand) & mask

    def _jumps(self, each: Instruction) -> bool:
        if each.operation == isa.JA:
            return True
        mask = 0xFFFFFFFF if each.klass == isa.JMP32 else _MASK
        value = self[each.dst] & mask
        operand = (self[each.src] if each.by_register else each.imm) & mask
        return _COMPARISONS[each.operation](value, operand)

    def _loaded(self, address: int, size: int) -> int:
        at = address - FRAME + STACK
        if 0 <= at <= STACK - size:
            assert at % size == 0, "an unaligned load from the stack"
            assert all(self.initialised[at : at + size]), "stack bytes that nobody wrote"
            return int.from_bytes(self.stack[at : at + size], "little")
        at = address - PACKET
        assert 0 <= at <= self.linear - size, f"a load at {at} of a packet of {self.linear}"
        return int.from_bytes(self.packet[at : at + size], "little")

    def _store(self, address: int, size: int, value: int) -> None:
        at = address - FRAME + STACK
        assert 0 <= at <= STACK - size and at % size == 0
        self.stack[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        self.initialised[at : at + size] = b"\1" * size

    def _call(self, each: Instruction) -> None:
        if each.src:  # bpf_rdonly_cast
            result = self[1]
            assert self[2]
        else:
            assert each.imm == _PROBE_READ_KERNEL
            result = self._probe_read(self[1] - FRAME + STACK, self[2], self[3] - PACKET)
        self.registers[1:6] = [None] * 5
        self.registers[0] = result

    def _probe_read(self, to: int, size: int, at: int) -> int:
        assert 0 <= to <= STACK - size and size
        assert at >= 0 and at + size <= self.linear, "a copy of bytes behind the packet"
        self.stack[to : to + size] = self.packet[at : at + size]
        self.initialised[to : to + size] = b"\1" * size
        return 0
