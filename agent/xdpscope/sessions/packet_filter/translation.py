# SPDX-License-Identifier: Apache-2.0
"""From classic BPF to BPF: the same result for every packet.

The translation behaves like a call of a helper; ``bpf/common/packet_filter.h`` has the convention.
r0 is A, r5 is X, r1 points to the packet, r2 is the length of the packet's first part. A call of
the kernel changes all of them: what is needed afterwards is kept on the stack.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xdpscope.errors import XdpscopeError
from xdpscope.libbpf import Instruction
from xdpscope.libbpf import instruction as isa
from xdpscope.sessions.packet_filter import classic
from xdpscope.sessions.packet_filter.assembler import FRAME, R0, R1, R2, R3, R5, Assembler, Label
from xdpscope.sessions.packet_filter.classic import Analysis, Classic

STACK = 512  # MAX_BPF_STACK of include/linux/filter.h: of a function and those that it calls
_FRAME_UNIT = 32  # in which the verifier counts the stack of each function
NEAR = 40
"""Packets with fewer bytes are rare."""
_KFUNC_CALL = 2  # BPF_PSEUDO_KFUNC_CALL
_MAX_OFFSET = 0x7F00  # that an instruction can hold, and some more

DROP, MAY_MATCH, _END = "drop", "may match", "end"
_OPPOSITE = {isa.JEQ: isa.JNE, isa.JGT: isa.JLE, isa.JGE: isa.JLT}


@dataclass(frozen=True, slots=True)
class Cast:
    """How a kernel's ``bpf_rdonly_cast`` is called: ids of its BTF."""

    function: int
    type: int
    """A structure that ends with an array of bytes of any length: the verifier then takes loads of
    any size at any offset behind its beginning (``btf_struct_walk()`` of kernel/bpf/btf.c)."""
    array: int
    """The offset of that array."""


def frame_size(depth: int) -> int:
    """Return what the verifier counts for a function that uses so many bytes of stack."""
    return -(-max(depth, 1) // _FRAME_UNIT) * _FRAME_UNIT


class StackError(XdpscopeError):
    """The filter needs more stack than the program leaves."""


class Translation:
    """The state of one translation, for kernels that load packet bytes."""

    def __init__(
        self, program: Sequence[Classic], cast: Cast | None, depth: int, above: int, *, ends: bool
    ) -> None:
        """Prepare it: see ``translate``. ``cast``: None if loads need none."""
        self._program, self._ends = program, ends
        self._is_plain = cast is None
        self._cast = cast or Cast(0, 0, 0)
        self._analysis = Analysis.of(program)
        self._out = Assembler()
        self._depth = -(-depth // 8) * 8
        # A function that the program calls may need as much as the program itself.
        self._room = STACK - frame_size(depth) - above
        self._slots: dict[str, int] = {}
        reached = [p for p, known in zip(program, self._analysis.before, strict=True) if known]
        self._loads = [each for each in reached if each.reads_packet and not each.never_there]
        self._copied: list[frozenset[int] | None] = [None] * len(program)
        self._there = self._bytes_to_check() if ends else 0
        """So many bytes of the packet are there, as a check at the beginning makes sure."""

    def run(self) -> list[Instruction]:
        """Translate everything."""
        out = self._out
        self._begin()
        self._copied[0] = frozenset()
        if self._is_drop(0):
            out.jump(DROP)
        for at, each in enumerate(self._program):
            if self._analysis.before[at] is None or self._is_drop(at):
                continue
            out.label(at)
            copied = self._one(at, each)
            for to in classic.successors(at, each):
                before = self._copied[to]
                self._copied[to] = copied if before is None else before & copied
        if out.leads_to(DROP):  # the verifier refuses what nothing leads to
            out.label(DROP)
            out.constant(R0, 0)
            # The verifier refuses what is behind a filter that ends it for all packets.
            if self._ends and (out.leads_to(MAY_MATCH) or out.leads_to(_END)):
                out.emit(isa.JMP | isa.EXIT)
        if out.leads_to(MAY_MATCH):
            out.label(MAY_MATCH)
            out.constant(R0, 1)
        out.label(_END)
        return out.assembled()

    # The stack

    def _reserve(self, size: int) -> int:
        """Return the offset of new bytes, a multiple of eight."""
        self._depth += -(-size // 8) * 8
        if self._depth > self._room:
            raise StackError("the filter needs more stack than there is")
        return -self._depth

    def _slot(self, name: str) -> int:
        """Return the offset of the eight bytes of this name."""
        if name not in self._slots:
            self._slots[name] = self._reserve(8)
        return self._slots[name]

    def _keep(self, name: str, register: int) -> None:
        self._out.store(FRAME, self._slot(name), register, 8)

    def _fetch(self, register: int, name: str) -> None:
        self._out.load(register, FRAME, self._slot(name), 8)

    # Everything but packet bytes

    def _begin(self) -> None:
        out = self._out
        if self._loads and not self._is_plain:
            self._keep("linear", R2)
            if any(each.reads_length for each in self._program):
                out.emit(isa.ALU | isa.MOV | isa.X, R3, R3)  # cuts it at 32 bits
                self._keep("length", R3)
            self._begin_reading()
        if self._there:
            out.jump_if_below(MAY_MATCH, R2, self._there)
        for name in sorted(self._analysis.unwritten):
            if name == "A":
                out.constant(R0, 0)
            elif name == "X":
                out.constant(R5, 0)
            else:
                out.store_zero(self._slot(name), 8)

    def _is_drop(self, at: int) -> bool:
        """Return whether the instruction only returns 0: all of these become one."""
        return self._program[at].code == classic.RET | isa.K and self._program[at].k == 0

    def _target(self, at: int) -> Label:
        return DROP if self._is_drop(at) else at

    def _one(self, at: int, each: Classic) -> frozenset[int]:
        """Translate one instruction; return which windows have been copied after it."""
        copied = self._copied[at] or frozenset()
        if each.never_there:
            self._out.jump(DROP)
        elif each.reads_packet:
            copied = self._load_packet(at, each, copied)
        elif each.klass in (isa.LD, isa.LDX):
            self._load(each)
        elif each.klass in (isa.ST, isa.STX):
            self._keep(f"M{each.k}", R0 if each.klass == isa.ST else R5)
        elif each.klass == isa.ALU:
            self._alu(each)
        elif each.klass == isa.JMP:
            self._jump(at, each)
        elif each.klass == classic.MISC:
            self._out.move(*((R5, R0) if each.code == classic.MISC | classic.TAX else (R0, R5)))
        else:
            if each.code == classic.RET | isa.K:
                self._out.constant(R0, each.k)
            self._out.jump(_END)
        if (at + 1,) == classic.successors(at, each) and each.klass != isa.JMP:
            self._go(at, at + 1)
        return copied

    def _load(self, each: Classic) -> None:
        register = R0 if each.klass == isa.LD else R5
        if each.mode == isa.IMM:
            self._out.constant(register, each.k)
        elif each.mode == isa.MEM:
            self._fetch(register, f"M{each.k}")
        elif self._loads and not self._is_plain:
            self._fetch(register, "length")
        else:
            self._out.emit(isa.ALU | isa.MOV | isa.X, register, R3)

    def _alu(self, each: Classic) -> None:
        out, operation = self._out, each.operation
        if operation == isa.NEG:
            out.emit(isa.ALU | isa.NEG, R0)
            return
        code = isa.ALU | operation
        shifts = operation in (isa.LSH, isa.RSH)
        if not each.by_x:
            if shifts and each.k > 31:
                out.constant(R0, 0)
            else:
                out.emit(code | isa.K, R0, imm=each.k)
            return
        if operation in (isa.DIV, isa.MOD):
            out.jump(DROP, isa.JEQ, R5, 0)
        if shifts:
            out.emit(isa.JMP32 | isa.JLT | isa.K, R5, off=2, imm=32)
            out.constant(R0, 0)
            out.emit(isa.JMP | isa.JA, off=1)
        out.emit(code | isa.X, R0, R5)

    def _jump(self, at: int, each: Classic) -> None:
        out = self._out
        if each.operation == isa.JA:
            self._go(at, at + 1 + each.k)
            return
        yes, no = at + 1 + each.jt, at + 1 + each.jf
        if yes == no:
            self._go(at, yes)
            return
        operation = each.operation
        if yes == at + 1 and operation in _OPPOSITE:
            yes, no, operation = no, yes, _OPPOSITE[operation]
        if each.by_x:
            out.jump_by(self._target(yes), operation, R0, R5)
        else:
            out.jump(self._target(yes), operation, R0, self._constant(at, each))
        self._go(at, no)

    def _constant(self, at: int, each: Classic) -> int:
        """Return what A is compared with: bytes as they are in the packet, if A is that."""
        size = self._analysis.compared.get(at)
        if size is None:
            return each.k
        value = each.k
        if value >> 8 * size:
            if each.operation == isa.JEQ:
                return value  # more than was loaded: not equal
            value &= (1 << 8 * size) - 1
        return int.from_bytes(value.to_bytes(size, "big"), "little")

    def _go(self, at: int, to: int) -> None:
        """Go on with instruction ``to``, after what was translated of ``at``."""
        if to != at + 1 or self._is_drop(to):
            self._out.jump(self._target(to))

    # Packet bytes

    def _bytes_to_check(self) -> int:
        """Return how many bytes all but the shortest packets have, of those that are loaded."""
        ends = (each.end for each in self._loads if not each.is_indirect)
        return max((end for end in ends if end <= NEAR), default=0)

    def _begin_reading(self) -> None:
        """Have a pointer in r1 that may be loaded from, and keep r2."""
        self._out.add(R1, -self._cast.array)
        self._call_cast()
        self._out.move(R1, R0)
        self._fetch(R2, "linear")

    def _load_packet(self, at: int, each: Classic, copied: frozenset[int]) -> frozenset[int]:
        """Translate a load; return which windows have been copied after it."""
        register = R5 if each.klass == isa.LDX else R0
        copied = self._load_bytes(at, each, register, copied)
        if each.klass == isa.LDX:
            self._out.emit(isa.ALU | isa.AND | isa.K, R5, imm=15)
            self._out.emit(isa.ALU | isa.LSH | isa.K, R5, imm=2)
        return copied

    def _load_bytes(
        self, at: int, each: Classic, register: int, copied: frozenset[int]
    ) -> frozenset[int]:
        """Load into ``register``; return which windows have been copied afterwards."""
        self._check_length(at, each)
        if each.is_indirect:
            self._load_at_end(at, each)
        else:
            self._load_from(R1, each.k, register, each.size)
        self._to_number(at, each, register)
        return copied

    def _check_length(self, at: int, each: Classic) -> None:
        """End the program if the bytes of a load are not there; r0 is its end if it is indirect."""
        out, known = self._out, self._analysis.before[at]
        if each.is_indirect:
            self._fetch_linear()
            out.move(R0, R5)
            out.add(R0, each.end)
            out.jump_if_above(DROP, R0, R2)
        elif max(self._there, known.length if known else 0) < each.end:
            self._fetch_linear()
            out.jump_if_below(DROP, R2, each.end)

    def _fetch_linear(self) -> None:
        """Have the length of the packet's first part in r2."""

    def _to_number(self, at: int, each: Classic, register: int) -> None:
        """Convert what was loaded, unless what it is compared with is converted instead."""
        if at not in self._analysis.compared:
            self._out.from_network(register, each.size)

    def _load_from(self, base: int, offset: int, register: int, size: int) -> None:
        """Load from the packet, of which ``base`` is the beginning."""
        out, offset = self._out, offset + self._cast.array
        if offset > _MAX_OFFSET:
            out.move(register, base)
            out.add(register, offset - self._cast.array)
            base, offset = register, self._cast.array
        out.load(register, base, offset, size)

    def _load_at_end(self, at: int, each: Classic) -> None:
        """Load the bytes before the packet's offset r0 into r0."""
        out = self._out
        if self._is_plain:
            out.emit(isa.ALU64 | isa.ADD | isa.X, R0, R1)
            out.load(R0, R0, -each.size, each.size)
            return
        after = self._analysis.needed_after[at]
        out.jump_if_above_constant(DROP, R0, classic.MAX_LINEAR)  # the verifier adds no more
        if "X" in after:
            self._keep("X", R5)
        if "packet" in after:
            self._keep("base", R1)
        out.emit(isa.ALU64 | isa.ADD | isa.X, R1, R0)
        out.add(R1, -each.size)
        self._call_cast()
        self._load_from(R0, 0, R0, each.size)
        if "packet" in after:
            self._fetch(R1, "base")
            self._fetch(R2, "linear")
        if "X" in after:
            self._fetch(R5, "X")

    def _call_cast(self) -> None:
        """Make r0 a pointer to ``Cast.type`` at r1."""
        self._out.constant(R2, self._cast.type)
        self._out.emit(isa.JMP | isa.CALL, src=_KFUNC_CALL, imm=self._cast.function)
