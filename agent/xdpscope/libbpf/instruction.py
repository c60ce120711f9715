# SPDX-License-Identifier: Apache-2.0
"""Instructions as RFC 9669 has them, and the parts of their opcodes."""

from typing import NamedTuple

from xdpscope.libbpf._raw import lib

# Classes.
LD, LDX, ST, STX = lib.BPF_LD, lib.BPF_LDX, lib.BPF_ST, lib.BPF_STX
ALU, ALU64, JMP, JMP32 = lib.BPF_ALU, lib.BPF_ALU64, lib.BPF_JMP, lib.BPF_JMP32
# Sizes and modes.
B, H, W, DW = lib.BPF_B, lib.BPF_H, lib.BPF_W, lib.BPF_DW
MEM, IMM, ATOMIC = lib.BPF_MEM, lib.BPF_IMM, lib.BPF_ATOMIC
MEMSX = 0x80
"""A load that extends the sign (Linux 6.6)."""
# Operations, and whether on a register.
ADD, SUB, MUL, DIV, MOD = lib.BPF_ADD, lib.BPF_SUB, lib.BPF_MUL, lib.BPF_DIV, lib.BPF_MOD
OR, AND, XOR, NEG = lib.BPF_OR, lib.BPF_AND, lib.BPF_XOR, lib.BPF_NEG
LSH, RSH, ARSH = lib.BPF_LSH, lib.BPF_RSH, lib.BPF_ARSH
MOV, END, TO_BE = lib.BPF_MOV, lib.BPF_END, lib.BPF_TO_BE
JA, JEQ, JNE, JSET = lib.BPF_JA, lib.BPF_JEQ, lib.BPF_JNE, lib.BPF_JSET
JGT, JGE, JLT, JLE = lib.BPF_JGT, lib.BPF_JGE, lib.BPF_JLT, lib.BPF_JLE
JSGT, JSGE, JSLT, JSLE = lib.BPF_JSGT, lib.BPF_JSGE, lib.BPF_JSLT, lib.BPF_JSLE
CALL, EXIT = lib.BPF_CALL, lib.BPF_EXIT
# Atomic operations, in ``imm``; FETCH may be added to ADD, OR, AND, XOR.
FETCH, XCHG, CMPXCHG = lib.BPF_FETCH, lib.BPF_XCHG, lib.BPF_CMPXCHG
K, X = lib.BPF_K, lib.BPF_X

LOAD_64 = LD | DW | IMM
"""Loads a constant of 64 bits, and takes two instructions' room: low half, high half."""


FRAME_POINTER = 10
"""The register that points to the end of a function's part of the stack."""


class Instruction(NamedTuple):
    """``struct bpf_insn``."""

    code: int
    dst: int
    src: int
    off: int
    imm: int

    @property
    def klass(self) -> int:
        return self.code & 0x07

    @property
    def operation(self) -> int:
        """Return the operation of an arithmetic instruction or a jump."""
        return self.code & 0xF0

    @property
    def size(self) -> int:
        """Return the size of a load or store."""
        return self.code & 0x18

    @property
    def mode(self) -> int:
        """Return the mode of a load or store."""
        return self.code & 0xE0

    @property
    def by_register(self) -> bool:
        """Return whether the operand of an arithmetic instruction or a jump is a register."""
        return bool(self.code & X)

    @property
    def calls_helper(self) -> bool:
        return self.code == JMP | CALL and self.src == 0
