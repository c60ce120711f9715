# SPDX-License-Identifier: Apache-2.0
"""The translation for kernels that copy packet bytes to the stack before they are read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from xdpscope.libbpf import instruction as isa
from xdpscope.sessions.packet_filter import classic
from xdpscope.sessions.packet_filter.assembler import FRAME, R0, R1, R2, R3, R5
from xdpscope.sessions.packet_filter.classic import Classic
from xdpscope.sessions.packet_filter.translation import DROP, MAY_MATCH, NEAR, Translation

_WINDOWS = 128
"""Bytes of the stack that copies of packet bytes may take."""
_WINDOW_STEP = NEAR
"""Bytes at offsets 0 to 39 are copied together, then those from 40 to 79, and so on: most IPv4
packets are decided with the first copy."""
_BEHIND_HEADER = 1 << 32
"""The number of the window for loads that depend on X, behind those of all others. It is used if X
is ``_USUAL_HEADER``."""

_PROBE_READ_KERNEL = 113  # BPF_FUNC_probe_read_kernel
_USUAL_HEADER = 20  # bytes of an IPv4 header without options


@dataclass(frozen=True, slots=True)
class _Window:
    """A part of the packet that is copied to the stack as a whole."""

    begin: int
    end: int
    stack: int  # the offset of its first byte from the frame pointer
    words: range  # offsets of the eight-byte words that it lies in


class CopyingTranslation(Translation):
    """The state of one translation that copies."""

    def __init__(self, program: Sequence[Classic], depth: int, above: int, *, ends: bool) -> None:
        """Prepare it: see ``translate``."""
        super().__init__(program, None, depth, above, ends=ends)
        self._is_plain = False
        self._windows = self._find_windows()
        self._usual = self._x_needed = [False] * len(program)
        if ends and _BEHIND_HEADER in self._windows:
            self._usual, self._x_needed = self._find_usual()

    def _bytes_to_check(self) -> int:
        ends = (_at_usual_place(each).end for each in self._loads)
        return max((end for end in ends if end <= NEAR), default=0)

    def _begin_reading(self) -> None:
        self._keep("data", R1)

    def _fetch_linear(self) -> None:
        self._fetch(R2, "linear")  # a copy leaves something else there

    def _one(self, at: int, each: Classic) -> frozenset[int]:
        if self._usual[at] and "X" in each.reads and not self._is_behind_header(each):
            self._out.constant(R5, _USUAL_HEADER)
        copied = super()._one(at, each)
        return copied - {_BEHIND_HEADER} if each.writes == "X" else copied

    def _find_windows(self) -> dict[int, _Window]:
        """Return the parts of the packet that are copied as a whole, by their number."""
        parts: dict[int, list[Classic]] = {}
        for each in self._loads:
            number = _BEHIND_HEADER if each.is_indirect else each.k // _WINDOW_STEP
            if number != _BEHIND_HEADER or each.k < _WINDOW_STEP:
                parts.setdefault(number, []).append(_at_usual_place(each))
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

    def _load_bytes(
        self, at: int, each: Classic, register: int, copied: frozenset[int]
    ) -> frozenset[int]:
        if self._is_behind_header(each):
            return self._load_behind_header(at, each, register, copied)
        number = each.k // _WINDOW_STEP
        window = None if each.is_indirect else self._windows.get(number)
        if window is None:
            self._check_length(at, each)
            self._copy_one(at, each, register)
            return copied
        self._load_from_window(at, each, register, window, number in copied)
        return copied | {number}

    def _is_behind_header(self, each: Classic) -> bool:
        """Return whether a load has a window to be taken from if X is as usual."""
        return each.is_indirect and each.k < _WINDOW_STEP and _BEHIND_HEADER in self._windows

    def _find_usual(self) -> tuple[list[bool], list[bool]]:
        """Return for each instruction whether X is certainly as usual before it, and whether later
        ones read X from its register.
        """
        program = self._program
        usual, needed = [True] * len(program), [False] * len(program)
        usual[0] = False
        for at, each in enumerate(program):
            after = (usual[at] or self._is_behind_header(each)) and each.writes != "X"
            for to in classic.successors(at, each) if self._analysis.before[at] else ():
                usual[to] = usual[to] and after
        needed_after = list(needed)
        for at in reversed(range(len(program))):
            each = program[at]
            needed_after[at] = any(needed[to] for to in classic.successors(at, each))
            reads = "X" in each.reads and not usual[at]
            needed[at] = reads or (needed_after[at] and each.writes != "X")
        return usual, needed_after

    def _load_behind_header(
        self, at: int, each: Classic, register: int, copied: frozenset[int]
    ) -> frozenset[int]:
        """Load what is in that window if X is as usual."""
        out, window, is_copied = self._out, self._windows[_BEHIND_HEADER], _BEHIND_HEADER in copied
        usual = _at_usual_place(each)
        elsewhere, done = f"elsewhere {at}", f"done {at}"
        if not self._usual[at]:
            out.jump(MAY_MATCH if self._ends else elsewhere, isa.JNE, R5, _USUAL_HEADER)
        self._load_from_window(at, usual, register, window, is_copied)
        if not self._ends:
            out.jump(done)
            out.label(elsewhere)
            if not is_copied:  # the verifier does not see that X is the same later on
                for word in window.words:
                    out.store_zero(word, 8)
            self._check_length(at, each)
            self._copy_one(at, each, register)
            out.label(done)
        return copied | {_BEHIND_HEADER}

    def _load_from_window(
        self, at: int, each: Classic, register: int, window: _Window, is_copied: bool
    ) -> None:
        """Load from the copy of a window, after copying it if need be."""
        if not self._ends:
            self._check_length(at, each)
        if not is_copied:
            self._copy_window(at, each, window)
        self._load_from_stack(at, register, window.stack + each.k - window.begin, each.size)

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
        self._to_number(at, each, register)

    def _copy_window(self, at: int, each: Classic, window: _Window) -> None:
        """Copy a part of the packet, or as much as is there: at least the bytes of this load."""
        out = self._out
        short, ready = f"short {at}", f"ready {at}"
        if not self._ends or window.end > self._there:
            self._fetch_linear()
            out.jump_if_below(MAY_MATCH if self._ends else short, R2, window.end)
        out.constant(R2, window.end - window.begin)
        if not self._ends:
            out.jump(ready)
            out.label(short)
            for word in window.words:
                out.store_zero(word, 8)
            out.jump_if_below(DROP, R2, each.end)  # kernel 5.10 does not remember this
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
        x_is_usual = self._usual[at] or (self._ends and self._is_behind_header(each))
        if x_is_usual:
            kept = [(name, register) for name, register in kept if name != "X"]
        for name, register in kept:
            self._keep(name, register)
        out.move(R1, FRAME)
        out.add(R1, stack)
        out.emit(isa.JMP | isa.CALL, imm=_PROBE_READ_KERNEL)
        for name, register in kept:
            self._fetch(register, name)
        if x_is_usual and self._x_needed[at]:
            out.constant(R5, _USUAL_HEADER)

    def _load_from_stack(self, at: int, register: int, offset: int, size: int) -> None:
        """Load for instruction ``at`` from the stack; the bytes may lie unaligned."""
        out = self._out
        as_it_is = at in self._analysis.compared
        step = next(each for each in (4, 2, 1) if each <= size and offset % each == 0)
        out.load(register, FRAME, offset, step)
        if step == size and as_it_is:
            return
        out.from_network(register, step)
        for part in range(step, size, step):
            out.load(R3, FRAME, offset + part, step)
            out.from_network(R3, step)
            out.emit(isa.ALU | isa.LSH | isa.K, register, imm=8 * step)
            out.emit(isa.ALU | isa.OR | isa.X, register, R3)
        if as_it_is:
            out.from_network(register, size)


def _at_usual_place(each: Classic) -> Classic:
    """Return a load as it is if X is the size of an IPv4 header without options."""
    if not each.is_indirect:
        return each
    return Classic(isa.LD | each.code & 0x18 | classic.ABS, 0, 0, each.k + _USUAL_HEADER)
