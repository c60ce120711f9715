# SPDX-License-Identifier: Apache-2.0
"""Instructions that a packet filter adds to a packet that does not match, in the guest.

``python -m tests.vm.run --kernel 6.12 --icount -- python -m tests.bench.filters`` prints a line for
each reader and packet: an empty pair of tracers, and the same with a filter in the entry.
"""

import platform
import sys
from contextlib import ExitStack

from tests.bench.compiled import path_of
from tests.bench.rig import Bench, Tracing, floor, packet4, packet6
from xdpscope.errors import KernelError
from xdpscope.libbpf import Link, Object, Program
from xdpscope.sessions.packet_filter import PacketFilter, Reader

TARGET = "bench_target"
NOTHING = "tcp port 80"
READERS: tuple[Reader, ...] = ("plain", "cast", "copy")


def filtered(bench: Bench, expression: str, reader: Reader) -> int:
    """Return the cost of a run with a filter at the entry and an empty tracer at the exit."""
    entry = bench.program.entry_function()
    assert entry
    with ExitStack() as stack:
        stack.enter_context(Tracing(bench, "floor", ("empty_exit",)))
        loaded = stack.enter_context(Object(path_of("filter")))
        loaded.set_autoload("filter_entry")
        loaded.set_attach_target("filter_entry", bench.program, bench.function)
        loaded.load()
        template = PacketFilter.compile(expression).insert(loaded.template("filter_entry"), reader)
        program = stack.enter_context(Program.load(template, "filter", bench.program, entry))
        stack.enter_context(Link.trace(program, template.attach_type))
        return bench.instructions()


def main(expressions: list[str]) -> None:
    with Object(path_of("target")) as target:
        target.set_autoload(TARGET)
        target.load()
        program = target.program(TARGET)
        for name, packet in (("IPv4", packet4()), ("IPv6", packet6())):
            bench = Bench(program, TARGET, packet)
            untraced = bench.instructions()
            pair = floor(bench, "empty_entry", "empty_exit") - untraced
            alone = floor(bench, "empty_exit") - untraced
            print(platform.release(), name, "empty pair", pair, "empty fexit", alone, flush=True)
            for expression in expressions or [NOTHING]:
                for reader in READERS:
                    try:
                        cost = filtered(bench, expression, reader) - untraced
                    except KernelError as error:
                        print(name, reader, "refused:", error.summary, flush=True)
                        continue
                    ratio = f"{cost / pair:.2f}"
                    print(name, expression, reader, cost, cost - pair, ratio, flush=True)
        program.close()


if __name__ == "__main__":
    main(sys.argv[1:])
