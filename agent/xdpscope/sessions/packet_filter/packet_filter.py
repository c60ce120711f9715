# SPDX-License-Identifier: Apache-2.0
"""A filter, from its text to the instructions in a program."""

from collections.abc import Sequence
from dataclasses import dataclass
from errno import ENOSYS
from functools import cache, cached_property
from typing import Self

from xdpscope.errors import KernelError, UsageError
from xdpscope.libbpf import Btf, Instruction, Template
from xdpscope.sessions.packet_filter import expression as text
from xdpscope.sessions.packet_filter import libpcap
from xdpscope.sessions.packet_filter.assembler import TooLongError
from xdpscope.sessions.packet_filter.classic import RET, Classic, check
from xdpscope.sessions.packet_filter.libpcap import CompileError, GaveUpError, LinkType
from xdpscope.sessions.packet_filter.quick import quick_test
from xdpscope.sessions.packet_filter.translate import Reader, translate
from xdpscope.sessions.packet_filter.translation import Cast, StackError, frame_size

MARKERS = {LinkType.ETHERNET: 0x7C4F11E7DEAD0001, LinkType.RAW_IP: 0x7C4F11E7DEAD000C}
"""``FILTER_*`` of bpf/common/packet_filter.h. Each takes the room of two instructions."""

QUICK_MARKER = 0x7C4F11E7DEAD0111
"""``FILTER_QUICK`` of the same file."""

INNER_MARKERS = {LinkType.ETHERNET: 0x7C4F11E7DEAD1001, LinkType.RAW_IP: 0x7C4F11E7DEAD100C}
"""``INNER_FILTER_*`` of the same file, for packets inside tunnels."""

_MARKER_SIZE = 2

# Structures that end with bytes; some kernel has not the first.
_STRUCTURES = ("ip_options", "linux_dirent64")

_ALL: tuple[Classic, ...] = (Classic(RET, 0, 0, libpcap.SNAPLEN),)
_NONE: tuple[Classic, ...] = (Classic(RET, 0, 0, 0),)


class FilterError(UsageError):
    """The filter cannot be used. The message may have two more lines: the text, and a caret."""


@dataclass(frozen=True)
class PacketFilter:
    """A filter for packets that begin with Ethernet, and for those that begin with IP."""

    expression: str
    ethernet: tuple[Classic, ...]
    raw_ip: tuple[Classic, ...]
    raw_ip_error: str | None = None
    """Why no packet that begins with IP can match, such as those of tun devices and of IPIP."""
    uses_vlan: bool = False
    """Whether the filter searches the packet for VLAN tags."""

    @classmethod
    def compile(cls, expression: str) -> Self:
        """Compile an expression of tcpdump's language with libpcap.

        An empty expression matches every packet; libpcap is not needed for it.

        Raises:
            FilterError: the expression is wrong, or makes no sense for XDP packets.
            XdpscopeError: libpcap is not installed.
        """
        if problem := text.unusable(expression):
            raise FilterError(problem)
        if not expression.strip():
            return cls(expression, _ALL, _ALL)
        tokens = text.tokens(expression)
        if refused := text.first_refused(tokens):
            meaning = text.REFUSED[refused.text]
            caret = text.with_caret(expression, refused.start, refused.end)
            message = f"the filter uses {refused.text!r}, {meaning}"
            raise FilterError(f"{message}\n{caret}")
        try:
            ethernet = libpcap.compile_expression(expression, LinkType.ETHERNET)
        except GaveUpError as error:
            raise FilterError(str(error)) from None
        except CompileError as error:
            raise FilterError(_explained(expression, tokens, error)) from None
        if problem := check(ethernet):
            raise FilterError(f"the filter cannot run in the kernel: {problem}")
        raw_ip, raw_ip_error = _NONE, None
        try:
            raw_ip = libpcap.compile_expression(expression, LinkType.RAW_IP)
        except CompileError as error:
            raw_ip_error = str(error)
        if problem := check(raw_ip):
            raise FilterError(f"the filter cannot run in the kernel: {problem}")
        return cls(expression, ethernet, raw_ip, raw_ip_error, text.uses_vlan(tokens))

    @property
    def uses_length(self) -> bool:
        """Return whether the filter reads the length of the whole packet."""
        return any(each.reads_length for each in (*self.ethernet, *self.raw_ip))

    @cached_property
    def quick(self) -> tuple[Classic, ...] | None:
        """Return a test that only packets fail which do not match: see ``quick_test``."""
        return quick_test(self.ethernet, self.raw_ip)

    def insert(
        self, template: Template, reader: Reader, *, inner: bool = False, depth: int | None = None
    ) -> Template:
        """Return the template with the filter at each place that ``packet_filter()`` marks.

        Without a marker, the result equals the template. Slots of the template do not apply to
        the result.

        Args:
            template: The program.
            reader: How packet bytes are read.
            inner: The filter is about packets inside tunnels: it goes to their places.
            depth: How many bytes of the stack the program uses without filters. Two filters of one
                program use the same bytes below. None: it contains no filter yet.

        Raises:
            FilterError: the filter is too long for one program, or needs too much stack.
            KernelError: this kernel has no ``bpf_rdonly_cast``, and the reader is ``cast``.
        """
        depth = template.frame_depth() if depth is None else depth
        # Without a quick test, packets take longer, but there is more room for the filter.
        for quick in (None,) if inner or self.quick is None else (self.quick, None):
            try:
                return self._inserted(template, reader, depth, quick, inner=inner)
            except (StackError, TooLongError, ValueError) as error:
                problem = error
        raise FilterError(f"the filter does not fit into a program: {problem}")

    def _inserted(
        self,
        template: Template,
        reader: Reader,
        depth: int,
        quick: Sequence[Classic] | None,
        *,
        inner: bool,
    ) -> Template:
        cast = kernel_cast() if reader == "cast" else None
        if not inner and template.constant_slots(QUICK_MARKER):
            # The main function has it. It calls one that has the filter, which calls others.
            own, rest = template.frame_depth(own=True), 2 * frame_size(depth)
            instructions = translate(quick or _ALL, reader, cast, own, above=rest, ends=True)
            template = _replaced(template, QUICK_MARKER, instructions)
        programs = {LinkType.ETHERNET: self.ethernet, LinkType.RAW_IP: self.raw_ip}
        for link_type, marker in (INNER_MARKERS if inner else MARKERS).items():
            slots = template.constant_slots(marker)
            called = bool(slots) and slots[0] >= template.own_length
            above = frame_size(template.frame_depth(own=True)) if called else 0
            instructions = translate(programs[link_type], reader, cast, depth, above=above)
            template = _replaced(template, marker, instructions)
        return template


def _replaced(template: Template, marker: int, instructions: Sequence[Instruction]) -> Template:
    while slots := template.constant_slots(marker):
        template = template.replaced(slots[0], _MARKER_SIZE, instructions)
    return template


def _explained(expression: str, tokens: list[text.Token], error: CompileError) -> str:
    """Return libpcap's message, with a caret if there is a place to point to."""

    def message_of(probe: str) -> str | None:
        try:
            libpcap.compile_expression(probe, LinkType.ETHERNET)
        except CompileError as found:
            return str(found)
        return None

    message = str(error)
    location = text.mistake(expression, tokens, message, message_of)
    return message if location is None else f"{message}\n{text.with_caret(expression, *location)}"


@cache
def kernel_cast() -> Cast:
    """Return how this kernel's ``bpf_rdonly_cast`` is called.

    Raises:
        KernelError: it has none (before Linux 6.2).
    """
    with Btf.of_kernel() as btf:
        function = btf.function("bpf_rdonly_cast")
        found = next(filter(None, map(btf.open_byte_array, _STRUCTURES)), None)
        if function is None or found is None:
            raise KernelError("this kernel has no bpf_rdonly_cast", ENOSYS)
        return Cast(function, *found)
