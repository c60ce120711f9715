# SPDX-License-Identifier: Apache-2.0
"""Decide from a program's instructions whether it can alter its packets.

The analysis follows the verified and rewritten instructions (``bpftool prog dump xlated``) along
every path. Its only state is which registers and stack slots may hold a pointer to the packet or
to its ``struct xdp_buff``. The verifier guarantees that a program stores such a pointer nowhere
else. It also guarantees that a program only adds a number to it, or converts it to a number.

A program certainly leaves its packets unchanged if it never stores through such a pointer, and
calls only read-only helpers. The analysis knows only the instructions on a list. A program with
any other instruction counts as altering: a newer instruction, an indirect jump, a tail call. A
program with functions of its own also counts as altering, because an extension can replace them.
"""

from collections.abc import Sequence, Set
from enum import Enum, auto
from errno import EPERM

from xdpscope import bpf
from xdpscope.errors import LoadError
from xdpscope.libbpf import Instruction, Object
from xdpscope.libbpf import instruction as isa

# The agent does not analyse a longer program, so that the work stays bounded.
_LONGEST = 8192

_REGISTERS = 12  # r0 to r10, and the register that the kernel's own rewriting uses
_RESULT, _FIRST_ARGUMENT, _FRAME = 0, 1, 10

# The instructions whose effect is known. A program with any other one counts as altering.
_ARITHMETIC = {isa.ADD, isa.SUB, isa.MUL, isa.DIV, isa.MOD, isa.OR, isa.AND, isa.XOR, isa.NEG}
_ARITHMETIC |= {isa.LSH, isa.RSH, isa.ARSH, isa.MOV, isa.END}
_COMPARISONS = {isa.JEQ, isa.JNE, isa.JSET, isa.JGT, isa.JGE, isa.JLT, isa.JLE}
_COMPARISONS |= {isa.JSGT, isa.JSGE, isa.JSLT, isa.JSLE}
_ATOMIC = {
    operation | fetch
    for operation in (isa.ADD, isa.OR, isa.AND, isa.XOR)
    for fetch in (0, isa.FETCH)
} | {isa.XCHG, isa.CMPXCHG}

# The kinds of a 64-bit constant: a number, a map, the value of a map, a variable of the kernel.
_CONSTANTS = range(4)

# The verifier adds this barrier against speculation, BPF_ST | BPF_NOSPEC (Linux 5.14).
_NO_SPECULATION = 0xC2


class Holds(Enum):
    """List the possible content of a register."""

    OTHER = auto()  # no pointer through which a program could alter a packet
    CONTEXT = auto()  # struct xdp_buff *
    PACKET = auto()  # a value read from struct xdp_buff
    UNKNOWN = auto()  # any of these

    def or_else(self, other: "Holds") -> "Holds":
        return self if self is other else Holds.UNKNOWN


_Registers = tuple[Holds, ...]


class _MayWriteError(Exception):
    """Report that a program may alter its packets."""


def read_only_calls() -> frozenset[int]:
    """Return the calls of read-only helpers, as this kernel encodes them.

    The result is empty where the kernel hides addresses. Before Linux 6.9, maps of devices and
    sockets need CAP_NET_ADMIN. Without it, the result lacks the helpers that redirect to them.

    Raises:
        LoadError: the kernel lacks a helper that Linux 5.10 has.
    """
    found = _calls_of("read_only_helpers")
    try:
        return found | _calls_of("read_only_redirects")
    except LoadError as error:
        if error.errno != EPERM:
            raise
        return found


def _calls_of(name: str) -> frozenset[int]:
    """Return the calls of helpers in the program that has the same name as its object."""
    with Object(bpf.path_of(name)) as loaded:
        loaded.load()
        with loaded.program(name) as program:
            return frozenset(
                each.imm for each in program.instructions() if each.calls_helper and each.imm
            )


def writes_packets(instructions: Sequence[Instruction], read_only: Set[int]) -> bool:
    """Return whether a program may alter its packets. False means that it certainly does not.

    Args:
        instructions: The result of ``Program.instructions``.
        read_only: The result of ``read_only_calls``.
    """
    if not 0 < len(instructions) <= _LONGEST:
        return True
    try:
        _Walk(instructions, read_only).all_paths()
    except _MayWriteError:
        return True
    return False


class _Walk:
    """Follow the paths of a program until the possible content of registers stays the same."""

    def __init__(self, instructions: Sequence[Instruction], read_only: Set[int]) -> None:
        self._instructions = instructions
        self._read_only = read_only
        self._spilled: set[int] = set()  # stack offsets at which any path stores a pointer
        self._spilled_anywhere = False

    def all_paths(self) -> None:
        """Follow all paths.

        Raises:
            _MayWriteError: the program may alter its packets.
        """
        registers = [Holds.OTHER] * _REGISTERS
        registers[_FIRST_ARGUMENT] = Holds.CONTEXT
        while True:
            before = len(self._spilled), self._spilled_anywhere
            self._follow(tuple(registers))
            if before == (len(self._spilled), self._spilled_anywhere):
                return
            # Repeat, because a path that was followed later may have stored a pointer to the stack.

    def _follow(self, entry: _Registers) -> None:
        known: dict[int, _Registers] = {}
        ahead = [(0, entry)]
        while ahead:
            at, registers = ahead.pop()
            if not 0 <= at < len(self._instructions):
                raise _MayWriteError
            before = known.get(at)
            if before is not None:
                registers = tuple(map(Holds.or_else, before, registers))
            if registers != before:
                known[at] = registers
                after = list(registers)
                following = self._step(at, after)
                ahead.extend((to, tuple(after)) for to in following)

    def _step(self, at: int, registers: list[Holds]) -> tuple[int, ...]:
        """Apply one instruction to ``registers``. Return the instructions that may come next."""
        insn = self._instructions[at]
        if max(insn.dst, insn.src) >= _REGISTERS:
            raise _MayWriteError
        match insn.klass:
            case isa.ALU | isa.ALU64 if insn.operation in _ARITHMETIC:
                registers[insn.dst] = self._calculated(insn, registers)
            case isa.LDX if insn.mode in (isa.MEM, isa.MEMSX):
                registers[insn.dst] = self._loaded(insn, insn.src, registers)
            case isa.ST if insn.code == _NO_SPECULATION:
                pass
            case isa.ST if insn.mode == isa.MEM:
                self._store(insn, Holds.OTHER, registers)
            case isa.STX if insn.mode == isa.MEM:
                self._store(insn, registers[insn.src], registers)
            case isa.STX if insn.mode == isa.ATOMIC and insn.imm in _ATOMIC:
                self._store(insn, registers[insn.src], registers)
                if insn.imm & isa.FETCH:
                    result = _RESULT if insn.imm == isa.CMPXCHG else insn.src
                    registers[result] = self._loaded(insn, insn.dst, registers)
            case isa.JMP | isa.JMP32:
                return self._jump(at, insn, registers)
            case _ if insn.code == isa.LOAD_64 and insn.src in _CONSTANTS:
                registers[insn.dst] = Holds.OTHER
                return (at + 2,)
            case _:
                raise _MayWriteError
        return (at + 1,)

    @staticmethod
    def _calculated(insn: Instruction, registers: list[Holds]) -> Holds:
        own = registers[insn.dst]
        operand = registers[insn.src] if insn.by_register else Holds.OTHER
        if insn.klass == isa.ALU or insn.operation not in (isa.MOV, isa.ADD, isa.SUB):
            return Holds.OTHER  # The verifier allows no other operation on pointers.
        if insn.operation == isa.MOV:
            if insn.off and operand is not Holds.OTHER:
                raise _MayWriteError  # It extends a sign, or casts to another address space.
            return operand
        if insn.operation == isa.SUB and own is operand is Holds.PACKET:
            return Holds.OTHER  # The distance between two pointers is a number.
        # If both may be a pointer, the result may be either of them.
        return own if operand is Holds.OTHER else Holds.UNKNOWN

    def _loaded(self, insn: Instruction, base: int, registers: list[Holds]) -> Holds:
        """Return what a load through the register ``base`` may yield."""
        held = registers[base]
        if insn.size != isa.DW or held is Holds.PACKET:
            return Holds.OTHER  # A part is not a pointer, and a packet contains no pointers.
        if held is Holds.CONTEXT:
            return Holds.PACKET
        if base == _FRAME:
            spilled = self._spilled_anywhere or insn.off in self._spilled
        else:
            spilled = self._spilled_anywhere or bool(self._spilled)
        return Holds.UNKNOWN if spilled or held is Holds.UNKNOWN else Holds.OTHER

    def _store(self, insn: Instruction, stored: Holds, registers: list[Holds]) -> None:
        if registers[insn.dst] is not Holds.OTHER:
            raise _MayWriteError
        if insn.size == isa.DW and stored is not Holds.OTHER:
            if insn.dst == _FRAME:
                self._spilled.add(insn.off)
            else:
                self._spilled_anywhere = True

    def _jump(self, at: int, insn: Instruction, registers: list[Holds]) -> tuple[int, ...]:
        if insn.code == isa.JMP | isa.EXIT:
            return ()
        if insn.calls_helper and insn.imm in self._read_only:
            # The argument registers keep their content. A just-in-time compiler may inline the
            # helper. The verifier then removes the instructions that save registers around it.
            registers[_RESULT] = Holds.OTHER
            return (at + 1,)
        if insn.code == isa.JMP | isa.JA:
            return (at + 1 + insn.off,)
        if insn.code == isa.JMP32 | isa.JA:
            return (at + 1 + insn.imm,)
        if insn.operation in _COMPARISONS:
            return (at + 1, at + 1 + insn.off)
        raise _MayWriteError
