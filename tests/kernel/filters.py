# SPDX-License-Identifier: Apache-2.0
"""Packet filters that run in the kernel, many at a time, on packets of test runs."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

import numpy as np

from tests.kernel.programs import compiled
from xdpscope.errors import KernelError
from xdpscope.libbpf import Link, Object, Program
from xdpscope.sessions.packet_filter import PacketFilter, Reader

AT_ONCE = 32
"""A function takes up to 38 links."""

_NUMBER = 0x5107


class Filters:
    """Up to AT_ONCE filters that see the same packets, from entering until leaving it."""

    def __init__(
        self, filters: Sequence[PacketFilter], reader: Reader, function: str = "filter_ethernet"
    ) -> None:
        self._filters, self._reader, self._function = filters, reader, function

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            target = stack.enter_context(Object(compiled("filters")))
            target.set_autoload("filtered")
            target.load()
            self._target = stack.enter_context(target.program("filtered"))
            entry = self._target.entry_function()
            assert entry
            tracers = stack.enter_context(Object(compiled("filters")))
            tracers.set_autoload(self._function)
            tracers.set_attach_target(self._function, self._target, entry.name)
            tracers.load()
            self._results = stack.enter_context(tracers.map("results"))
            template = tracers.template(self._function)
            for number, each in enumerate(self._filters):
                copy = each.insert(template, self._reader)
                copy = copy.filled((copy.constant_slots(_NUMBER), number))
                program = Program.load(copy, "filter", self._target, entry)
                stack.enter_context(program)
                stack.enter_context(Link.trace(program, copy.attach_type))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, packet: bytes) -> list[int]:
        """Return what each filter returns for a packet of at least 14 bytes."""
        self._target.test_run(packet)
        found = np.frombuffer(self._results.lookup(bytes(4)), np.uint32)
        return [int(each) for each in found[: len(self._filters)]]


def readers() -> list[Reader]:
    """Return the ways to read packets that this kernel accepts."""
    found: list[Reader] = []
    for reader in ("plain", "cast", "copy"):
        try:
            with Filters([PacketFilter.compile("tcp port 80")], reader):
                found.append(reader)
        except KernelError as error:
            assert reader != "copy", error
    return found
