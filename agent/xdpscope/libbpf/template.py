# SPDX-License-Identifier: Apache-2.0
"""A loaded program's instructions, to be loaded again with other maps and constants.

Opening and loading a whole object for each target costs a hundred times what loading
its relocated instructions again does.
"""

from collections.abc import Callable
from typing import Any, Self

from xdpscope.libbpf._raw import ffi, lib

Slots = tuple[int, ...]
"""Which instructions of a template take one value."""


class Template:
    """Instructions as the kernel took them, map descriptors filled in."""

    def __init__(self, instructions: Any, attach_type: int) -> None:
        self.instructions = instructions  # struct bpf_insn[]
        self.attach_type = attach_type

    def map_slots(self, fd: int) -> Slots:
        """Where the program refers to this map.

        Raises:
            ValueError: nowhere.
        """
        load_map = lib.BPF_LD | lib.BPF_DW | lib.BPF_IMM
        kinds = (lib.BPF_PSEUDO_MAP_FD, lib.BPF_PSEUDO_MAP_VALUE)
        return self._slots(
            lambda insn: insn.code == load_map and insn.src_reg in kinds and insn.imm == fd,
            f"map descriptor {fd}",
        )

    def constant_slots(self, value: int) -> Slots:
        """Where the program moves this constant to a register.

        Raises:
            ValueError: nowhere.
        """
        move = lib.BPF_MOV | lib.BPF_K
        codes = (lib.BPF_ALU | move, lib.BPF_ALU64 | move)
        return self._slots(
            lambda insn: insn.code in codes and insn.imm == value, f"constant {value:#x}"
        )

    def _slots(self, wanted: Callable[[Any], bool], what: str) -> Slots:
        found = tuple(i for i, insn in enumerate(self.instructions) if wanted(insn))
        if not found:
            raise ValueError(f"the template has no {what}")
        return found

    def filled(self, *fillings: tuple[Slots, int]) -> Self:
        """The same program with other values in some slots."""
        copy = ffi.new("struct bpf_insn[]", len(self.instructions))
        ffi.memmove(copy, self.instructions, ffi.sizeof(copy))
        for slots, value in fillings:
            for slot in slots:
                copy[slot].imm = value
        return type(self)(copy, self.attach_type)
