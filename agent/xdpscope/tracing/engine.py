# SPDX-License-Identifier: Apache-2.0
"""The loaded BPF objects that all tracers share."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

import numpy as np

from xdpscope import bpf
from xdpscope.accounting.reading import Reading, by_device
from xdpscope.discovery.programs import ANCHOR
from xdpscope.errors import KernelError, LoadError, NotPermitted, TracingUnavailable
from xdpscope.kernel import capabilities
from xdpscope.libbpf import EntryFunction, Link, Map, Object, Program, typed

# bpf/xdpscope.h: stands for the target's number in the template.
_TARGET = 0x7A26E7


class Engine:
    """Holds the templates and the maps that tracers share; makes tracing programs."""

    def __init__(self) -> None:
        """Loads everything, and attaches a first tracer to a program of our own as a trial.

        Raises:
            TracingUnavailable: this kernel does not trace BPF programs for us; it says why.
        """
        with ExitStack() as stack:
            try:
                anchor = stack.enter_context(Object(bpf.path_of("anchor")))
                anchor.load()
                self._anchor = stack.enter_context(anchor.program(ANCHOR))
                self.knows_epochs = self._load(stack, with_epochs=True)
                if not self.knows_epochs:
                    self._load(stack, with_epochs=False)
                self._try()
            except KernelError as error:
                raise unavailable(error) from error
            self._resources = stack.pop_all()

    def _load(self, stack: ExitStack, *, with_epochs: bool) -> bool:
        """Whether it worked; without epochs an error is raised instead."""
        with ExitStack() as attempt:
            verdicts = attempt.enter_context(Object(bpf.path_of("verdicts")))
            wanted, other = ("count_by_epoch", "count_by_identity")[:: 1 if with_epochs else -1]
            verdicts.leave_out(other)
            verdicts.aim(wanted, self._anchor, ANCHOR)
            verdicts.keep_log(wanted)
            if not with_epochs:
                verdicts.leave_out("device_appears")
            try:
                verdicts.load()
                if with_epochs:
                    with verdicts.program("device_appears") as hook:
                        attach_type = verdicts.attach_type("device_appears")
                        attempt.enter_context(Link.trace(hook, attach_type))
            except KernelError:
                if with_epochs:
                    return False
                raise
            self._template = verdicts.template(wanted)
            self._counts_slots = self._template.map_slots(verdicts.map_fd("counts"))
            self._number_slots = self._template.constant_slots(_TARGET)
            self._counts = attempt.enter_context(verdicts.map("counts"))
            self._spilled = attempt.enter_context(verdicts.map("spilled"))
            self.target_counts = verdicts.btf.struct("target_counts")
            self._device_counts = verdicts.btf.struct("device_counts")
            self._spill_key = verdicts.btf.struct("spill_key")
            stack.push(attempt.pop_all())
            return True

    def _try(self) -> None:
        entry = self._anchor.entry_function()
        if entry is None:
            raise TracingUnavailable(
                "this kernel keeps no BTF of BPF programs",
                hint="use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            )
        with self.new_counts() as counts:
            program = self.load_tracer(0, counts, self._anchor, entry)
            with program, Link.trace(program, self._template.attach_type) as link:
                # Whether a tracer's reference can be told from a user's (Linux 5.13).
                self.tells_targets = link.ends().target == self._anchor.info().id

    def close(self) -> None:
        """Unloads what is shared; tracers must be closed before."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def attach_type(self) -> int:
        return self._template.attach_type

    def new_counts(self) -> Map:
        """An empty map for the counts of one target."""
        return self._counts.sibling("xdpscope_counts")

    def load_tracer(
        self, number: int, counts: Map, target: Program, entry: EntryFunction
    ) -> Program:
        """Loads the template for one target, to count into ``counts``.

        Raises:
            LoadError: the kernel refused it.
        """
        template = self._template.filled(
            (self._counts_slots, counts.fileno()), (self._number_slots, number)
        )
        return Program.load(template, "xdpscope_exit", target, entry)

    def spilled(self) -> dict[int, Reading]:
        """What found no place in its target's own map, by the target's number."""
        keys, values = self._spilled.items()
        if not len(keys):
            return {}
        targets = typed(keys, self._spill_key)["target"]
        records = typed(values, self._device_counts)
        return {int(t): by_device(records[targets == t]) for t in np.unique(targets)}

    def forget_spilled(self, gone: Callable[[int, int, int], bool]) -> None:
        """Takes out spilled records.

        Args:
            gone: Told a target's number, a namespace's inode and an ifindex, says whether
                no packet can be counted there any more.
        """
        keys, _ = self._spilled.items()
        for key, (identity, number, _) in zip(keys, typed(keys, self._spill_key), strict=True):
            if gone(int(number), int(identity) >> 32, int(identity) & 0xFFFFFFFF):
                self._spilled.delete(key.tobytes())


def unavailable(error: KernelError) -> TracingUnavailable:
    """The reason, as far as it can be told, why nothing can be traced here."""
    detail = error.summary
    if isinstance(error, LoadError) and "vmlinux BTF" in error.log:
        detail, hint = "this kernel has no BTF", "use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    elif not os.path.exists("/sys/kernel/btf/vmlinux"):  # noqa: PTH110
        detail = "this kernel has no BTF: /sys/kernel/btf/vmlinux is missing"
        hint = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    elif capabilities.OPEN_PROGRAMS not in capabilities.effective():
        detail = f"{capabilities.OPEN_PROGRAMS} is missing"
        hint = "run as root, or give the process that capability"
    elif isinstance(error, NotPermitted):
        hint = "see `xdpscope doctor`: a capability is missing, or this kernel forbids tracing"
    else:
        hint = "see `xdpscope doctor`"
    return TracingUnavailable(f"cannot trace BPF programs: {detail}", hint=hint)
