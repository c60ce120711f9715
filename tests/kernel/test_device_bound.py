# SPDX-License-Identifier: Apache-2.0
"""A program that is loaded for one device, which it may ask for what the hardware knows (6.3)."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kernel.conftest import expect, reasons
from tests.kernel.lab import Lab, Veth, frame
from tests.kernel.observing import Observer
from tests.kernel.programs import compiled
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes
from xdpscope.libbpf import Btf, Program

pytestmark = pytest.mark.every_kernel

_DEV_BOUND_ONLY = 1 << 6  # BPF_F_XDP_DEV_BOUND_ONLY of include/uapi/linux/bpf.h


@pytest.fixture(params=[None, FlowSizes(sets=64, sample_rate=1)], ids=["verdicts", "flows"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine(request.param) as engine:
        yield engine


@contextmanager
def bound_to(veth: Veth, function: str) -> Iterator[Program]:
    """Load a program for one device. Our own binding of libbpf never does that."""
    libbpf = ctypes.CDLL("libbpf.so.1")
    for name in ("bpf_object__open_file", "bpf_object__next_program", "bpf_program__name"):
        getattr(libbpf, name).restype = ctypes.c_void_p
    found = ctypes.c_void_p(libbpf.bpf_object__open_file(str(compiled("verdicts")).encode(), None))
    try:
        program = chosen = None
        while program := libbpf.bpf_object__next_program(found, ctypes.c_void_p(program)):
            at = ctypes.c_void_p(program)
            name = ctypes.string_at(libbpf.bpf_program__name(at)).decode()
            libbpf.bpf_program__set_autoload(at, name == function)
            if name == function:
                chosen = at
        assert chosen is not None
        libbpf.bpf_program__set_ifindex(chosen, veth.index)
        flags = libbpf.bpf_program__flags(chosen)
        assert libbpf.bpf_program__set_flags(chosen, flags | _DEV_BOUND_ONLY) == 0
        assert libbpf.bpf_object__load(found) == 0
        with Program(os.dup(libbpf.bpf_program__fd(chosen))) as loaded:
            yield loaded
    finally:
        libbpf.bpf_object__close(found)


def test_a_program_that_is_bound_to_its_device(lab: Lab, observer: Observer) -> None:
    with Btf.of_kernel() as btf:
        if not btf.has_function("bpf_dev_bound_netdev_unregister"):
            pytest.skip("programs that are bound to a device: Linux 6.3")
    veth = lab.veth("xst0")
    with bound_to(veth, "decide_drop") as program:
        lab.attach(program, veth)
        observer.scan(0)
        assert reasons(observer) == {"decide_drop": ""}
        veth.send(frame(60), times=3)
        expect(observer, {("decide_drop", "xst0", "drop"): (3, 180)})
        lab.attach(None, veth)
