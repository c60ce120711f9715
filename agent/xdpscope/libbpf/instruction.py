# SPDX-License-Identifier: Apache-2.0
"""Instructions as RFC 9669 has them, and the parts of their opcodes."""

from typing import NamedTuple

from xdpscope.libbpf._raw import lib

# Classes.
LD, LDX, ST, STX = lib.BPF_LD, lib.BPF_LDX, lib.BPF_ST, lib.BPF_STX
ALU, ALU64, JMP, JMP32 = lib.BPF_ALU, lib.BPF_ALU64, lib.BPF_JMP, lib.BPF_JMP32
# Sizes and modes.
DW, MEM, IMM = lib.BPF_DW, lib.BPF_MEM, lib.BPF_IMM
# Operations, and whether on a register.
ADD, SUB, MOV, RSH = lib.BPF_ADD, lib.BPF_SUB, lib.BPF_MOV, lib.BPF_RSH
JA, JEQ, JNE = lib.BPF_JA, lib.BPF_JEQ, lib.BPF_JNE
CALL, EXIT = lib.BPF_CALL, lib.BPF_EXIT
K, X = lib.BPF_K, lib.BPF_X

LOAD_64 = LD | DW | IMM
"""Loads a constant of 64 bits, and takes two instructions' room: low half, high half."""


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
        """Of an arithmetic instruction or a jump."""
        return self.code & 0xF0

    @property
    def size(self) -> int:
        """Of a load or store."""
        return self.code & 0x18

    @property
    def mode(self) -> int:
        """Of a load or store."""
        return self.code & 0xE0

    @property
    def calls_helper(self) -> bool:
        return self.code == JMP | CALL and self.src == 0
