# SPDX-License-Identifier: Apache-2.0
"""Chains of programs: put together by xdp-loader of Debian's xdp-tools, and by ourselves."""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kernel.conftest import Counts, counted, expect
from tests.kernel.lab import Lab, Veth, addressed, frame
from tests.kernel.observing import Observer
from tests.kernel.programs import compiled
from tests.kernel.test_lifecycle import extension_of, link_targets  # noqa: F401 - a fixture
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Reason
from xdpscope.discovery.model import ChainPosition
from xdpscope.libbpf import Descriptor, Program
from xdpscope.report import ProgramStatus

pytestmark = pytest.mark.every_kernel

LINKS = ("pass_on", "drop_some", "send_back_some")
DROP, PASS, TX = 1, 2, 3

needs_loader = pytest.mark.skipif(
    shutil.which("xdp-loader") is None, reason="xdp-loader is missing: install xdp-tools"
)


def xdp_loader(*arguments: str) -> None:
    subprocess.run(["xdp-loader", *arguments], check=True, capture_output=True, timeout=300)


def append(veth: Veth, function: str, mode: str = "native") -> None:
    """Put a program of links.bpf.c into the chain of an interface, by its priority."""
    xdp_loader("load", "--mode", mode, "--prog-name", function, veth.name, str(compiled("links")))


@contextmanager
def chain(veth: Veth, *functions: str, mode: str = "native") -> Iterator[None]:
    """Have libxdp run these programs on an interface."""
    try:
        for function in functions:
            append(veth, function, mode)
        yield
    finally:
        xdp_loader("unload", veth.name, "--all")


def send_some(veth: Veth) -> int:
    """5 packets to be dropped, 7 to be passed, 11 to be sent back; how many that are."""
    for what, times in ((DROP, 5), (PASS, 7), (TX, 11)):
        veth.send(addressed(frame(60 + what), what=what), times=times)
    return 5 + 7 + 11


def in_chain(name: str) -> Counts:
    """Return what each program of the chain has to say of them, ``drop_some`` being the second."""
    drop, passed, tx = (5, 5 * 61), (7, 7 * 62), (11, 11 * 63)
    rest = passed[0] + tx[0], passed[1] + tx[1]
    every = drop[0] + rest[0], drop[1] + rest[1]
    return {
        ("xdp_dispatcher", name, "drop"): drop,
        ("xdp_dispatcher", name, "pass"): passed,
        ("xdp_dispatcher", name, "tx"): tx,
        ("pass_on", name, "pass"): every,
        ("drop_some", name, "drop"): drop,
        ("drop_some", name, "pass"): rest,
        ("send_back_some", name, "pass"): passed,
        ("send_back_some", name, "tx"): tx,
    }


def statuses(observer: Observer) -> dict[str, ProgramStatus]:
    """By function; without the programs by which libxdp tries what the kernel can do."""
    found = {status.program.function: status for status in observer.statuses()}
    found.pop("xdp_pass", None)  # it may not be gone yet
    return {name: each for name, each in found.items() if each.reason != Reason.VANISHED}


def reasons(observer: Observer) -> dict[str, str]:
    """Return each program's reason, empty where it is traced."""
    return {name: str(each.reason or "") for name, each in statuses(observer).items()}


def positions(observer: Observer) -> dict[str, list[int]]:
    """Of each component, its positions; all are in the one dispatcher there is."""
    found = statuses(observer)
    dispatcher = found["xdp_dispatcher"].program.id
    for status in found.values():
        assert all(location.dispatcher == dispatcher for location in status.part.chain)
    return {
        function: [location.position for location in status.part.chain]
        for function, status in found.items()
        if status.part.role == "component"
    }


@needs_loader
@pytest.mark.parametrize("mode", ["native", "skb"])
def test_a_chain_of_three(lab: Lab, engine: Engine, observer: Observer, mode: str) -> None:
    veth = lab.veth("xst0")
    with chain(veth, *reversed(LINKS), mode=mode):
        observer.scan(0)
        sent = send_some(veth)
        expect(observer, in_chain("xst0"))
        found = counted(observer)
        assert sent == sum(n for (name, *_), (n, _) in found.items() if name == "xdp_dispatcher")
        assert reasons(observer) == dict.fromkeys(("xdp_dispatcher", *LINKS), "")
        if engine.reports_targets:
            assert positions(observer) == {"pass_on": [0], "drop_some": [1], "send_back_some": [2]}
        else:
            assert positions(observer) == {link: [] for link in LINKS}


@needs_loader
def test_a_chain_that_grows(lab: Lab, engine: Engine, observer: Observer) -> None:
    """Its first component stands for its dispatcher, until there is a second."""
    veth = lab.veth("xst0")
    with chain(veth, "drop_some"):
        observer.scan(0)
        assert reasons(observer) == {"xdp_dispatcher": "busy", "drop_some": ""}
        if engine.reports_targets:
            assert positions(observer) == {"drop_some": [0]}
        send_some(veth)
        expected = {
            ("drop_some", "xst0", "drop"): (5, 305),
            ("drop_some", "xst0", "pass"): (18, 7 * 62 + 11 * 63),
        }
        expect(observer, expected)

        append(veth, "pass_on")
        observer.scan(0)
        observer.scan(0)
        if engine.reports_targets:
            assert positions(observer) == {"pass_on": [0], "drop_some": [1]}
        send_some(veth)
        every = (23, 305 + 7 * 62 + 11 * 63)
        once = dict(expected)
        expected = {key: (2 * packets, 2 * size) for key, (packets, size) in once.items()}
        expected |= {("xdp_dispatcher", *key[1:]): sums for key, sums in once.items()}
        expected["pass_on", "xst0", "pass"] = every
        expect(observer, expected)
    observer.scan(0)
    assert not any(status.attachments for status in observer.statuses())


class _LinkCreate(ctypes.Structure):
    """The part of union bpf_attr that BPF_LINK_CREATE takes for an extension (5.10)."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
    )


def extend_too(extension: Program, target: Program, function: int) -> Descriptor:
    """Have an extension take the place of a function of one more program."""
    call, link_create = {"x86_64": 321}[platform.machine()], 28
    attributes = _LinkCreate(extension.fileno(), target.fileno(), 0, 0, function)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(call, link_create, ctypes.byref(attributes), ctypes.sizeof(attributes))
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return Descriptor(fd)


@pytest.mark.usefixtures("link_targets")
def test_a_component_of_two_dispatchers(lab: Lab, observer: Observer) -> None:
    """It replaces the entry function of one of them, and fills a slot of the other."""
    first, second = lab.load("xdp_dispatcher", "dispatcher"), lab.load("xdp_dispatcher", "chain")
    with extension_of(second, "prog3") as extension, extension.attached():
        lab.attach(second, lab.veth("xst1"))
        entry = first.entry_function()
        assert entry is not None
        with extend_too(extension.program, first, entry.type_id):
            lab.attach(first, lab.veth("xst0"))
            observer.scan(0)
            found = statuses(observer)["drop_instead"]
            assert found.part.chain == (
                ChainPosition(first.info().id, 0),
                ChainPosition(second.info().id, 3),
            )
            assert [at.interface for at in found.attachments] == ["xst0", "xst1"]
        observer.scan(0)
        found = statuses(observer)["drop_instead"]
        assert found.part.chain == (ChainPosition(second.info().id, 3),)


@pytest.mark.parametrize(
    ("function", "replacement"), [("stage", "replace_stage"), ("limit", "replace_limit")]
)
def test_a_replaced_function_that_is_no_entry(
    lab: Lab, observer: Observer, function: str, replacement: str
) -> None:
    """What it returns is no verdict: 0, or its second argument, 4."""
    program, veth = lab.load("staged", "stages"), lab.veth("xst0")
    with extension_of(program, function, replacement, "replacements") as extension:
        observer.scan(0)
        assert reasons(observer)[replacement] == "no_verdict"
        with extension.attached():
            lab.attach(program, veth)
            observer.scan(0)
            found = statuses(observer)[replacement]
            assert (found.part.role, found.part.chain, found.reason) == (
                "extension",
                (),
                Reason.NO_VERDICT,
            )
            assert reasons(observer)["staged"] == ""
            veth.send(frame(60), times=10)
            expect(observer, {("staged", "xst0", "pass"): (10, 600)})
            assert {count.program.function for count in observer.counts()} == {"staged"}


@pytest.mark.usefixtures("link_targets")
def test_a_component_that_replaces_another_function_too(lab: Lab, observer: Observer) -> None:
    """Its results would be of both kinds, so none is counted."""
    dispatcher, other = lab.load("xdp_dispatcher", "chain"), lab.load("staged", "stages")
    with (
        extension_of(dispatcher, "prog3") as extension,
        extension.attached(),
        extension_of(other, "stage", "replace_stage", "replacements") as stage,
    ):
        lab.attach(dispatcher, lab.veth("xst0"))
        observer.scan(0)
        assert reasons(observer)["drop_instead"] == ""
        function = stage.function
        with extend_too(extension.program, other, function):
            observer.scan(0)
            assert reasons(observer)["drop_instead"] == "no_verdict"
        observer.scan(0)
        assert reasons(observer)["drop_instead"] == ""
