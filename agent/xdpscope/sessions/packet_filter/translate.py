# SPDX-License-Identifier: Apache-2.0
"""A filter as instructions, in the way in which a kernel lets tracers read packets."""

from collections.abc import Sequence
from typing import Literal

from xdpscope.libbpf import Instruction
from xdpscope.sessions.packet_filter.classic import Classic
from xdpscope.sessions.packet_filter.copying import CopyingTranslation
from xdpscope.sessions.packet_filter.translation import Cast, Translation

Reader = Literal["plain", "cast", "copy"]
"""How a kernel lets a tracer read packet bytes, from the cheapest.

``plain``: through ``xdp->data`` itself (Linux 7.0 or so). ``cast``: through ``bpf_rdonly_cast``
(6.2). ``copy``: with ``bpf_probe_read_kernel`` (5.5). Load a program to find what a kernel takes.
"""


def translate(
    program: Sequence[Classic],
    reader: Reader,
    cast: Cast | None = None,
    depth: int = 0,
    *,
    above: int = 0,
    ends: bool = False,
) -> list[Instruction]:
    """Return instructions that compute what ``bpf_filter()`` returns.

    Args:
        program: One that ``classic.check()`` accepts.
        reader: How packet bytes are read.
        cast: For the reader ``cast``.
        depth: How many bytes below the frame pointer the program's functions use.
        above: How many the functions use that call the one that the filter is put into.
        ends: The result 0 ends the function that the instructions are put into, with 0. It is
            certain then; other results are not: a packet that is too short has another one.

    Raises:
        StackError: too little stack is left.
        TooLongError: the program is too long for the jumps of BPF.
    """
    if reader == "copy":
        return CopyingTranslation(program, depth, above, ends=ends).run()
    cast = cast if reader == "cast" else None
    return Translation(program, cast, depth, above, ends=ends).run()
