# SPDX-License-Identifier: Apache-2.0
"""A loaded program's instructions, to be loaded again with other maps and constants.

Opening and loading a whole object for each target costs a hundred times what loading
its relocated instructions again does.
"""

from collections.abc import Callable
from typing import Any, Self

from xdpscope.libbpf import instruction as isa
from xdpscope.libbpf._raw import ffi, lib

Slots = tuple[int, ...]
"""Which instructions of a template take one value."""


class Template:
    """Instructions as the kernel took them, map descriptors filled in."""

    def __init__(self, instructions: Any, attach_type: int) -> None:
        self.instructions = instructions  # struct bpf_insn[]
        self.attach_type = attach_type

    def map_slots(self, fd: int) -> Slots:
        """Where the program refers to this map; maybe nowhere."""
        kinds = (lib.BPF_PSEUDO_MAP_FD, lib.BPF_PSEUDO_MAP_VALUE)
        return self._slots(
            lambda insn, _: insn.code == isa.LOAD_64 and insn.src_reg in kinds and insn.imm == fd
        )

    def constant_slots(self, value: int) -> Slots:
        """Where the program moves this constant, of up to 64 bits, to a register; maybe nowhere."""
        codes = (isa.ALU | isa.MOV | isa.K, isa.ALU64 | isa.MOV | isa.K)
        low, high = _signed(value), _signed(value >> 32)

        def takes(insn: Any, following: Any) -> bool:
            if insn.code == isa.LOAD_64:
                return bool(insn.src_reg == 0 and insn.imm == low and following.imm == high)
            return bool(insn.code in codes and insn.imm == value)

        return self._slots(takes)

    def comparison_slots(self, value: int) -> Slots:
        """Where the program compares a register with this constant of 31 bits; maybe nowhere."""
        codes = (isa.JMP | isa.JEQ | isa.K, isa.JMP | isa.JNE | isa.K)
        return self._slots(lambda insn, _: insn.code in codes and insn.imm == value)

    def shift_slots(self, bits: int) -> Slots:
        """Where the program shifts 64 bits to the right by so many; maybe nowhere."""
        shift = isa.ALU64 | isa.RSH | isa.K
        return self._slots(lambda insn, _: insn.code == shift and insn.imm == bits)

    def switch_slots(self) -> Slots:
        """Where the program has a branch for ``switched``: a jump if equal to nought, after one to
        nowhere, which compilers do not write.
        """
        nowhere, branch = isa.JMP | isa.JA, isa.JMP | isa.JEQ | isa.K

        def is_switch(insn: Any, following: Any) -> bool:
            return (insn.code, insn.off, following.code, following.imm) == (nowhere, 0, branch, 0)

        return tuple(at + 1 for at in self._slots(is_switch))

    def switched(self, slots: Slots) -> Self:
        """The same program, taking the other way at these branches."""
        other = self.filled()
        for slot in slots:
            other.instructions[slot].code = isa.JMP | isa.JNE | isa.K
        return other

    def _slots(self, wanted: Callable[[Any, Any], bool]) -> Slots:
        last = len(self.instructions) - 1
        return tuple(
            at
            for at, insn in enumerate(self.instructions)
            if wanted(insn, self.instructions[min(at + 1, last)])
        )

    def filled(self, *fillings: tuple[Slots, int]) -> Self:
        """The same program with other values in some slots."""
        copy = ffi.new("struct bpf_insn[]", len(self.instructions))
        ffi.memmove(copy, self.instructions, ffi.sizeof(copy))
        for slots, value in fillings:
            for slot in slots:
                copy[slot].imm = _signed(value)
                if copy[slot].code == isa.LOAD_64 and copy[slot].src_reg == 0:
                    copy[slot + 1].imm = _signed(value >> 32)
        return type(self)(copy, self.attach_type)


def _signed(value: int) -> int:
    """The low 32 bits as an instruction holds them."""
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low
