# SPDX-License-Identifier: Apache-2.0
"""A compiled BPF object: opened, adapted, loaded."""

import os
from pathlib import Path
from typing import Any, Self

from xdpscope.errors import LoadError, XdpscopeError
from xdpscope.libbpf._raw import ffi, lib
from xdpscope.libbpf.btf import Btf
from xdpscope.libbpf.descriptor import VERIFIER_LOG_SIZE
from xdpscope.libbpf.map import Map
from xdpscope.libbpf.program import Program
from xdpscope.libbpf.template import Template


class Object:
    """A ``.bpf.o`` file. Its maps and programs live until it is closed."""

    def __init__(self, path: Path) -> None:
        """Open the file without loading anything.

        Raises:
            XdpscopeError: it is not there, or libbpf cannot read it.
        """
        self._path = path
        self._logs: dict[str, Any] = {}
        self._handle = lib.bpf_object__open(os.fsencode(path))
        if self._handle == ffi.NULL:
            reason = os.strerror(ffi.errno)
            raise XdpscopeError(
                f"cannot open the BPF object {path}: {reason}",
                hint="reinstall xdpscope: its wheel carries the compiled BPF objects",
            )

    def close(self) -> None:
        """Close every descriptor of the object."""
        handle, self._handle = self._handle, ffi.NULL
        if handle != ffi.NULL:
            lib.bpf_object__close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _program(self, name: str) -> Any:
        found = lib.bpf_object__find_program_by_name(self._handle, name.encode())
        if found == ffi.NULL:
            raise KeyError(f"{self._path.name} has no program {name!r}")
        return found

    def _map(self, name: str) -> Any:
        found = lib.bpf_object__find_map_by_name(self._handle, name.encode())
        if found == ffi.NULL:
            raise KeyError(f"{self._path.name} has no map {name!r}")
        return found

    def set_autoload(self, *names: str) -> None:
        """Load these programs of the file, and no others."""
        for name in names:
            self._program(name)
        program = ffi.NULL
        while program := lib.bpf_object__next_program(self._handle, program):
            name = ffi.string(lib.bpf_program__name(program)).decode()
            lib.bpf_program__set_autoload(program, name in names)

    def set_attach_target(self, name: str, target: Program, function: str) -> None:
        """Set a function of another BPF program as the target of a tracing program."""
        program = self._program(name)
        result = lib.bpf_program__set_attach_target(program, target.fileno(), function.encode())
        if result < 0:
            raise LoadError(f"{name!r} cannot be attached to {function!r}", -result)

    def resize(self, name: str, entries: int) -> None:
        """Set the number of entries of a map, before it is created."""
        result = lib.bpf_map__set_max_entries(self._map(name), entries)
        if result < 0:
            raise LoadError(f"the map {name!r} cannot be resized to {entries}", -result)

    def share_between_cpus(self, name: str) -> None:
        """Have a per-CPU array made a plain one."""
        result = lib.bpf_map__set_type(self._map(name), lib.BPF_MAP_TYPE_ARRAY)
        if result < 0:
            raise LoadError(f"the type of the map {name!r} cannot be set", -result)

    def set_value_size(self, name: str, size: int) -> None:
        """Have a map's values made of so many bytes."""
        result = lib.bpf_map__set_value_size(self._map(name), size)
        if result < 0:
            raise LoadError(f"the values of the map {name!r} cannot have {size} bytes", -result)

    def set_initial_value(self, name: str, value: bytes) -> None:
        """Set what a map of global variables, such as ``.rodata``, has when it is loaded."""
        result = lib.bpf_map__set_initial_value(self._map(name), value, len(value))
        if result < 0:
            raise LoadError(f"the map {name!r} cannot be given a value", -result)

    def maps(self) -> list[str]:
        """Return the names of its maps, including those of its global variables."""
        names, found = [], ffi.NULL
        while found := lib.bpf_object__next_map(self._handle, found):
            names.append(ffi.string(lib.bpf_map__name(found)).decode())
        return names

    def reuse_fd(self, name: str, existing: Map) -> None:
        """Use an existing map, as it is, instead of creating a new one."""
        result = lib.bpf_map__reuse_fd(self._map(name), existing.fileno())
        if result < 0:
            raise LoadError(f"the map {name!r} cannot be reused", -result)

    def keep_log(self, name: str) -> None:
        """Add the verifier's log of this program to the error, if the kernel refuses it."""
        log = ffi.new("char[]", VERIFIER_LOG_SIZE)
        lib.bpf_program__set_log_buf(self._program(name), log, VERIFIER_LOG_SIZE)
        self._logs[name] = log

    def load(self) -> None:
        """Create the maps and load the programs; all or none.

        Raises:
            LoadError: with the verifier's log of the refused programs.
        """
        result = lib.bpf_object__load(self._handle)
        logs = "".join(ffi.string(log).decode(errors="replace") for log in self._logs.values())
        self._logs.clear()
        if result < 0:
            raise LoadError(f"loading {self._path.name} failed", -result, logs)

    def program(self, name: str) -> Program:
        """Return a loaded program, with a descriptor of its own."""
        return Program.duplicate(lib.bpf_program__fd(self._program(name)))

    def map(self, name: str) -> Map:
        """Return a map, with a descriptor of its own."""
        return Map(os.dup(self.map_fd(name)))

    def map_fd(self, name: str) -> int:
        """Return the descriptor by which this object's instructions refer to a map."""
        fd: int = lib.bpf_map__fd(self._map(name))
        return fd

    def template(self, name: str) -> Template:
        """Return a loaded program's instructions; they refer to this object's maps."""
        program = self._program(name)
        count = lib.bpf_program__insn_cnt(program)
        copy = ffi.new("struct bpf_insn[]", count)
        ffi.memmove(copy, lib.bpf_program__insns(program), ffi.sizeof(copy))
        return Template(copy, lib.bpf_program__expected_attach_type(program))

    def attach_type(self, name: str) -> int:
        """Return the ``enum bpf_attach_type`` of the program's section."""
        found: int = lib.bpf_program__expected_attach_type(self._program(name))
        return found

    @property
    def btf(self) -> Btf:
        """Return the object's own types."""
        return Btf(lib.bpf_object__btf(self._handle), owner=self)
