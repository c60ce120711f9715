# SPDX-License-Identifier: Apache-2.0
"""Entry functions of every kind: each is counted exactly, or reported as unsupported."""

import os
from collections.abc import Callable
from errno import EINVAL
from types import SimpleNamespace

import pytest

from tests.kernel import raw
from tests.kernel.conftest import counted, expect, reasons
from tests.kernel.lab import Lab, frame
from tests.kernel.observing import Observer
from xdpscope.attach import targets
from xdpscope.libbpf import Instruction, Program
from xdpscope.metrics.programs import ProgramCollector

pytestmark = pytest.mark.every_kernel

DROPS = (Instruction(0xB7, 0, 0, 0, 1), Instruction(0x95, 0, 0, 0, 0))

Definition = Callable[[raw.Btf, str], int]


def context(types: raw.Btf) -> int:
    """Return a pointer to a structure that has the name of the context, and nothing in it."""
    return types.add(raw.POINTER, size=types.add(raw.STRUCT, "xdp_md"))


def _result(name: str, size: int) -> Definition:
    return lambda types, entry: types.function(entry, types.integer(name, size), context(types))


def _returns(kind: int) -> Definition:
    def define(types: raw.Btf, entry: str) -> int:
        return types.function(entry, types.add(kind, size=0), context(types))

    return define


def _enumeration(types: raw.Btf, entry: str) -> int:
    result = types.add(raw.TYPEDEF, "verdict", size=types.enumeration("action", "ABORTED"))
    return types.function(entry, result, context(types))


def _constant(types: raw.Btf, entry: str) -> int:
    structure = types.add(raw.CONST, size=types.add(raw.STRUCT, "xdp_md"))
    argument = types.add(raw.TYPEDEF, "packet", size=types.add(raw.POINTER, size=structure))
    return types.function(entry, types.integer("int", 4), argument)


def _arguments(*of: Callable[[raw.Btf], int]) -> Definition:
    return lambda types, entry: types.function(
        entry, types.integer("int", 4), *(each(types) for each in of)
    )


def _number(types: raw.Btf) -> int:
    return types.integer("int", 4)


SUPPORTED: dict[str, Definition] = {
    "a_long": _result("long", 8),
    "a_byte": _result("unsigned char", 1),
    "an_enumeration": _enumeration,
    "a_constant_context": _constant,
    "n" * 300: _result("int", 4),
    "core.filter.v1": _result("int", 4),
}

UNSUPPORTED: dict[str, tuple[Definition, str]] = {
    "any_pointer": (_arguments(lambda types: types.add(raw.POINTER)), "struct xdp_md"),
    "no_argument": (_arguments(), "no arguments"),
    "two_arguments": (_arguments(context, _number), "2 arguments"),
    "a_number": (_arguments(_number), "struct xdp_md"),
    "opaque": (
        _arguments(lambda types: types.add(raw.POINTER, size=types.add(raw.FORWARD, "xdp_md"))),
        "struct xdp_md",
    ),
    "another_structure": (
        _arguments(lambda types: types.add(raw.POINTER, size=types.add(raw.STRUCT, "packet"))),
        "struct xdp_md",
    ),
    "no_result": (
        lambda types, entry: types.function(entry, 0, context(types)),
        "no integer",
    ),
    "a_pointer": (_returns(raw.POINTER), "no integer"),
}


def load(name: str, definition: Definition) -> Program:
    """Load a program that drops everything, with this entry function."""
    types = raw.Btf()
    function = definition(types, name)
    return raw.load_xdp(DROPS, name="entry", btf=types, function=function)


@pytest.mark.parametrize("name", SUPPORTED)
def test_exact(lab: Lab, observer: Observer, name: str) -> None:
    try:
        program = load(name, SUPPORTED[name])
    except OSError as error:
        if error.errno == EINVAL and (len(name) > 127 or "." in name):
            pytest.skip(f"Linux {os.uname().release} refuses BTF with this name")
        raise
    with program:
        veth = lab.veth("xst0")
        lab.attach(program, veth)
        observer.scan(0)
        assert reasons(observer) == {name: ""}
        veth.send(frame(60), times=5)
        expect(observer, {(name, "xst0", "drop"): (5, 300)})
        lab.attach(None, veth)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported(
    lab: Lab, observer: Observer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    definition, word = UNSUPPORTED[name]
    said: list[str] = []
    log = SimpleNamespace(
        info=lambda *_, **__: None, warning=lambda *_, error, **__: said.append(error)
    )
    monkeypatch.setattr(targets, "_log", log)
    with load(name, definition) as program:
        veth = lab.veth("xst0")
        lab.attach(program, veth)
        for _ in range(3):
            observer.scan(0)
        assert reasons(observer) == {name: "unsupported_entry"}
        veth.send(frame(60), times=5)
        assert counted(observer) == {}
        assert len(said) == 1
        assert word in said[0]
        assert not any(observer.attach_failures().values())
        lab.attach(None, veth)


def test_programs_without_names(lab: Lab, observer: Observer) -> None:
    """And without BTF. The two have nothing in common."""
    with raw.load_xdp(DROPS) as first, raw.load_xdp(DROPS) as second:
        ids = {str(first.info().id), str(second.info().id)}
        for number, program in enumerate((first, second)):
            lab.attach(program, lab.veth(f"xst{number}"))
        observer.scan(0)
        assert reasons(observer) == {"(unnamed)": "no_btf"}
        samples = [
            sample
            for family in ProgramCollector(observer.statuses).collect()
            if family.name in ("xdp_program_traced", "xdp_program_attachment_info")
            for sample in family.samples
        ]
        assert len(samples) == 4
        assert {sample.labels["program_id"] for sample in samples} == ids
        assert {sample.labels["program"] for sample in samples} == {"(unnamed)"}


def test_a_program_whose_device_is_gone(lab: Lab, observer: Observer) -> None:
    """The kernel still lists it, and says ENODEV to everything else."""
    veth, other = lab.veth("xst0"), lab.veth("xst1")
    lab.attach(lab.load("decide_drop"), other)
    try:
        bound = raw.load_xdp(DROPS, name="bound", device=veth.index, flags=raw.BOUND)
    except OSError as error:
        if error.errno == EINVAL:
            pytest.skip("programs bound to a device came with Linux 6.3")
        raise
    with bound:
        observer.scan(0)
        assert "bound" in reasons(observer)
        lab.delete(veth)
        observer.scan(0)
        assert reasons(observer)["decide_drop"] == ""
        other.send(frame(60), times=3)
        expect(observer, {("decide_drop", "xst1", "drop"): (3, 180)})
