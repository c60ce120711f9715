# SPDX-License-Identifier: Apache-2.0
"""A loaded program's instructions, to be loaded again with other maps and constants.

Opening and loading a whole object for each target costs a hundred times what loading
its relocated instructions again does.
"""

import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

from xdpscope.libbpf import instruction as isa
from xdpscope.libbpf._raw import ffi, lib
from xdpscope.libbpf.instruction import Instruction

Slots = tuple[int, ...]
"""The indexes of the instructions of a template that take one value."""

_LAYOUT = struct.Struct("<BBhi")
"""``struct bpf_insn``: code, registers (the source is the upper half), offset, immediate."""


class Template:
    """Instructions as the kernel took them, map descriptors filled in."""

    def __init__(self, instructions: Any, attach_type: int) -> None:
        self.instructions = instructions  # struct bpf_insn[]
        self.attach_type = attach_type

    def map_slots(self, fd: int) -> Slots:
        """Return where the program refers to this map; it may be empty."""
        kinds = (lib.BPF_PSEUDO_MAP_FD, lib.BPF_PSEUDO_MAP_VALUE)
        loads = self._with_code(isa.LOAD_64)
        return tuple(at for at, source, value in loads if source in kinds and value == fd)

    def constant_slots(self, value: int) -> Slots:
        """Return where the program moves this constant, of up to 64 bits, to a register, or masks
        one with it; it may be empty.
        """
        low, high = _signed(value), _signed(value >> 32)
        wide = [
            at
            for at, source, part in self._with_code(isa.LOAD_64)
            if (source, part, self._decoded[at + 1][3]) == (0, low, high)
        ]
        codes = [
            klass | operation | isa.K
            for klass in (isa.ALU, isa.ALU64)
            for operation in (isa.MOV, isa.AND)
        ]
        return tuple(sorted(wide + self._with_immediate(value, *codes)))

    def comparison_slots(self, value: int) -> Slots:
        """Return where the program compares a register with this constant of 31 bits; maybe
        nowhere.
        """
        codes = (isa.JMP | isa.JEQ | isa.K, isa.JMP | isa.JNE | isa.K)
        return tuple(self._with_immediate(value, *codes))

    def shift_slots(self, bits: int) -> Slots:
        """Return where the program shifts 64 bits to the right by this number; it may be empty."""
        return tuple(self._with_immediate(bits, isa.ALU64 | isa.RSH | isa.K))

    def switch_slots(self) -> Slots:
        """Return where the program has a branch for ``switched``.

        It is a jump if equal to 0, after a jump to the next instruction, which compilers do not
        write.
        """
        branches = self._with_immediate(0, isa.JMP | isa.JEQ | isa.K)
        return tuple(at for at in branches if at and self._leads_nowhere(at - 1))

    def switched(self, slots: Slots) -> Self:
        """Return the same program, taking the other way at these branches."""
        other = self.filled()
        for slot in slots:
            other.instructions[slot].code = isa.JMP | isa.JNE | isa.K
        return other

    def replaced(self, at: int, count: int, instructions: Sequence[Instruction]) -> Self:
        """Return the same program with others in the place of ``count`` instructions.

        Jumps and calls over that place lead where they led. What the program has below the frame
        pointer is not moved: see ``frame_depth``. Slots of the template do not apply to the result.

        Raises:
            ValueError: a jump is too far for its 16 bits, or leads between what is replaced.
        """
        grown = len(instructions) - count

        def moved(position: int) -> int:
            return position if position <= at else position + grown

        after = at + count
        found: list[tuple[int, int, int, int]] = []
        for position, (code, registers, offset, immediate) in enumerate(self._decoded):
            if position == at:
                found += [(i.code, i.src << 4 | i.dst, i.off, i.imm) for i in instructions]
            if at <= position < after:
                continue
            here = moved(position)
            calls = (code, registers >> 4) in (
                (isa.JMP | isa.CALL, lib.BPF_PSEUDO_CALL),
                (isa.LOAD_64, lib.BPF_PSEUDO_FUNC),
            )
            jumps = code & 0x07 in (isa.JMP, isa.JMP32) and code & 0xF0 not in (isa.CALL, isa.EXIT)
            if calls or jumps:
                to = position + 1 + (immediate if calls else offset)
                if at < to < after:
                    raise ValueError("a jump leads into the instructions to replace")
                distance = moved(to) - here - 1
                if calls:
                    immediate = distance
                elif -(1 << 15) <= distance < 1 << 15:
                    offset = distance
                else:
                    raise ValueError("a jump over the new instructions is too far")
            found.append((code, registers, offset, immediate))
        copy = ffi.new("struct bpf_insn[]", len(found))
        ffi.buffer(copy)[:] = b"".join(_LAYOUT.pack(*each) for each in found)
        return type(self)(copy, self.attach_type)

    def frame_depth(self, *, own: bool = False) -> int:
        """Return how many bytes of stack below the frame pointer the program's functions use.

        As compilers write it: in loads and stores, and in sums with a copy of the frame pointer.
        ``own``: without the functions that it calls; they come behind it.
        """
        lowest, copies = 0, set[int]()
        for code, registers, offset, immediate in self._decoded[: self.own_length if own else None]:
            klass, target, source = code & 0x07, registers & 0x0F, registers >> 4
            base = source if klass == isa.LDX else target
            if klass in (isa.LDX, isa.ST, isa.STX) and base == isa.FRAME_POINTER:
                lowest = min(lowest, offset)
            if code == isa.ALU64 | isa.ADD | isa.K and target in copies:
                lowest = min(lowest, immediate)
            if code == isa.ALU64 | isa.MOV | isa.X and source == isa.FRAME_POINTER:
                copies.add(target)
            elif klass in (isa.ALU, isa.ALU64, isa.LD, isa.LDX):
                copies.discard(target)
        return -lowest

    @property
    def own_length(self) -> int:
        """Return how many instructions are its own: the functions that it calls come behind."""
        called = (
            at + 1 + immediate
            for at, (code, registers, _, immediate) in enumerate(self._decoded)
            if (code, registers >> 4) == (isa.JMP | isa.CALL, lib.BPF_PSEUDO_CALL)
        )
        return min(called, default=len(self._decoded))

    @cached_property
    def _decoded(self) -> list[tuple[int, int, int, int]]:
        """Return every instruction, decoded together: reading single fields through cffi is far
        slower.
        """
        return list(_LAYOUT.iter_unpack(ffi.buffer(self.instructions)))

    def _with_code(self, wanted: int) -> list[tuple[int, int, int]]:
        """Return where instructions with this code are, with their source register and
        immediate.
        """
        return [
            (at, registers >> 4, immediate)
            for at, (code, registers, _, immediate) in enumerate(self._decoded)
            if code == wanted
        ]

    def _with_immediate(self, wanted: int, *codes: int) -> list[int]:
        """Return where instructions with one of these codes and this immediate are."""
        return [
            at
            for at, (code, _, _, immediate) in enumerate(self._decoded)
            if immediate == wanted and code in codes
        ]

    def _leads_nowhere(self, at: int) -> bool:
        code, _, offset, _ = self._decoded[at]
        return (code, offset) == (isa.JMP | isa.JA, 0)

    def filled(self, *fillings: tuple[Slots, int]) -> Self:
        """Return the same program with other values in some slots."""
        copy = ffi.new("struct bpf_insn[]", len(self.instructions))
        ffi.memmove(copy, self.instructions, ffi.sizeof(copy))
        for slots, value in fillings:
            for slot in slots:
                copy[slot].imm = _signed(value)
                if copy[slot].code == isa.LOAD_64 and copy[slot].src_reg == 0:
                    copy[slot + 1].imm = _signed(value >> 32)
        return type(self)(copy, self.attach_type)


def _signed(value: int) -> int:
    """Return the low 32 bits as an instruction holds them."""
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low
