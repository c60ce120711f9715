# SPDX-License-Identifier: Apache-2.0
"""BTF: names of functions, and the layout of records as numpy types."""

from errno import ENOENT
from typing import Any, Self

import numpy as np

from xdpscope.errors import Vanished
from xdpscope.libbpf._raw import ffi, lib
from xdpscope.libbpf.descriptor import fail

# A structured type as numpy's constructor takes it.
_Layout = dict[str, list[Any] | int]


class Btf:
    """The types of one program, object or kernel."""

    def __init__(self, handle: Any, owner: object | None = None) -> None:
        """Wraps libbpf's ``struct btf *``; ``owner`` keeps alive whom it belongs to."""
        self._handle = handle
        self._owner = owner

    @classmethod
    def from_kernel(cls, btf_id: int) -> Self:
        """Reads the BTF object of this id.

        Raises:
            Vanished: it is gone.
            NotPermitted: for want of CAP_SYS_ADMIN.
        """
        return cls(cls._checked(lib.btf__load_from_kernel_by_id(btf_id), f"reading BTF {btf_id}"))

    @classmethod
    def of_kernel(cls) -> Self:
        """Reads the running kernel's own BTF, ``/sys/kernel/btf/vmlinux``.

        Raises:
            Vanished: this kernel has none.
        """
        return cls(cls._checked(lib.btf__load_vmlinux_btf(), "reading the kernel's BTF"))

    @staticmethod
    def _checked(handle: Any, action: str) -> Any:
        if handle == ffi.NULL:
            fail(-ffi.errno, action)
        return handle

    def close(self) -> None:
        """Frees the types, unless they belong to another object."""
        handle, self._handle = self._handle, ffi.NULL
        if self._owner is None and handle != ffi.NULL:
            lib.btf__free(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _type(self, type_id: int) -> Any:
        found = lib.btf__type_by_id(self._handle, type_id)
        if found == ffi.NULL:
            raise Vanished(f"BTF type {type_id} does not exist", ENOENT)
        return found

    def _name(self, offset: int) -> str:
        name: bytes = ffi.string(lib.btf__name_by_offset(self._handle, offset))
        return name.decode(errors="replace")

    def name(self, type_id: int) -> str:
        """The name of a type; a function's is whole, not cut at 15 characters."""
        return self._name(self._type(type_id).name_off)

    def find(self, name: str, kind: int) -> int | None:
        """The id of the type of this name and ``BTF_KIND_*``, or None."""
        found: int = lib.btf__find_by_name_kind(self._handle, name.encode(), kind)
        return found if found > 0 else None

    def has_function(self, name: str) -> bool:
        """Whether a function of this name can be the target of a tracer."""
        return self.find(name, lib.BTF_KIND_FUNC) is not None

    def enum(self, name: str) -> dict[str, int]:
        """The constants of an enumeration.

        Raises:
            KeyError: there is none of this name.
        """
        type_id = self.find(name, lib.BTF_KIND_ENUM)
        if type_id is None:
            raise KeyError(name)
        found = self._type(type_id)
        values = lib.xdpscope_btf_enum(found)
        count = lib.xdpscope_btf_vlen(found)
        return {self._name(values[i].name_off): values[i].val for i in range(count)}

    def struct(self, name: str) -> np.dtype[Any]:
        """The layout of the structure of this name.

        Raises:
            KeyError: there is none of this name.
        """
        type_id = self.find(name, lib.BTF_KIND_STRUCT)
        if type_id is None:
            raise KeyError(name)
        return self.dtype(type_id)

    def dtype(self, type_id: int) -> np.dtype[Any]:
        """The numpy type of the same layout as this one, padding included.

        Arrays of ``char`` become byte strings; structures, structured types; unions, bytes
        without a type.

        Raises:
            TypeError: for a type that has no numpy counterpart here (bit fields).
        """
        resolved = lib.btf__resolve_type(self._handle, type_id)
        found = self._type(resolved)
        kind = lib.xdpscope_btf_kind(found)
        if kind == lib.BTF_KIND_INT:
            return np.dtype(f"{'i' if lib.xdpscope_btf_int_signed(found) else 'u'}{found.size}")
        if kind == lib.BTF_KIND_ARRAY:
            array = lib.xdpscope_btf_array(found)
            if self.name(lib.btf__resolve_type(self._handle, array.type)) == "char":
                return np.dtype(f"S{array.nelems}")
            return np.dtype((self.dtype(array.type), (array.nelems,)))
        if kind == lib.BTF_KIND_STRUCT:
            return np.dtype(self._layout(found))  # type: ignore[call-overload, no-any-return]
        if kind == lib.BTF_KIND_UNION:
            return np.dtype(f"V{found.size}")
        raise TypeError(f"BTF type {self.name(type_id)!r} of kind {kind} has no layout here")

    def _layout(self, found: Any) -> _Layout:
        layout: dict[str, Any] = {"names": [], "formats": [], "offsets": [], "itemsize": found.size}
        members = lib.xdpscope_btf_members(found)
        for index in range(lib.xdpscope_btf_vlen(found)):
            offset, rest = divmod(lib.xdpscope_btf_member_bit_offset(found, index), 8)
            if rest:
                raise TypeError(f"bit field in {self._name(found.name_off)!r}")
            layout["names"].append(self._name(members[index].name_off))
            layout["formats"].append(self.dtype(members[index].type))
            layout["offsets"].append(offset)
        return layout
