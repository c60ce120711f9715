# SPDX-License-Identifier: Apache-2.0
"""A list of BPF instructions whose jumps lead to labels."""

from dataclasses import dataclass, field

from xdpscope.errors import XdpscopeError
from xdpscope.libbpf import Instruction
from xdpscope.libbpf import instruction as isa

Label = int | str

R0, R1, R2, R3, R4, R5 = range(6)
FRAME = 10

SIZES = {1: isa.B, 2: isa.H, 4: isa.W, 8: isa.DW}
_MAX_JUMP = 0x7FFF


class TooLongError(XdpscopeError):
    """A jump is farther than the 16 bits of an instruction allow."""


def signed(value: int) -> int:
    """Return the low 32 bits as an instruction holds them."""
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


@dataclass(slots=True)
class Assembler:
    """Collects instructions; ``assembled()`` resolves the labels."""

    _instructions: list[Instruction] = field(default_factory=list)
    _jumps: list[tuple[int, Label]] = field(default_factory=list)
    _labels: dict[Label, int] = field(default_factory=dict)

    def label(self, label: Label) -> None:
        """Put a label before the next instruction."""
        self._labels[label] = len(self._instructions)

    def leads_to(self, label: Label) -> bool:
        """Return whether a jump leads to a label."""
        return any(to == label for _, to in self._jumps)

    def emit(self, code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> None:
        """Append one instruction."""
        self._instructions.append(Instruction(code, dst, src, off, signed(imm)))

    def jump(self, to: Label, operation: int = isa.JA, dst: int = 0, imm: int = 0) -> None:
        """Jump, if 32 bits of a register compare like this with a constant."""
        self._jumps.append((len(self._instructions), to))
        self.emit((isa.JMP if operation == isa.JA else isa.JMP32) | operation | isa.K, dst, imm=imm)

    def jump_by(self, to: Label, operation: int, dst: int, src: int) -> None:
        """Jump, if 32 bits of two registers compare like this."""
        self._jumps.append((len(self._instructions), to))
        self.emit(isa.JMP32 | operation | isa.X, dst, src)

    def jump_if_below(self, to: Label, dst: int, limit: int) -> None:
        """Jump, if 64 bits of a register are less than a constant of 31 bits."""
        self._jumps.append((len(self._instructions), to))
        self.emit(isa.JMP | isa.JLT | isa.K, dst, imm=limit)

    def jump_if_above(self, to: Label, dst: int, src: int) -> None:
        """Jump, if 64 bits of one register are more than those of another."""
        self._jumps.append((len(self._instructions), to))
        self.emit(isa.JMP | isa.JGT | isa.X, dst, src)

    def jump_if_above_constant(self, to: Label, dst: int, limit: int) -> None:
        """Jump, if 64 bits of a register are more than a constant of 31 bits."""
        self._jumps.append((len(self._instructions), to))
        self.emit(isa.JMP | isa.JGT | isa.K, dst, imm=limit)

    def constant(self, dst: int, value: int) -> None:
        """Set a register to a constant of 32 bits; its upper half becomes 0."""
        self.emit(isa.ALU | isa.MOV | isa.K, dst, imm=value)

    def move(self, dst: int, src: int) -> None:
        """Copy 64 bits."""
        self.emit(isa.ALU64 | isa.MOV | isa.X, dst, src)

    def add(self, dst: int, value: int) -> None:
        """Add a signed constant of 32 bits to 64 bits, or to a pointer."""
        if value:
            self.emit(isa.ALU64 | isa.ADD | isa.K, dst, imm=value)

    def load(self, dst: int, base: int, offset: int, size: int) -> None:
        """Load from memory; the upper bytes become 0."""
        self.emit(isa.LDX | isa.MEM | SIZES[size], dst, base, offset)

    def store(self, base: int, offset: int, src: int, size: int) -> None:
        """Store a register to memory."""
        self.emit(isa.STX | isa.MEM | SIZES[size], base, src, offset)

    def store_zero(self, offset: int, size: int) -> None:
        """Store 0 to the stack."""
        self.emit(isa.ST | isa.MEM | SIZES[size], FRAME, off=offset)

    def from_network(self, register: int, size: int) -> None:
        """Convert 1, 2 or 4 bytes from the network's byte order to a number."""
        if size > 1:
            self.emit(isa.ALU | isa.END | isa.TO_BE, register, imm=8 * size)

    def assembled(self) -> list[Instruction]:
        """Return the instructions.

        Raises:
            TooLongError: a jump is too far.
        """
        found = list(self._instructions)
        for at, label in self._jumps:
            distance = self._labels[label] - at - 1
            if distance > _MAX_JUMP:
                raise TooLongError("the filter is too long")
            found[at] = found[at]._replace(off=distance)
        return found
