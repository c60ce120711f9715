# SPDX-License-Identifier: Apache-2.0
"""Programs that the kernel has loaded: finding, describing, loading, running."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from xdpscope.errors import LoadError
from xdpscope.libbpf._raw import ffi, lib
from xdpscope.libbpf.btf import Btf
from xdpscope.libbpf.descriptor import VERIFIER_LOG_SIZE, Descriptor, each_id, fail
from xdpscope.libbpf.instruction import Instruction
from xdpscope.libbpf.template import Template

_MAPS = 64  # MAX_USED_MAPS of include/linux/bpf_verifier.h


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """The values of ``struct bpf_prog_info``."""

    id: int
    type: int  # enum bpf_prog_type
    tag: str  # 16 hexadecimal digits
    name: str  # cut at 15 characters by the kernel
    jited: bool
    btf_id: int  # 0: none
    entry_type_id: int  # func_info[0].type_id; 0: none
    run_time_ns: int  # counted only while kernel statistics are on
    run_count: int
    recursion_misses: int  # 5.12; always 0 before
    map_ids: tuple[int, ...]  # of the maps that its instructions refer to
    load_time: int  # nanoseconds since boot, time in suspend included
    uid: int  # of who loaded it, as our user namespace sees it

    @property
    def is_xdp(self) -> bool:
        return bool(self.type == lib.BPF_PROG_TYPE_XDP)


class RunStats(NamedTuple):
    """What the kernel has counted about the runs of a program."""

    run_time_ns: int  # counted only while kernel statistics are on
    run_count: int
    recursion_misses: int  # 5.12; always 0 before


@dataclass(frozen=True, slots=True)
class EntryFunction:
    """The function that a program starts in: its whole name, its id in the program's BTF."""

    name: str
    type_id: int


class Program(Descriptor):
    """A loaded program. Holding it open keeps it loaded."""

    __slots__ = ()

    @staticmethod
    def ids() -> Iterator[int]:
        """Yield the ids of all loaded programs of any type, in ascending order.

        Raises:
            NotPermittedError: CAP_SYS_ADMIN is missing.
        """
        return each_id(lib.bpf_prog_get_next_id, "listing BPF programs")

    @classmethod
    def open(cls, program_id: int) -> Self:
        """Return the program of this id.

        Raises:
            VanishedError: it is gone.
            NotPermittedError: CAP_SYS_ADMIN is missing; CAP_BPF is not enough.
        """
        fd = lib.bpf_prog_get_fd_by_id(program_id)
        if fd < 0:
            fail(fd, f"opening BPF program {program_id}")
        return cls(fd)

    @classmethod
    def load(cls, template: Template, name: str, target: "Program", entry: EntryFunction) -> Self:
        """Load the template's instructions as a tracer of ``target``'s entry function.

        Raises:
            LoadError: the kernel refused it.
        """
        options = ffi.new("struct bpf_prog_load_opts *")
        options.sz = ffi.sizeof("struct bpf_prog_load_opts")
        options.expected_attach_type = template.attach_type
        options.attach_btf_id = entry.type_id
        options.attach_prog_fd = target.fileno()

        def attempt() -> int:
            fd: int = lib.bpf_prog_load(
                lib.BPF_PROG_TYPE_TRACING,
                name.encode(),
                b"GPL",
                template.instructions,
                len(template.instructions),
                options,
            )
            return fd

        fd = attempt()
        if fd >= 0:
            return cls(fd)
        # Once more for the verifier's word; asking for it right away makes every load slower.
        log = ffi.new("char[]", VERIFIER_LOG_SIZE)
        options.log_level, options.log_buf, options.log_size = 1, log, VERIFIER_LOG_SIZE
        again = attempt()
        if again >= 0:
            return cls(again)
        text = ffi.string(log).decode(errors="replace")
        raise LoadError(f"loading a tracer of {entry.name!r} failed", -fd, text)

    def _info(self, **wanted: int) -> Any:
        info = ffi.new("struct bpf_prog_info *", wanted)
        size = ffi.new("__u32 *", ffi.sizeof("struct bpf_prog_info"))
        result = lib.bpf_obj_get_info_by_fd(self.fileno(), info, size)
        if result < 0:
            fail(result, "reading a program's info")
        return info

    def info(self) -> ProgramInfo:
        """Return the kernel's information about this program; it is read each time."""
        functions = ffi.new("struct bpf_func_info[1]")
        maps = ffi.new("__u32[]", _MAPS)
        info = self._info(
            nr_map_ids=_MAPS,
            map_ids=int(ffi.cast("uintptr_t", maps)),
            nr_func_info=1,
            func_info_rec_size=ffi.sizeof("struct bpf_func_info"),
            func_info=int(ffi.cast("uintptr_t", functions)),
        )
        return ProgramInfo(
            id=info.id,
            type=info.type,
            tag=bytes(info.tag).hex(),
            name=ffi.string(info.name).decode(errors="replace"),
            jited=info.jited_prog_len > 0,
            btf_id=info.btf_id,
            entry_type_id=functions[0].type_id if info.nr_func_info else 0,
            run_time_ns=info.run_time_ns,
            run_count=info.run_cnt,
            recursion_misses=info.recursion_misses,
            map_ids=tuple(maps[0 : min(info.nr_map_ids, _MAPS)]),
            load_time=info.load_time,
            uid=info.created_by_uid,
        )

    def run_stats(self) -> RunStats:
        """Return a part of ``info``, in half of the time."""
        info = self._info()
        return RunStats(info.run_time_ns, info.run_cnt, info.recursion_misses)

    def instructions(self) -> list[Instruction]:
        """Return the program's verified and rewritten instructions; empty where they are secret.

        Calls of helpers have the number 0 where the kernel hides addresses.
        """
        room = self._info().xlated_prog_len
        found = ffi.new("struct bpf_insn[]", room // ffi.sizeof("struct bpf_insn"))
        info = self._info(xlated_prog_len=room, xlated_prog_insns=int(ffi.cast("uintptr_t", found)))
        if not info.xlated_prog_insns:
            return []
        return [Instruction(i.code, i.dst_reg, i.src_reg, i.off, i.imm) for i in found]

    def entry_function(self, info: ProgramInfo | None = None) -> EntryFunction | None:
        """Return the main function, from ``func_info[0]`` and the program's BTF; None without
        BTF.
        """
        info = info or self.info()
        if not (info.btf_id and info.entry_type_id):
            return None
        with Btf.from_kernel(info.btf_id) as btf:
            return EntryFunction(btf.name(info.entry_type_id), info.entry_type_id)

    def test_run(self, packet: bytes, repeat: int = 1, *, device: int = 0) -> tuple[int, int]:
        """Run the program on ``packet`` with BPF_PROG_TEST_RUN.

        Args:
            packet: The packet from its first byte on.
            repeat: How often to run the program.
            device: The ifindex of the device from which the packet comes, in this thread's network
                namespace (Linux 5.15). 0: the kernel takes the loopback device.

        Returns:
            Its return value, and the mean duration of a run in nanoseconds.
        """
        options = ffi.new("struct bpf_test_run_opts *")
        options.sz = ffi.sizeof("struct bpf_test_run_opts")
        data = ffi.from_buffer(packet)
        options.data_in = data
        options.data_size_in = len(packet)
        options.repeat = repeat
        if device:
            context = ffi.new("struct xdp_md *", {"data_end": len(packet)})
            context.ingress_ifindex = device
            options.ctx_in = context
            options.ctx_size_in = ffi.sizeof("struct xdp_md")
        result = lib.bpf_prog_test_run_opts(self.fileno(), options)
        if result < 0:
            fail(result, "running a program on a test packet")
        return options.retval, options.duration

    @classmethod
    def duplicate(cls, fd: int) -> Self:
        """Return a program with a descriptor of its own, for one that another object owns."""
        return cls(os.dup(fd))
