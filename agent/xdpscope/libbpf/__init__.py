# SPDX-License-Identifier: Apache-2.0
"""libbpf and bpf(2) as small Python objects.

Only this package imports cffi. Each object that holds a descriptor is a context manager and closes
it once. If the garbage collector closes one, that is a bug, and a ``ResourceWarning`` reports it.
Each refusal by the kernel raises a ``KernelError`` of ``xdpscope.errors``.
"""

from xdpscope.libbpf._raw import ffi as _ffi
from xdpscope.libbpf._raw import lib as _lib
from xdpscope.libbpf.btf import Btf
from xdpscope.libbpf.capture import Drained, PacketRings, PcapngWriter, Record
from xdpscope.libbpf.descriptor import Descriptor
from xdpscope.libbpf.instruction import Instruction
from xdpscope.libbpf.link import Link, LinkEnds
from xdpscope.libbpf.log import capture as _capture
from xdpscope.libbpf.map import Map, MapInfo, possible_cpus, typed
from xdpscope.libbpf.object import Object
from xdpscope.libbpf.program import EntryFunction, Program, ProgramInfo
from xdpscope.libbpf.ring import RingBuffer
from xdpscope.libbpf.stats import run_time_stats
from xdpscope.libbpf.template import Slots, Template

__all__ = [
    "Btf",
    "Descriptor",
    "Drained",
    "EntryFunction",
    "Instruction",
    "Link",
    "LinkEnds",
    "Map",
    "MapInfo",
    "Object",
    "PacketRings",
    "PcapngWriter",
    "Program",
    "ProgramInfo",
    "Record",
    "RingBuffer",
    "Slots",
    "Template",
    "attach_type_name",
    "map_type_name",
    "possible_cpus",
    "run_time_stats",
    "typed",
    "version",
]

_capture()


def version() -> str:
    """Return the version of the libbpf in use, such as ``1.1``."""
    return f"{_lib.libbpf_major_version()}.{_lib.libbpf_minor_version()}"


def attach_type_name(number: int) -> str:
    """Return libbpf's name of an attach type, such as ``xdp_devmap``; empty where it has none."""
    name = _lib.libbpf_bpf_attach_type_str(number)
    return "" if name == _ffi.NULL else _ffi.string(name).decode()


def map_type_name(number: int) -> str:
    """Return libbpf's name of a map type, such as ``lru_hash``; the number where it has none."""
    name = _lib.libbpf_bpf_map_type_str(number)
    return str(number) if name == _ffi.NULL else _ffi.string(name).decode()
