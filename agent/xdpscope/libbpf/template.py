# SPDX-License-Identifier: Apache-2.0
"""A loaded program's instructions, to be loaded again with other maps and constants.

Opening and loading a whole object for each target costs a hundred times what loading
its relocated instructions again does.
"""

from typing import Any, Self

from xdpscope.libbpf._raw import ffi, lib


class Template:
    """Instructions as the kernel took them, map descriptors filled in."""

    def __init__(self, instructions: Any, attach_type: int) -> None:
        self.instructions = instructions  # struct bpf_insn[]
        self.attach_type = attach_type

    def with_map(self, old_fd: int, new_fd: int) -> Self:
        """The same program, using another map of the same layout in place of one.

        Raises:
            ValueError: the program does not use the map.
        """
        load_map = lib.BPF_LD | lib.BPF_DW | lib.BPF_IMM
        return self._replaced(
            lambda insn: (
                insn.code == load_map
                and insn.src_reg in (lib.BPF_PSEUDO_MAP_FD, lib.BPF_PSEUDO_MAP_VALUE)
                and insn.imm == old_fd
            ),
            new_fd,
            f"map descriptor {old_fd}",
        )

    def with_constant(self, old: int, new: int) -> Self:
        """The same program, with ``new`` wherever it moves the constant ``old`` to a register.

        Raises:
            ValueError: it does so nowhere.
        """
        move = lib.BPF_MOV | lib.BPF_K
        return self._replaced(
            lambda insn: (
                insn.code in (lib.BPF_ALU | move, lib.BPF_ALU64 | move) and insn.imm == old
            ),
            new,
            f"constant {old:#x}",
        )

    def _replaced(self, wanted: Any, value: int, what: str) -> Self:
        count = len(self.instructions)
        copy = ffi.new("struct bpf_insn[]", count)
        ffi.memmove(copy, self.instructions, ffi.sizeof(copy))
        places = [insn for insn in copy if wanted(insn)]
        if not places:
            raise ValueError(f"the template has no {what}")
        for insn in places:
            insn.imm = value
        return type(self)(copy, self.attach_type)
