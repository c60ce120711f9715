# SPDX-License-Identifier: Apache-2.0
"""BTF: names of functions, and the layout of records as numpy types."""

from errno import ENOENT
from typing import Any, Self

import numpy as np

from xdpscope.errors import VanishedError
from xdpscope.libbpf._raw import ffi, lib
from xdpscope.libbpf.descriptor import fail

_VOID = 0

_MODIFIERS = {
    lib.BTF_KIND_TYPEDEF,
    lib.BTF_KIND_CONST,
    lib.BTF_KIND_VOLATILE,
    lib.BTF_KIND_RESTRICT,
    lib.BTF_KIND_TYPE_TAG,
}

# A structured type as numpy's constructor takes it.
_Layout = dict[str, list[Any] | int]


class Btf:
    """The types of one program, object or kernel."""

    def __init__(self, handle: Any, owner: object | None = None) -> None:
        """Wrap libbpf's ``struct btf *``; ``owner`` is the object that frees it, and is kept
        alive.
        """
        self._handle = handle
        self._owner = owner

    @classmethod
    def from_kernel(cls, btf_id: int) -> Self:
        """Read the BTF object of this id.

        Raises:
            VanishedError: it is gone.
            NotPermittedError: CAP_SYS_ADMIN is missing.
        """
        return cls(cls._checked(lib.btf__load_from_kernel_by_id(btf_id), f"reading BTF {btf_id}"))

    @classmethod
    def of_kernel(cls) -> Self:
        """Read the running kernel's own BTF, ``/sys/kernel/btf/vmlinux``.

        Raises:
            VanishedError: this kernel has none.
        """
        return cls(cls._checked(lib.btf__load_vmlinux_btf(), "reading the kernel's BTF"))

    @staticmethod
    def _checked(handle: Any, action: str) -> Any:
        if handle == ffi.NULL:
            fail(-ffi.errno, action)
        return handle

    def close(self) -> None:
        """Free the types, unless they belong to another object."""
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
            raise VanishedError(f"BTF type {type_id} does not exist", ENOENT)
        return found

    def _name(self, offset: int) -> str:
        name: bytes = ffi.string(lib.btf__name_by_offset(self._handle, offset))
        return name.decode(errors="replace")

    def name(self, type_id: int) -> str:
        """Return the name of a type; a function's is whole, not cut at 15 characters."""
        return self._name(self._type(type_id).name_off)

    def find(self, name: str, kind: int) -> int | None:
        """Return the id of the type of this name and ``BTF_KIND_*``, or None."""
        found: int = lib.btf__find_by_name_kind(self._handle, name.encode(), kind)
        return found if found > 0 else None

    def function(self, name: str) -> int | None:
        """Return the id of the function of this name, or None."""
        return self.find(name, lib.BTF_KIND_FUNC)

    def has_function(self, name: str) -> bool:
        """Return whether a function of this name can be the target of a tracer."""
        return self.find(name, lib.BTF_KIND_FUNC) is not None

    def enum(self, name: str) -> dict[str, int]:
        """Return the constants of an enumeration.

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

    def prototype(self, function: int) -> tuple[int, list[int]]:
        """Return the types of a function: what it returns, and its arguments.

        Raises:
            VanishedError: the BTF has no such function.
        """
        found = self._type(self._type(function).type)
        if lib.xdpscope_btf_kind(found) != lib.BTF_KIND_FUNC_PROTO:
            raise VanishedError(f"BTF type {function} is not a function", ENOENT)
        parameters = lib.xdpscope_btf_params(found)
        count = lib.xdpscope_btf_vlen(found)
        return found.type, [parameters[i].type for i in range(count)]

    def is_pointer_to(self, type_id: int, structure: str) -> bool:
        """Return whether a type is a pointer to the structure of this name."""
        pointer = self._type(self._plain(type_id))
        if lib.xdpscope_btf_kind(pointer) != lib.BTF_KIND_PTR:
            return False
        found = self._type(self._plain(pointer.type))
        kind = lib.xdpscope_btf_kind(found)
        return bool(kind == lib.BTF_KIND_STRUCT) and self._name(found.name_off) == structure

    def is_integer(self, type_id: int) -> bool:
        """Return whether a type is an integer or an enumeration that fits into 64 bits."""
        found = self._type(self._plain(type_id))
        kind = lib.xdpscope_btf_kind(found)
        if kind in (lib.BTF_KIND_ENUM, lib.BTF_KIND_ENUM64):
            return True
        return bool(kind == lib.BTF_KIND_INT) and found.size in (1, 2, 4, 8)

    def open_byte_array(self, structure: str) -> tuple[int, int] | None:
        """Return the id of a structure that ends with an array of bytes without a length.

        Returns:
            The id, and the offset of the array; None: there is no such structure of this name.
        """
        type_id = self.find(structure, lib.BTF_KIND_STRUCT)
        if type_id is None:
            return None
        found = self._type(type_id)
        last = lib.xdpscope_btf_vlen(found) - 1
        if last < 0:
            return None
        member = lib.xdpscope_btf_members(found)[last]
        inner = self._type(self._plain(member.type))
        if lib.xdpscope_btf_kind(inner) != lib.BTF_KIND_ARRAY:
            return None
        array = lib.xdpscope_btf_array(inner)
        element = self._type(self._plain(array.type))
        is_byte = lib.xdpscope_btf_kind(element) == lib.BTF_KIND_INT and element.size == 1
        if array.nelems or not is_byte:
            return None
        return type_id, lib.xdpscope_btf_member_bit_offset(found, last) // 8

    def _plain(self, type_id: int) -> int:
        """Return the type without its qualifiers and type names."""
        # A cycle of these is refused by the kernel; each step is to another type.
        while type_id != _VOID:
            found = self._type(type_id)
            if lib.xdpscope_btf_kind(found) not in _MODIFIERS:
                break
            type_id = found.type
        return type_id

    def struct(self, name: str) -> np.dtype[Any]:
        """Return the layout of the structure of this name.

        Raises:
            KeyError: there is none of this name.
        """
        type_id = self.find(name, lib.BTF_KIND_STRUCT)
        if type_id is None:
            raise KeyError(name)
        return self.dtype(type_id)

    def dtype(self, type_id: int) -> np.dtype[Any]:
        """Return the numpy type of the same layout as this one, padding included.

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
