# SPDX-License-Identifier: Apache-2.0
"""Classic BPF: its instructions, and what can be known of a program without running it.

The semantics are those of libpcap's ``bpf_filter()``. All jumps lead forward, so one pass over the
instructions sees every instruction after all of its predecessors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xdpscope.libbpf import instruction as isa

# What classic BPF alone has: linux/bpf_common.h and linux/filter.h. Everything else is as in BPF.
RET, MISC = 0x06, 0x07
ABS, IND, LEN, MSH = 0x20, 0x40, 0x80, 0xA0
A = 0x10
TAX, TXA = 0x00, 0x80

SIZES = {isa.W: 4, isa.H: 2, isa.B: 1}
MEMORY_WORDS = 16
MAX_INSTRUCTIONS = 4096
"""``BPF_MAXINSNS``: no kernel takes a longer classic program."""

MAX_LINEAR = 1 << 24
"""More bytes than the first part of a packet ever has: bytes behind are never there."""

_ARITHMETIC = (
    isa.ADD,
    isa.SUB,
    isa.MUL,
    isa.DIV,
    isa.MOD,
    isa.OR,
    isa.AND,
    isa.XOR,
    isa.LSH,
    isa.RSH,
)
# Comparisons that may be made in any order of bytes.
_PER_BYTE = (isa.JMP | isa.JEQ | isa.K, isa.JMP | isa.JSET | isa.K)
_LOADS = (
    {isa.LD | size | mode for size in SIZES for mode in (ABS, IND)}
    | {isa.LDX | MSH | isa.B}
    | {kind | mode for kind in (isa.LD, isa.LDX) for mode in (isa.IMM, isa.MEM, LEN)}
)
_CODES = (
    _LOADS
    | {
        isa.ST,
        isa.STX,
        MISC | TAX,
        MISC | TXA,
        RET | isa.K,
        RET | A,
        isa.JMP | isa.JA,
        isa.ALU | isa.NEG,
    }
    | {isa.ALU | operation | source for operation in _ARITHMETIC for source in (isa.K, isa.X)}
    | {
        isa.JMP | operation | source
        for operation in (isa.JEQ, isa.JGT, isa.JGE, isa.JSET)
        for source in (isa.K, isa.X)
    }
)


class Classic(NamedTuple):
    """One instruction: ``struct bpf_insn`` of libpcap, ``struct sock_filter`` of the kernel."""

    code: int
    jt: int
    jf: int
    k: int

    @property
    def klass(self) -> int:
        """Return the class, such as ``LD``."""
        return self.code & 0x07

    @property
    def operation(self) -> int:
        """Return the operation of an ``ALU`` or ``JMP`` instruction."""
        return self.code & 0xF0

    @property
    def by_x(self) -> bool:
        """Return whether the operand of an ``ALU`` or ``JMP`` instruction is the register X."""
        return bool(self.code & isa.X)

    @property
    def mode(self) -> int:
        """Return the addressing mode of a load."""
        return self.code & 0xE0

    @property
    def size(self) -> int:
        """Return how many bytes a load from the packet reads."""
        return SIZES[self.code & 0x18]

    @property
    def reads_packet(self) -> bool:
        """Return whether this is a load of packet bytes."""
        return self.klass in (isa.LD, isa.LDX) and self.mode in (ABS, IND, MSH)

    @property
    def is_indirect(self) -> bool:
        """Return whether this is a load of packet bytes at an offset that depends on X."""
        return self.klass == isa.LD and self.mode == IND

    @property
    def end(self) -> int:
        """Return how long a packet must be for this load, if X is 0."""
        return self.k + self.size

    @property
    def reads_length(self) -> bool:
        """Return whether this is a load of the packet's length."""
        return self.klass in (isa.LD, isa.LDX) and self.mode == LEN

    @property
    def never_there(self) -> bool:
        """Return whether this load ends the program, whatever the packet."""
        return self.reads_packet and self.end > MAX_LINEAR

    @property
    def divides_by_zero(self) -> bool:
        """Return whether this is a division by the constant 0."""
        return (
            self.klass == isa.ALU
            and self.operation in (isa.DIV, isa.MOD)
            and not self.by_x
            and self.k == 0
        )

    @property
    def reads(self) -> frozenset[str]:
        """Return the registers and memory words that it reads: ``A``, ``X``, ``M3`` …"""
        found = set()
        if self.klass in (isa.LD, isa.LDX) and self.mode == isa.MEM:
            found.add(f"M{self.k}")
        if self.is_indirect or self.code in (isa.STX, MISC | TXA):
            found.add("X")
        if self.klass in (isa.ALU, isa.JMP) and self.code != isa.JMP | isa.JA:
            found.add("A")
            if self.by_x:
                found.add("X")
        if self.code in (isa.ST, MISC | TAX, RET | A):
            found.add("A")
        return frozenset(found)

    @property
    def writes(self) -> str | None:
        """Return the register or memory word that the instruction writes, if any."""
        if self.klass in (isa.LD, isa.ALU) or self.code == MISC | TXA:
            return "A"
        if self.klass == isa.LDX or self.code == MISC | TAX:
            return "X"
        if self.klass in (isa.ST, isa.STX):
            return f"M{self.k}"
        return None


def check(program: Sequence[Classic]) -> str | None:
    """Return why a program cannot be run, or None.

    Accepts what libpcap's ``bpf_validate()`` accepts, except backward jumps (only ``protochain``
    has them) and codes that ``bpf_filter()`` does not know.
    """
    if not 1 <= len(program) <= MAX_INSTRUCTIONS:
        return f"it has {len(program)} instructions; 1 to {MAX_INSTRUCTIONS} are allowed"
    for at, each in enumerate(program):
        if each.code not in _CODES:
            return f"instruction {at} has the unknown code {each.code:#x}"
        memory = each.klass in (isa.ST, isa.STX) or (
            each.klass in (isa.LD, isa.LDX) and each.mode == isa.MEM
        )
        if memory and each.k >= MEMORY_WORDS:
            return f"instruction {at} uses the memory word {each.k}; there are {MEMORY_WORDS}"
        if each.divides_by_zero:
            return f"instruction {at} divides by the constant 0"
        if max(_jumps(at, each), default=0) >= len(program):
            return f"instruction {at} jumps behind the end"
    return None if program[-1].klass == RET else "its last instruction does not return"


def _jumps(at: int, each: Classic) -> tuple[int, ...]:
    """Return where a jump leads."""
    if each.klass != isa.JMP:
        return ()
    if each.operation == isa.JA:
        return (at + 1 + each.k,)
    return at + 1 + each.jt, at + 1 + each.jf


def successors(at: int, each: Classic) -> tuple[int, ...]:
    """Return which instructions can follow instruction ``at``."""
    if each.klass == RET or each.never_there:
        return ()
    return _jumps(at, each) or (at + 1,)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known before an instruction, on every way to it."""

    length: int
    """The packet's first part has at least so many bytes."""
    written: frozenset[str]
    """Registers and memory words that the program has written."""

    def after(self, each: Classic) -> "Known":
        """Return what is known after the instruction."""
        length = max(self.length, each.end) if each.reads_packet else self.length
        return Known(length, self.written | ({each.writes} if each.writes else set()))

    def and_also(self, other: "Known | None") -> "Known":
        """Return what is known on both ways."""
        if other is None:
            return self
        return Known(min(self.length, other.length), self.written & other.written)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is known of a program."""

    before: tuple[Known | None, ...]
    """For each instruction; None: no way leads to it."""
    needed_after: tuple[frozenset[str], ...]
    """For each instruction, what later ones read: registers, memory, and ``packet``."""
    unwritten: frozenset[str]
    """What is read before it is written: it has to be 0."""
    compared: Mapping[int, int]
    """Loads of packet bytes whose result is only compared with constants, byte by byte, and the
    instructions that compare it. Each with the size of these loads."""

    @classmethod
    def of(cls, program: Sequence[Classic]) -> "Analysis":
        """Analyse a program that ``check()`` accepts."""
        before: list[Known | None] = [None] * len(program)
        before[0] = Known(0, frozenset())
        unwritten: set[str] = set()
        for at, each in enumerate(program):
            known = before[at]
            if known is None:
                continue
            unwritten |= each.reads - known.written
            for to in successors(at, each):
                before[to] = known.after(each).and_also(before[to])
        needed: list[frozenset[str]] = [frozenset()] * len(program)
        needed_after = list(needed)
        for at in reversed(range(len(program))):
            each = program[at]
            after: frozenset[str] = frozenset().union(*(needed[i] for i in successors(at, each)))
            own = each.reads | ({"packet"} if each.reads_packet else set())
            needed_after[at] = after
            needed[at] = (after - {each.writes}) | own
        compared = _compared(program, [known is not None for known in before])
        return cls(tuple(before), tuple(needed_after), frozenset(unwritten), compared)


def _compared(program: Sequence[Classic], reached: Sequence[bool]) -> dict[int, int]:
    """Return ``Analysis.compared``."""
    sources: list[set[int]] = [set() for _ in program]  # where A may come from; -1: the beginning
    sources[0].add(-1)
    for at, each in enumerate(program):
        after = {at} if each.writes == "A" else sources[at]
        for to in successors(at, each) if reached[at] else ():
            sources[to] |= after
    uses = [at for at, each in enumerate(program) if reached[at] and "A" in each.reads]
    found = {
        at
        for at, each in enumerate(program)
        if reached[at] and each.reads_packet and each.klass == isa.LD
    }
    for _ in range(len(found) + 1):
        refused = set[int]()
        for use in uses:
            of = sources[use]
            alike = of <= found and len({program[at].size for at in of}) == 1
            if not alike or program[use].code not in _PER_BYTE:
                refused |= of
        if not refused & found:
            break
        found -= refused
    sizes = {at: program[at].size for at in found}
    return sizes | {use: sizes[max(sources[use])] for use in uses if sources[use] <= found}
