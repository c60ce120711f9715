# SPDX-License-Identifier: Apache-2.0
"""One target's tracer: attached, detached, and readable until it is closed."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from xdpscope.discovery.model import XdpProgram
from xdpscope.libbpf import EntryFunction, Program, typed
from xdpscope.tracing.engine import Engine
from xdpscope.tracing.templates import Attached

_ONLY_KEY = b"\0\0\0\0"


@dataclass(frozen=True, slots=True)
class Expense:
    """What the kernel says of a target's tracing programs."""

    missed: int  # packets that the exit, which counts, was not run for
    run_seconds: float | None  # spent in all of them; None while the kernel does not count


class Tracer:
    """Counts what one program decides, from its construction until ``detach``.

    Attached, it holds a reference on its target, as everything that traces does. Its
    counts stay readable after ``detach``, until ``close``.
    """

    def __init__(self, engine: Engine, program: XdpProgram) -> None:
        """Attaches to the program's entry function what counts verdicts; all or nothing.

        Raises:
            Vanished: the program is gone.
            LoadError: the kernel refused the tracing program.
            KernelError: it could not be attached: EBUSY, E2BIG, …
        """
        self._engine = engine
        self.number = engine.next_number()
        self._last: Expense | None = None
        self._missed = 0
        self._target = program.id
        self._at_egress = program.at_egress
        self._entry = EntryFunction(program.function, program.entry_type_id)
        with ExitStack() as stack:
            self._counts = stack.enter_context(engine.templates.new_counts())
            with Program.open(self._target) as target:
                self._attached = self._attach((engine.templates.variant.first,), target)
            stack.pop_all()
        self.complete = not engine.templates.variant.rest

    def _attach(self, names: Iterable[str], target: Program) -> list[Attached]:
        return self._engine.templates.attach(
            names, self.number, self._counts, target, self._entry, at_egress=self._at_egress
        )

    def follow_up(self, alters_packets: Callable[[Program], bool]) -> None:
        """Attaches the rest, which counts flows, in the place of what counts verdicts.

        Not a packet is missed or counted twice. Once, whether or not it succeeds.

        Args:
            alters_packets: Says of a target whether it may alter a packet; if not, that is read
                at the exit.

        Raises:
            KernelError: verdicts alone are counted on.
        """
        self.complete = True
        variant = self._engine.templates.variant
        with Program.open(self._target) as target:
            rest = variant.rest if alters_packets(target) else variant.rest_unaltered
            attached = self._attach(rest, target)
        before, self._attached = self._attached, attached
        for each in before:
            each.link.close()
            self._missed += each.program.info().recursion_misses
            each.program.close()

    @property
    def attached(self) -> bool:
        return self._last is None

    def detach(self) -> None:
        """Lets the target go. A packet still inside it may be counted a moment later."""
        if self._last is None:
            self._last = self._expense()
            for each in self._attached:
                each.close()

    def close(self) -> None:
        """Detaches, and gives up the counts."""
        self.detach()
        self._counts.close()
        self._engine.forget_spilled(lambda number, _inode, _index: number == self.number)

    def records(self) -> NDArray[Any]:
        """``struct target_counts`` of each CPU; without those in the engine's ``spilled``."""
        return typed(self._counts.lookup(_ONLY_KEY), self._engine.target_counts)

    def expense(self) -> Expense:
        """Misses and, if known, cost."""
        return self._expense() if self._last is None else self._last

    def _expense(self) -> Expense:
        infos = [each.program.info() for each in self._attached]
        ran = any(info.run_count for info in infos)
        seconds = sum(info.run_time_ns for info in infos) / 1e9
        # The first is the exit, whichever they are.
        return Expense(self._missed + infos[0].recursion_misses, seconds if ran else None)
