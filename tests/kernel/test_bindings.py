# SPDX-License-Identifier: Apache-2.0
"""libbpf's bindings: what needs no tracing."""

import gc
import struct
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from xdpscope.libbpf._raw import lib

from tests.kernel.conftest import kernel
from xdpscope import bpf, libbpf
from xdpscope.errors import KernelError, LoadError, NotPermittedError, VanishedError, XdpscopeError
from xdpscope.libbpf import Btf, Map, Object, Program, possible_cpus
from xdpscope.libbpf import map as map_module

pytestmark = pytest.mark.every_kernel


@pytest.fixture
def self_test() -> Iterator[Program]:
    with Object(bpf.path_of("self_test")) as loaded:
        loaded.load()
        with loaded.program("xdpscope_self_test") as program:
            yield program


def test_version() -> None:
    assert tuple(map(int, libbpf.version().split("."))) >= (1, 1)


def test_the_whole_name_of_a_program(self_test: Program) -> None:
    info = self_test.info()
    entry = self_test.entry_function()
    assert info.is_xdp and info.jited and len(info.tag) == 16
    assert entry is not None and entry.name == "xdpscope_self_test"
    with Program.open(info.id) as same:
        assert same.info() == info
    assert info.id in Program.ids()


def test_a_test_run(self_test: Program) -> None:
    verdict, _ = self_test.test_run(bytes(64), repeat=3)
    assert verdict == 2


def test_a_program_that_is_gone(self_test: Program) -> None:
    with pytest.raises(VanishedError, match="opening BPF program 2147483647 failed"):
        Program.open(2**31 - 1)


def test_a_file_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "junk.bpf.o").write_bytes(b"junk")
    for name in ("junk.bpf.o", "absent.bpf.o"):
        with pytest.raises(XdpscopeError, match="cannot open the BPF object"):
            Object(tmp_path / name)


def test_unknown_names(self_test: Program) -> None:
    with Object(bpf.path_of("self_test")) as loaded:
        with pytest.raises(KeyError, match="nothing"):
            loaded.program("nothing")
        with pytest.raises(KeyError, match="nothing"):
            loaded.map("nothing")


@pytest.mark.parametrize("kind", [lib.BPF_MAP_TYPE_PERCPU_HASH, lib.BPF_MAP_TYPE_PERCPU_ARRAY])
@pytest.mark.parametrize("reader", ["items", "_batched", "_one_by_one"])
def test_reading_a_whole_per_cpu_map(kind: int, reader: str) -> None:
    """Values of 12 bytes, so that the kernel's rounding up to 16 shows; 5,000 of them, so that
    one batch does not hold all.
    """
    entries, cpus = 5000, possible_cpus()
    with Map.create(kind, "test", 4, 12, entries) as under_test:
        for key in range(entries):
            values = b"".join(struct.pack("<QIxxxx", key, cpu) for cpu in range(cpus))
            under_test.update(struct.pack("<I", key), values)
        batches = kind == lib.BPF_MAP_TYPE_PERCPU_HASH or kernel() >= (5, 13)
        if reader == "_batched" and not batches:
            with pytest.raises(KernelError):
                next(under_test._batched())
            return
        parts = [under_test.items()] if reader == "items" else [*getattr(under_test, reader)()]
        assert reader == "items" or len(parts) > 1
        keys, values = map(np.concatenate, zip(*parts, strict=True))
        assert values.shape == (entries, cpus, 16)
        order = np.argsort(keys.view("<u4").ravel())
        record = np.dtype([("key", "<u8"), ("cpu", "<u4")])
        records = libbpf.typed(values[order], record)
        assert (records["key"] == np.arange(entries)[:, None]).all()
        assert (records["cpu"] == np.arange(cpus)).all()


@pytest.mark.parametrize("reader", ["batches", "_one_by_one"])
def test_memory_for_reading_a_large_map_is_bounded(
    reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 256 CPUs an element of the overflow map has 130 KiB."""
    entries, size = 64, 16 << 10
    limit = 4 * size * possible_cpus()
    monkeypatch.setattr(map_module, "_BATCH_SIZE", limit)
    with Map.create(lib.BPF_MAP_TYPE_PERCPU_HASH, "test", 4, size, 4 * entries) as large:
        for key in range(entries):
            large.update(struct.pack("<I", key), bytes([key]) * size * possible_cpus())
        found = []
        tracemalloc.start()
        for keys, values in getattr(large, reader)():
            assert values.nbytes <= limit
            found += zip(keys[:, 0].tolist(), values.min((1, 2)), values.max((1, 2)), strict=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert sorted(found) == [(key, key, key) for key in range(entries)]
    assert peak < 5 * limit, "some parts, not all 16"


def test_reading_an_empty_map() -> None:
    with Map.create(lib.BPF_MAP_TYPE_PERCPU_HASH, "test", 4, 8, 10) as empty:
        keys, values = empty.items()
        assert keys.shape == (0, 4) and values.shape == (0, possible_cpus(), 8)
        with pytest.raises(VanishedError):
            empty.lookup(b"\0\0\0\0")
        empty.delete(b"\0\0\0\0")


def test_a_map_that_cannot_be(self_test: Program) -> None:
    with pytest.raises(KernelError, match="creating the map 'test' failed"):
        Map.create(lib.BPF_MAP_TYPE_PERCPU_HASH, "test", 0, 8, 10)


def test_a_refused_load_carries_the_verifiers_log(self_test: Program) -> None:
    """The iterator's instructions, as a tracer of an XDP program: its context is another."""
    with Object(bpf.path_of("programs")) as loaded:
        try:
            loaded.load()
        except KernelError:
            pytest.skip("this kernel has no program iterator to borrow instructions from")
        template = loaded.template("programs")
    template.attach_type = lib.BPF_TRACE_FEXIT
    entry = self_test.entry_function()
    assert entry is not None
    with pytest.raises((LoadError, NotPermittedError)) as refused:
        Program.load(template, "test", self_test, entry)
    if isinstance(refused.value, LoadError) and refused.value.errno != 1:
        assert refused.value.log
        assert refused.value.log.rstrip().splitlines()[-1] in str(refused.value)


def test_templates_tell_where_they_take_a_value() -> None:
    with Object(bpf.path_of("flows")) as loaded:
        loaded.set_autoload()
        loaded.load()
        template = loaded.template("exit_flows_by_epoch")
    assert template.map_slots(99) == ()
    assert template.constant_slots(0x63) == ()
    (narrow, *_), (wide, *_) = (template.constant_slots(n) for n in (0x7A26E7, 0x9E3779B97F4A7C15))
    assert template.comparison_slots(0x63) == ()
    (compared, *_) = template.comparison_slots(0x7A26E7)
    assert template.filled(((compared,), 7)).instructions[compared].imm == 7
    shifts = template.shift_slots(61)
    filled = template.filled(((narrow,), 7), ((wide,), 0xFEDCBA9876543210), (shifts, 50))
    assert filled.instructions[narrow].imm == 7
    assert filled.instructions[wide].imm & 0xFFFFFFFF == 0x76543210
    assert filled.instructions[wide + 1].imm & 0xFFFFFFFF == 0xFEDCBA98
    assert shifts and all(filled.instructions[at].imm == 50 for at in shifts)


def test_a_template_is_not_changed_by_what_is_made_of_it() -> None:
    with Object(bpf.path_of("self_test")) as loaded:
        loaded.load()
        template = loaded.template("xdpscope_self_test")
    changed = template.filled((template.constant_slots(2), 1))
    assert [insn.imm for insn in template.instructions] == [2, 0]
    assert [insn.imm for insn in changed.instructions] == [1, 0]


def test_an_unclosed_descriptor_is_told_of() -> None:
    gc.collect()  # what other tests left
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Map.create(lib.BPF_MAP_TYPE_ARRAY, "test", 4, 8, 1)
        gc.collect()
    assert [str(w.message) for w in caught] == ["unclosed Map"]


def test_a_closed_descriptor_says_so(self_test: Program) -> None:
    self_test.close()
    self_test.close()
    assert self_test.closed
    with pytest.raises(ValueError, match="Program is closed"):
        self_test.info()


def test_the_kernels_own_types() -> None:
    if not Path("/sys/kernel/btf/vmlinux").exists():
        pytest.skip("this kernel has no BTF")
    with Btf.of_kernel() as btf:
        assert btf.has_function("raw_notifier_call_chain")
        assert not btf.has_function("no_such_function")
        assert btf.enum("netdev_cmd")["NETDEV_REGISTER"] == 5


def test_ring_buffer() -> None:
    try:
        ring = Map.create(lib.BPF_MAP_TYPE_RINGBUF, "test", 0, 0, 4096)
    except KernelError:
        pytest.skip("no BPF ring buffer: Linux before 5.8")
    with ring, libbpf.RingBuffer(ring, lambda record: None) as reader:
        assert reader.fileno() >= 0
        assert reader.poll(0) == 0
