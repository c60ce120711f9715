# SPDX-License-Identifier: Apache-2.0
"""From classic BPF to BPF: the same result for every packet.

The translation behaves like a call of a helper; ``bpf/common/packet_filter.h`` has the convention.
r0 is A, r5 is X, r1 points to the packet, r2 is the length of the packet's first part. A call of
the kernel changes all of them: what is needed afterwards is kept on the stack.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xdpscope.errors import XdpscopeError
from xdpscope.libbpf import Instruction
from xdpscope.libbpf import instruction as isa
from xdpscope.sessions.packet_filter import classic
from xdpscope.sessions.packet_filter.assembler import FRAME, R0, R1, R2, R3, R5, Assembler, Label
from xdpscope.sessions.packet_filter.classic import Analysis, Classic

Reader = Literal["plain", "cast", "copy"]
"""How a kernel lets a tracer read packet bytes, from the cheapest.

``plain``: through ``xdp->data`` itself (Linux 7.0 or so). ``cast``: through ``bpf_rdonly_cast``
(6.2). ``copy``: with ``bpf_probe_read_kernel`` (5.5). Load a program to find what a kernel takes.
"""

STACK = 512  # MAX_BPF_STACK of include/linux/filter.h: of a function and those that it calls
_FRAME_UNIT = 32  # in which the verifier counts the stack of each function
_WINDOWS = 128
"""Bytes of the stack that copies of packet bytes may take."""
_WINDOW_STEP = 40
"""Bytes at offsets 0 to 39 are copied together, then those from 40 to 79, and so on: most IPv4
packets are decided with the first copy."""

_PROBE_READ_KERNEL = 113  # BPF_FUNC_probe_read_kernel
_KFUNC_CALL = 2  # BPF_PSEUDO_KFUNC_CALL
_MAX_OFFSET = 0x7F00  # that an instruction can hold, and some more

_DROP, _END = "drop", "end"
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


class StackError(XdpscopeError):
    """The filter needs more stack than the program leaves."""


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of the packet that is copied to the stack as a whole."""

    begin: int
    end: int
    stack: int  # the offset of its first byte from the frame pointer
    words: range  # offsets of the eight-byte words that it lies in


def translate(
    program: Sequence[Classic], reader: Reader, cast: Cast | None = None, depth: int = 0
) -> list[Instruction]:
    """Return instructions that compute what ``bpf_filter()`` returns.

    Args:
        program: One that ``classic.check()`` accepts.
        reader: How packet bytes are read.
        cast: For the reader ``cast``.
        depth: How many bytes below the frame pointer the program's functions use.

    Raises:
        StackError: too little stack is left.
        TooLongError: the program is too long for the jumps of BPF.
    """
    return _Translation(program, reader, cast, depth).run()


class _Translation:
    """The state of one translation."""

    def __init__(
        self, program: Sequence[Classic], reader: Reader, cast: Cast | None, depth: int
    ) -> None:
        self._program, self._reader = program, reader
        self._cast = cast if reader == "cast" and cast else Cast(0, 0, 0)
        self._analysis = Analysis.of(program)
        self._out = Assembler()
        self._depth = -(-depth // 8) * 8
        # A function that the program calls may need as much as the program itself.
        self._room = STACK - -(-depth // _FRAME_UNIT) * _FRAME_UNIT
        self._slots: dict[str, int] = {}
        reached = [p for p, known in zip(program, self._analysis.before, strict=True) if known]
        self._loads = [each for each in reached if each.reads_packet and not each.never_there]
        self._calls = bool(self._loads) and reader != "plain"
        self._windows = self._find_windows() if reader == "copy" else {}
        self._copied: list[frozenset[int] | None] = [None] * len(program)

    def run(self) -> list[Instruction]:
        """Translate everything."""
        out = self._out
        self._begin()
        self._copied[0] = frozenset()
        if self._is_drop(0):
            out.jump(_DROP)
        for at, each in enumerate(self._program):
            if self._analysis.before[at] is None or self._is_drop(at):
                continue
            out.label(at)
            copied = self._one(at, each)
            for to in classic.successors(at, each):
                before = self._copied[to]
                self._copied[to] = copied if before is None else before & copied
        if out.leads_to(_DROP):  # the verifier refuses what nothing leads to
            out.label(_DROP)
            out.constant(R0, 0)
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
        if self._calls:
            self._keep("linear", R2)
            if any(each.reads_length for each in self._program):
                out.emit(isa.ALU | isa.MOV | isa.X, R3, R3)  # cuts it at 32 bits
                self._keep("length", R3)
            if self._reader == "copy":
                self._keep("data", R1)
            else:
                out.add(R1, -self._cast.array)
                self._call_cast()
                out.move(R1, R0)
                self._fetch(R2, "linear")
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
        return _DROP if self._is_drop(at) else at

    def _one(self, at: int, each: Classic) -> frozenset[int]:
        """Translate one instruction; return which windows have been copied after it."""
        copied = self._copied[at] or frozenset()
        if each.never_there:
            self._out.jump(_DROP)
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
        elif self._calls:
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
            out.jump(_DROP, isa.JEQ, R5, 0)
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
            out.jump(self._target(yes), operation, R0, each.k)
        self._go(at, no)

    def _go(self, at: int, to: int) -> None:
        """Go on with instruction ``to``, after what was translated of ``at``."""
        if to != at + 1 or self._is_drop(to):
            self._out.jump(self._target(to))

    # Packet bytes

    def _load_packet(self, at: int, each: Classic, copied: frozenset[int]) -> frozenset[int]:
        """Translate a load; return which windows have been copied after it."""
        out, known = self._out, self._analysis.before[at]
        if each.is_indirect:
            out.move(R0, R5)
            out.add(R0, each.end)
            out.jump_if_above(_DROP, R0, R2)
        elif known is None or known.length < each.end:
            out.jump_if_below(_DROP, R2, each.end)
        register = R5 if each.klass == isa.LDX else R0
        if self._reader == "copy":
            copied = self._load_by_copy(at, each, register, copied)
        else:
            if each.is_indirect:
                self._load_at_end(at, each)
            else:
                self._load_from(R1, each.k, register, each.size)
            out.from_network(register, each.size)
        if each.klass == isa.LDX:
            out.emit(isa.ALU | isa.AND | isa.K, R5, imm=15)
            out.emit(isa.ALU | isa.LSH | isa.K, R5, imm=2)
        return copied

    def _load_from(self, base: int, offset: int, register: int, size: int) -> None:
        """Load from the packet, of which ``base`` is the beginning."""
        out, offset = self._out, offset + self._cast.array
        if offset > _MAX_OFFSET:
            out.move(register, base)
            out.add(register, offset - self._cast.array)
            base, offset = register, self._cast.array
        out.load(register, base, offset, size)

    def _load_at_end(self, at: int, each: Classic) -> None:
        """Load the bytes before the packet's offset r0 into r0, not by copying."""
        out = self._out
        if self._reader == "plain":
            out.emit(isa.ALU64 | isa.ADD | isa.X, R0, R1)
            out.load(R0, R0, -each.size, each.size)
            return
        after = self._analysis.needed_after[at]
        out.jump_if_above_constant(_DROP, R0, classic.MAX_LINEAR)  # the verifier adds no more
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

    # Copies

    def _find_windows(self) -> dict[int, _Window]:
        """Return the parts of the packet that are copied as a whole, by their number."""
        parts: dict[int, list[Classic]] = {}
        for each in self._loads:
            if not each.is_indirect:
                parts.setdefault(each.k // _WINDOW_STEP, []).append(each)
        found, room = {}, _WINDOWS
        for number, loads in sorted(parts.items()):
            begin, end = min(load.k for load in loads), max(load.end for load in loads)
            # The verifier takes aligned loads from the stack only: align most of the longest.
            longest = max(load.size for load in loads)
            usual = Counter(load.k % longest for load in loads if load.size == longest)
            skipped = (begin - usual.most_common(1)[0][0]) % longest
            size = -(-(skipped + end - begin) // 8) * 8
            if size > room:
                break
            room -= size
            first = self._reserve(size)
            found[number] = _Window(begin, end, first + skipped, range(first, first + size, 8))
        return found

    def _load_by_copy(
        self, at: int, each: Classic, register: int, copied: frozenset[int]
    ) -> frozenset[int]:
        """Load into ``register``; return which windows have been copied afterwards."""
        number = each.k // _WINDOW_STEP
        window = None if each.is_indirect else self._windows.get(number)
        if window is None:
            self._copy_one(at, each, register)
            return copied
        if number not in copied:
            self._copy_window(at, each, window)
        self._load_from_stack(register, window.stack + each.k - window.begin, each.size)
        return copied | {number}

    def _copy_one(self, at: int, each: Classic, register: int) -> None:
        """Copy the bytes of one load, before offset r0 if it is indirect."""
        out = self._out
        self._fetch(R3, "data")
        if each.is_indirect:
            out.emit(isa.ALU64 | isa.ADD | isa.X, R3, R0)
            out.add(R3, -each.size)
        else:
            out.add(R3, each.k)
        out.constant(R2, each.size)
        self._call_copy(at, each, self._slot("copy"))
        out.load(register, FRAME, self._slot("copy"), each.size)
        out.from_network(register, each.size)

    def _copy_window(self, at: int, each: Classic, window: _Window) -> None:
        """Copy a part of the packet, or as much as is there: at least the bytes of this load."""
        out = self._out
        short, ready = f"short {at}", f"ready {at}"
        out.jump_if_below(short, R2, window.end)
        out.constant(R2, window.end - window.begin)
        out.jump(ready)
        out.label(short)
        for word in window.words:
            out.store_zero(word, 8)
        out.jump_if_below(_DROP, R2, each.end)  # kernel 5.10 does not remember this
        out.add(R2, -window.begin)
        out.label(ready)
        self._fetch(R3, "data")
        out.add(R3, window.begin)
        self._call_copy(at, each, window.stack)

    def _call_copy(self, at: int, each: Classic, stack: int) -> None:
        """Copy r2 bytes at r3 to the stack; keep what later instructions need."""
        out, after = self._out, self._analysis.needed_after[at]
        kept = [(name, register) for name, register in (("A", R0), ("X", R5)) if name in after]
        kept = [(name, register) for name, register in kept if name != each.writes]
        for name, register in kept:
            self._keep(name, register)
        out.move(R1, FRAME)
        out.add(R1, stack)
        out.emit(isa.JMP | isa.CALL, imm=_PROBE_READ_KERNEL)
        if "packet" in after:
            self._fetch(R2, "linear")
        for name, register in kept:
            self._fetch(register, name)

    def _load_from_stack(self, register: int, offset: int, size: int) -> None:
        """Load a number in the network's byte order, which may lie unaligned."""
        out = self._out
        step = next(each for each in (4, 2, 1) if each <= size and offset % each == 0)
        out.load(register, FRAME, offset, step)
        out.from_network(register, step)
        for part in range(step, size, step):
            out.load(R3, FRAME, offset + part, step)
            out.from_network(R3, step)
            out.emit(isa.ALU | isa.LSH | isa.K, register, imm=8 * step)
            out.emit(isa.ALU | isa.OR | isa.X, register, R3)
