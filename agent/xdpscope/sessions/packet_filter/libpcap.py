# SPDX-License-Identifier: Apache-2.0
"""libpcap's compiler, through ctypes: decision 12 says why not through cffi.

The library is loaded when the first filter is compiled. Everything else works without it.
"""

import ctypes
import multiprocessing
from enum import IntEnum
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

from xdpscope.errors import XdpscopeError
from xdpscope.sessions.packet_filter.classic import Classic

# The names of the one ABI that libpcap has had since 0.8: Debian's, and everybody else's.
_NAMES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")

SNAPLEN = 262144
"""What a program returns for a packet that matches: tcpdump's default."""

_OPTIMIZE = 1
_SHORT = 500  # characters: well below a second
_PATIENCE = 20  # seconds
_NETMASK_UNKNOWN = 0xFFFFFFFF  # PCAP_NETMASK_UNKNOWN


class LinkType(IntEnum):
    """What a packet begins with: ``DLT_*`` of ``pcap/dlt.h``."""

    ETHERNET = 1  # DLT_EN10MB
    RAW_IP = 12  # DLT_RAW on Linux


class CompileError(Exception):
    """libpcap refuses the expression; ``args[0]`` is its message."""


class GaveUpError(CompileError):
    """libpcap does not finish, or crashes."""


class _Instruction(ctypes.Structure):
    """``struct bpf_insn``."""

    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """``struct bpf_program``."""

    _fields_ = (("bf_len", ctypes.c_uint), ("bf_insns", ctypes.POINTER(_Instruction)))


@cache
def _library() -> Any:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        program = ctypes.POINTER(_Program)
        library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_compile.argtypes = (
            *(ctypes.c_void_p, program, ctypes.c_char_p),
            *(ctypes.c_int, ctypes.c_uint32),
        )
        library.pcap_freecode.argtypes = (program,)
        library.pcap_geterr.argtypes = (ctypes.c_void_p,)
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_close.argtypes = (ctypes.c_void_p,)
        library.pcap_lib_version.restype = ctypes.c_char_p
        return library
    raise XdpscopeError(
        "a packet filter needs libpcap, which is not installed",
        hint="install libpcap: the package libpcap0.8 (Debian, Ubuntu) or libpcap (others)",
    )


def version() -> str:
    """Return what libpcap calls itself, such as ``libpcap version 1.10.3 (with TPACKET_V3)``.

    Raises:
        XdpscopeError: libpcap is not installed.
    """
    text: bytes = _library().pcap_lib_version()
    return text.decode(errors="replace")


def compile_expression(expression: str, link_type: LinkType) -> tuple[Classic, ...]:
    """Compile an expression of tcpdump's language.

    libpcap resolves names of hosts, networks, ports and protocols, as in tcpdump. The time that it
    takes grows with the cube of the length, so a process of its own compiles long expressions.

    Raises:
        CompileError: libpcap refuses it.
        GaveUpError: libpcap takes too long.
        XdpscopeError: libpcap is not installed.
    """
    _library()
    if len(expression) <= _SHORT:
        return _compile(expression, link_type)
    # A process that is forked starts at once; it does nothing but call libpcap.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(theirs, expression, link_type), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(_PATIENCE):
            raise GaveUpError(
                f"libpcap takes longer than {_PATIENCE} s for this filter: shorten it, for example"
                " with 'net' and 'portrange'"
            )
        found: tuple[Classic, ...] | str = ours.recv()
    except EOFError:
        raise GaveUpError("libpcap crashes on this filter: shorten it") from None
    finally:
        ours.close()
        child.kill()
        child.join()
    if isinstance(found, str):
        raise CompileError(found)
    return found


def _answer(to: Connection, expression: str, link_type: LinkType) -> None:
    """Send the program, or libpcap's message."""
    try:
        to.send(_compile(expression, link_type))
    except CompileError as error:
        to.send(str(error))


def _compile(expression: str, link_type: LinkType) -> tuple[Classic, ...]:
    library = _library()
    handle = library.pcap_open_dead(link_type, SNAPLEN)
    if not handle:
        raise MemoryError
    program = _Program()
    try:
        failed = library.pcap_compile(
            handle, ctypes.byref(program), expression.encode(), _OPTIMIZE, _NETMASK_UNKNOWN
        )
        if failed:
            raise CompileError(library.pcap_geterr(handle).decode(errors="replace"))
        found = [program.bf_insns[at] for at in range(program.bf_len)]
        instructions = tuple(Classic(i.code, i.jt, i.jf, i.k) for i in found)
        library.pcap_freecode(ctypes.byref(program))
        return instructions
    finally:
        library.pcap_close(handle)
