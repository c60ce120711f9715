# SPDX-License-Identifier: Apache-2.0
"""Programs, maps and BTF written by hand and loaded with bpf(2), where no compiler makes them."""

import ctypes
import itertools
import os
import platform
import struct
from collections.abc import Sequence

from xdpscope.libbpf import Descriptor, Instruction, Program

_CALL = {"x86_64": 321}[platform.machine()]
_MAP_CREATE, _MAP_UPDATE, _PROG_LOAD, _BTF_LOAD, _MAP_FREEZE = 0, 2, 5, 18, 22

_XDP = 6  # BPF_PROG_TYPE_XDP
_ATTACHED_AS_XDP = 37  # BPF_XDP

BOUND = 1 << 6
"""BPF_F_XDP_DEV_BOUND_ONLY (Linux 6.3)."""
_LOG_SIZE = 1 << 16

# Kinds of types, BTF_KIND_*.
INT, POINTER, STRUCT, ENUM, FORWARD, TYPEDEF, CONST = 1, 2, 4, 6, 7, 8, 10
FUNCTION, PROTOTYPE = 12, 13


def bpf(command: int, attributes: bytes) -> int:
    """Call bpf(2); return its result.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = libc.syscall(_CALL, command, buffer, len(attributes))
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def _address(buffer: object) -> int:
    return ctypes.addressof(buffer)  # type: ignore[arg-type]


class Btf:
    """Types of one program, numbered from 1 in the order of adding."""

    def __init__(self) -> None:
        self._types = b""
        self._strings = b"\0"
        self._count = itertools.count(1)

    def add(
        self, kind: int, name: str = "", *, length: int = 0, size: int = 0, rest: bytes = b""
    ) -> int:
        """Add a type; return its number. ``size`` is the type referred to, where there is one."""
        info = kind << 24 | length
        self._types += struct.pack("=3I", self._name(name), info, size) + rest
        return next(self._count)

    def integer(self, name: str, size: int) -> int:
        return self.add(INT, name, size=size, rest=struct.pack("=I", 1 << 24 | 8 * size))

    def enumeration(self, name: str, value: str) -> int:
        rest = struct.pack("=Ii", self._name(value), 0)
        return self.add(ENUM, name, length=1, size=4, rest=rest)

    def function(self, name: str, returned: int, *arguments: int) -> int:
        """Add a global function, whose arguments have these types."""
        parameters = b"".join(
            struct.pack("=2I", self._name(f"argument{number}"), argument)
            for number, argument in enumerate(arguments)
        )
        prototype = self.add(PROTOTYPE, length=len(arguments), size=returned, rest=parameters)
        return self.add(FUNCTION, name, length=1, size=prototype)

    def _name(self, name: str) -> int:
        if not name:
            return 0
        offset = len(self._strings)
        self._strings += name.encode() + b"\0"
        return offset

    def load(self) -> Descriptor:
        """Give it to the kernel.

        Raises:
            OSError: the kernel refused.
        """
        header = struct.pack(
            "=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self._types), len(self._types), len(self._strings)
        )
        data = header + self._types + self._strings
        room = ctypes.create_string_buffer(data, len(data))
        return Descriptor(bpf(_BTF_LOAD, struct.pack("=QQIII", _address(room), 0, len(data), 0, 0)))


def load_xdp(
    instructions: Sequence[Instruction],
    *,
    name: str = "",
    btf: Btf | None = None,
    function: int = 0,
    device: int = 0,
    flags: int = 0,
) -> Program:
    """Load an XDP program.

    Args:
        instructions: All of it.
        name: At most 15 characters.
        btf: Its types, with ``function`` as the number of its entry function.
        function: See ``btf``.
        device: The ifindex of the network card that runs it or, with BOUND in ``flags``, of the
            only device that it may be attached to.
        flags: BPF_F_*.

    Raises:
        OSError: the kernel refused; the message has the verifier's log.
    """
    code = b"".join(
        struct.pack("=BBhi", i.code, i.dst | i.src << 4, i.off, i.imm) for i in instructions
    )
    room, license_ = (
        ctypes.create_string_buffer(code, len(code)),
        ctypes.create_string_buffer(b"GPL"),
    )
    log = ctypes.create_string_buffer(_LOG_SIZE)
    types = btf.load() if btf is not None else None
    functions = ctypes.create_string_buffer(struct.pack("=2I", 0, function), 8)
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        _XDP, len(instructions), _address(room), _address(license_),
        1, _LOG_SIZE, _address(log), 0, flags, name.encode(), device, _ATTACHED_AS_XDP,
    )  # fmt: skip
    if types is not None:
        described = types.fileno(), 8, _address(functions), 1
        attributes += struct.pack("=IIQI", *described) + bytes(4)
    try:
        return Program(bpf(_PROG_LOAD, attributes))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {log.value.decode()}") from None
    finally:
        if types is not None:
            types.close()


def jump_table(*targets: int) -> Descriptor:
    """Make a table of instruction numbers for indirect jumps (Linux 6.19).

    Raises:
        OSError: the kernel refused.
    """
    instruction_array = 34  # BPF_MAP_TYPE_INSN_ARRAY
    fd = bpf(_MAP_CREATE, struct.pack("=5I", instruction_array, 4, 16, len(targets), 0))
    for index, target in enumerate(targets):
        key = ctypes.create_string_buffer(struct.pack("=I", index), 4)
        value = ctypes.create_string_buffer(struct.pack("=4I", target, 0, 0, 0), 16)
        bpf(_MAP_UPDATE, struct.pack("=IIQQQ", fd, 0, _address(key), _address(value), 0))
    bpf(_MAP_FREEZE, struct.pack("=I", fd))
    return Descriptor(fd)
