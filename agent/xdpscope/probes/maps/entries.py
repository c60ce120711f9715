# SPDX-License-Identifier: Apache-2.0
"""The numbers of entries of maps, as the kernel counts them."""

import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

import numpy as np

from xdpscope import bpf
from xdpscope.libbpf import Btf, Link, Object, possible_cpus

MAPS_LIMIT: Final = 1024
"""The number of maps in one run of the iterator: the size of the map ``wanted`` of the BPF
object.
"""

_OBJECT = "map_entries"
_BY_KERNEL, _BY_CPU = "map_entries", "map_entries_by_cpu"

_SUM = "bpf_map_sum_elem_count"  # the kernel's own sum over CPUs, from Linux 6.6 on
_CPU_OFFSET = "this_cpu_off"  # a CPU's own offset: in the kernel's BTF, but for 5.10
_CPU_OFFSETS = b" __per_cpu_offset\n"  # the offsets of all CPUs: in /proc/kallsyms

_BTF_KIND_VAR = 14  # include/uapi/linux/btf.h


class EntryCounter:
    """An iterator over all maps of the host, ``bpf/probes/map_entries.bpf.c`` (Linux 5.8)."""

    def __init__(self, *, by_cpu: bool = False) -> None:
        """Load the iterator.

        Args:
            by_cpu: Count as on a kernel before 6.6, for tests.

        Raises:
            KernelError: this kernel refuses it.
        """
        with Btf.of_kernel() as btf:
            name = _BY_CPU if by_cpu or not btf.has_function(_SUM) else _BY_KERNEL
            hidden = name == _BY_CPU and btf.find(_CPU_OFFSET, _BTF_KIND_VAR) is None
        host = struct.pack("=QQ", _address_of_cpu_offsets() if hidden else 0, possible_cpus())
        self._wanted: set[int] = set()
        with Object(bpf.path_of(_OBJECT)) as loaded:
            loaded.set_autoload(name)
            loaded.keep_log(name)
            loaded.load()
            self._record = loaded.btf.struct("map_entries_record")
            with loaded.map("hosts") as hosts:
                hosts.update(bytes(4), host)
            with loaded.program(name) as program:
                self._link = Link.iterate(program)
            self._map = loaded.map("wanted")

    def close(self) -> None:
        """Unload the iterator."""
        self._map.close()
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, ids: Iterable[int]) -> dict[int, int]:
        """Return the number of entries by map id, of those maps whose entries the kernel counts.

        Args:
            ids: At most ``MAPS_LIMIT`` maps.

        Raises:
            KernelError: the iterator failed.
        """
        wanted = set(ids)
        for id in self._wanted - wanted:
            self._map.delete(id.to_bytes(4, sys.byteorder))
            self._wanted.discard(id)
        for id in wanted - self._wanted:
            self._map.update(id.to_bytes(4, sys.byteorder), bytes(4))
            self._wanted.add(id)
        if not wanted:
            return {}
        records = np.frombuffer(self._link.read_all(), self._record)
        return dict(zip(records["map_id"].tolist(), records["entries"].tolist(), strict=True))


def _address_of_cpu_offsets() -> int:
    """Return where the kernel keeps the offset of each CPU's data; 0 if it hides addresses."""
    try:
        with Path("/proc/kallsyms").open("rb") as symbols:
            for line in symbols:
                if line.endswith(_CPU_OFFSETS):
                    return int(line.split()[0], 16)
    except OSError:  # as under the systemd unit
        pass
    return 0
