# SPDX-License-Identifier: Apache-2.0
"""One target's tracer: attached, detached, and readable until it is closed."""

from contextlib import ExitStack

from xdpscope.accounting.reading import Reading, of_target
from xdpscope.discovery.model import XdpProgram
from xdpscope.libbpf import EntryFunction, Link, Program, ProgramInfo, typed
from xdpscope.tracing.engine import Engine

_ONLY_KEY = b"\0\0\0\0"


class Tracer:
    """Counts what one program decides, from its construction until ``detach``.

    Attached, it holds a reference on its target, as everything that traces does. Its
    counts stay readable after ``detach``, until ``close``.
    """

    def __init__(self, engine: Engine, number: int, program: XdpProgram) -> None:
        """Attaches to the program's entry function; all or nothing.

        Raises:
            Vanished: the program is gone.
            LoadError: the kernel refused the tracing program.
            KernelError: it could not be attached: EBUSY, E2BIG, …
        """
        self._engine = engine
        self.number = number
        self._last: ProgramInfo | None = None
        with ExitStack() as stack:
            entry = EntryFunction(program.function, program.entry_type_id)
            self._counts = stack.enter_context(engine.new_counts())
            with Program.open(program.id) as target:
                self._program = stack.enter_context(
                    engine.load_tracer(number, self._counts, target, entry)
                )
            self._link = stack.enter_context(Link.trace(self._program, engine.attach_type))
            stack.pop_all()

    @property
    def attached(self) -> bool:
        return not self._link.closed

    def detach(self) -> None:
        """Lets the target go. A packet still inside it may be counted a moment later."""
        if self.attached:
            self._last = self._program.info()
            self._link.close()
            self._program.close()

    def close(self) -> None:
        """Detaches, and gives up the counts."""
        self.detach()
        self._counts.close()
        self._engine.forget_spilled(lambda number, _inode, _index: number == self.number)

    def reading(self) -> Reading:
        """The counts so far, by device; without those in the engine's ``spilled``."""
        return of_target(typed(self._counts.lookup(_ONLY_KEY), self._engine.target_counts))

    def info(self) -> ProgramInfo:
        """The kernel's word about the tracing program: its misses and, if known, its cost."""
        return self._program.info() if self._last is None else self._last
