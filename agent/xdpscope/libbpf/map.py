# SPDX-License-Identifier: Apache-2.0
"""Maps: created, read whole or by key, per-CPU values as numpy arrays."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from errno import EFAULT, EINVAL, ENOENT, ENOSPC, EOPNOTSUPP
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from xdpscope.errors import KernelError, VanishedError
from xdpscope.libbpf._raw import ffi, lib
from xdpscope.libbpf.descriptor import Pinnable, each_id, fail

# The kernel's own, of include/linux/errno.h: it leaks out of bpf(2).
_ENOTSUPP = 524

_PER_CPU = (lib.BPF_MAP_TYPE_PERCPU_ARRAY, lib.BPF_MAP_TYPE_PERCPU_HASH)

# Bytes of values that are read together.
_BATCH_SIZE = 4 << 20

Bytes = NDArray[np.uint8]


@cache
def possible_cpus() -> int:
    """Return how many CPUs this kernel may ever have: the values of one per-CPU element."""
    count: int = lib.libbpf_num_possible_cpus()
    if count < 0:
        fail(count, "reading the possible CPUs")
    return count


def typed(values: Bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return rows of bytes as records of ``dtype``, without the kernel's padding to 8 bytes."""
    records: NDArray[Any] = values[..., : dtype.itemsize].view(dtype)[..., 0]
    return records


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The values of ``struct bpf_map_info``; sizes in bytes."""

    id: int
    type: int  # enum bpf_map_type
    name: str
    key_size: int
    value_size: int
    max_entries: int
    flags: int

    @property
    def per_cpu(self) -> bool:
        """Whether each CPU has a value of its own."""
        return self.type in _PER_CPU

    @property
    def cpus(self) -> int:
        """Values an element has."""
        return possible_cpus() if self.per_cpu else 1

    @property
    def stride(self) -> int:
        """Bytes from one CPU's value to the next: the kernel rounds each up to 8."""
        return -(-self.value_size // 8) * 8 if self.per_cpu else self.value_size


class Map(Pinnable):
    """A map. Values come as arrays of bytes with one row a CPU; ``view`` gives them a type."""

    __slots__ = ("_info",)

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._info: MapInfo | None = None

    @property
    def info(self) -> MapInfo:
        """Return the kernel's information about the map; it is read once."""
        if self._info is None:
            self._info = self._asked()
        return self._info

    def _asked(self) -> MapInfo:
        info = ffi.new("struct bpf_map_info *")
        size = ffi.new("__u32 *", ffi.sizeof("struct bpf_map_info"))
        result = lib.bpf_obj_get_info_by_fd(self.fileno(), info, size)
        if result < 0:
            fail(result, "reading a map's info")
        name = ffi.string(info.name).decode(errors="replace")
        return MapInfo(
            info.id, info.type, name, info.key_size, info.value_size, info.max_entries,
            info.map_flags,
        )  # fmt: skip

    @staticmethod
    def ids() -> Iterator[int]:
        """Return the id of every map, in ascending order."""
        return each_id(lib.bpf_map_get_next_id, "listing BPF maps")

    @classmethod
    def open(cls, map_id: int) -> Self:
        """Return the map of this id.

        Raises:
            VanishedError: it is gone.
        """
        fd = lib.bpf_map_get_fd_by_id(map_id)
        if fd < 0:
            fail(fd, f"opening BPF map {map_id}")
        return cls(fd)

    @classmethod
    def create(
        cls, kind: int, name: str, key_size: int, value_size: int, max_entries: int, flags: int = 0
    ) -> Self:
        """Create an empty map of type ``kind`` (``enum bpf_map_type``); sizes in bytes."""
        options = ffi.new("struct bpf_map_create_opts *")
        options.sz = ffi.sizeof("struct bpf_map_create_opts")
        options.map_flags = flags
        fd = lib.bpf_map_create(kind, name.encode(), key_size, value_size, max_entries, options)
        if fd < 0:
            fail(fd, f"creating the map {name!r}")
        return cls(fd)

    def sibling(self, name: str, value_size: int | None = None) -> Self:
        """Return an empty map of this one's type and sizes, but for that of its values if given."""
        info = self.info
        size = info.value_size if value_size is None else value_size
        return type(self).create(info.type, name, info.key_size, size, info.max_entries, info.flags)

    def lookup(self, key: bytes) -> Bytes:
        """Return one element's values, shape (CPUs, stride).

        Raises:
            VanishedError: there is no such key.
        """
        values = np.empty((self.info.cpus, self.info.stride), np.uint8)
        self.lookup_into(key, values)
        return values

    def lookup_into(self, key: bytes, values: Bytes) -> None:
        """Read one element's values into an array of shape (CPUs, stride), without other layouts.

        Raises:
            VanishedError: there is no such key.
        """
        result = lib.bpf_map_lookup_elem(self.fileno(), key, ffi.from_buffer(values))
        if result < 0:
            fail(result, f"looking up an element of {self.info.name!r}")

    def update(self, key: bytes, values: bytes, flags: int = 0) -> None:
        """Set one element; ``values`` holds every CPU's."""
        result = lib.bpf_map_update_elem(self.fileno(), key, values, flags)
        if result < 0:
            fail(result, f"setting an element of {self.info.name!r}")

    def delete(self, key: bytes) -> None:
        """Delete one element. A missing element is no error."""
        result = lib.bpf_map_delete_elem(self.fileno(), key)
        if result < 0 and result != -ENOENT:
            fail(result, f"deleting an element of {self.info.name!r}")

    def lookup_and_delete(self, key: bytes) -> Bytes:
        """Delete one element, and return the values that it had, shape (CPUs, stride).

        In one step where the kernel has it for hashes (Linux 5.14), else in two.

        Raises:
            VanishedError: there is no such key.
        """
        values = np.empty((self.info.cpus, self.info.stride), np.uint8)
        result = lib.bpf_map_lookup_and_delete_elem(self.fileno(), key, ffi.from_buffer(values))
        if result in (-EINVAL, -EOPNOTSUPP, -_ENOTSUPP):
            self.lookup_into(key, values)
            self.delete(key)
        elif result < 0:
            fail(result, f"taking an element out of {self.info.name!r}")
        return values

    def items(self) -> tuple[Bytes, Bytes]:
        """Return all elements: keys, shape (n, key size), and values, shape (n, CPUs, stride).

        See ``batches``.
        """
        return _joined(self.batches())

    def batches(self) -> Iterator[tuple[Bytes, Bytes]]:
        """Yield all elements, some megabytes at a time, as ``items`` returns them.

        With system calls for many elements where the kernel has them for this type of map, else
        key by key. An element put in or taken out meanwhile may be missing or, never twice,
        present. There is always a first part, which may be empty.

        Raises:
            KernelError: the map cannot be read.
        """
        parts = self._batched()
        try:
            first = next(parts)
        except KernelError as error:
            if error.errno not in (EINVAL, EOPNOTSUPP, _ENOTSUPP):
                raise
            yield from self._one_by_one()
            return
        yield first
        yield from parts

    @property
    def _room(self) -> int:
        """So many elements are read at once: with 256 CPUs each has a hundred kilobytes."""
        info = self.info
        return max(1, min(info.max_entries, 4096, _BATCH_SIZE // (info.cpus * info.stride)))

    def read_array(self, values: Bytes) -> None:
        """Read a whole array, shape (n, CPUs, stride), into ``values``.

        In one system call where the kernel has batches for arrays (Linux 5.6; of per-CPU
        ones 5.13), else element by element.
        """
        info = self.info
        if values.shape != (info.max_entries, info.cpus, info.stride):
            raise ValueError(f"{values.shape} is not the shape of {info.name!r}")
        keys = np.empty((info.max_entries, info.key_size), np.uint8)
        cursor, count = ffi.new("char[4]"), ffi.new("__u32 *", info.max_entries)
        result = lib.bpf_map_lookup_batch(
            self.fileno(),
            ffi.NULL,
            cursor,
            ffi.from_buffer(keys),
            ffi.from_buffer(values),
            count,
            ffi.NULL,
        )
        if result in (0, -ENOENT) and count[0] == info.max_entries:
            return
        if result not in (-EINVAL, -EOPNOTSUPP, -_ENOTSUPP, -EFAULT):
            fail(result or -ENOENT, f"reading {info.name!r}")
        for index in range(info.max_entries):
            values[index] = self.lookup(index.to_bytes(4, sys.byteorder))

    def _batched(self) -> Iterator[tuple[Bytes, Bytes]]:
        info = self.info
        # A hash's cursor is a bucket number, an array's a key: four bytes either way,
        # but older kernels copy a whole key.
        cursor = ffi.new("char[]", max(4, info.key_size))
        room = self._room
        first, result = True, 0
        while result == 0:
            keys = np.empty((room, info.key_size), np.uint8)
            values = np.empty((room, info.cpus, info.stride), np.uint8)
            count = ffi.new("__u32 *", room)
            result = lib.bpf_map_lookup_batch(
                self.fileno(),
                ffi.NULL if first else cursor,
                cursor,
                ffi.from_buffer(keys),
                ffi.from_buffer(values),
                count,
                ffi.NULL,
            )
            if result == -ENOSPC:  # one bucket alone holds more than there is room for
                room, result = room * 2, 0
                continue
            if result == 0 or result == -ENOENT:  # ENOENT: these were the last
                yield keys[: count[0]], values[: count[0]]
                first = False
        if result != -ENOENT:
            # EFAULT: Linux 5.6 to 5.7 gave it for an unsupported map type.
            fail(-EINVAL if result == -EFAULT else result, f"reading {info.name!r}")

    def _one_by_one(self) -> Iterator[tuple[Bytes, Bytes]]:
        info = self.info
        seen: set[bytes] = set()
        part: dict[bytes, Bytes] = {}
        key: Any = ffi.NULL
        following = ffi.new("char[]", info.key_size)
        while lib.bpf_map_get_next_key(self.fileno(), key, following) == 0:
            name = bytes(ffi.buffer(following))
            # After a deletion the kernel starts over: one pass over what is new is all.
            if name in seen or len(seen) >= info.max_entries:
                break
            with suppress(VanishedError):
                part[name] = self.lookup(name)
                seen.add(name)
            if len(part) >= self._room:
                yield self._stacked(part)
                part = {}
            key = ffi.new("char[]", name + b"\0")
        yield self._stacked(part)

    def _stacked(self, elements: dict[bytes, Bytes]) -> tuple[Bytes, Bytes]:
        info = self.info
        keys = np.frombuffer(b"".join(elements), np.uint8).reshape(-1, info.key_size)
        values = np.array(list(elements.values()), np.uint8)
        return keys, values.reshape(-1, info.cpus, info.stride)


def _joined(parts: Iterable[tuple[Bytes, Bytes]]) -> tuple[Bytes, Bytes]:
    keys, values = zip(*parts, strict=True)
    return np.concatenate(keys), np.concatenate(values)
