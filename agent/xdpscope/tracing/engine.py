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

    def __init__(self, *, watch_devices: bool = True) -> None:
        """Loads everything, and attaches a first tracer to a program of our own as a trial.

        Args:
            watch_devices: Without it, or where the kernel does not let us, a device's identity
                is read for each packet.

        Raises:
            TracingUnavailable: this kernel does not trace BPF programs for us; it says why.
        """
        with ExitStack() as stack:
            try:
                anchor = stack.enter_context(Object(bpf.path_of("anchor")))
                anchor.load()
                self._anchor = stack.enter_context(anchor.program(ANCHOR))
                try:
                    self._load(stack, watch_devices)
                except KernelError:
                    if not watch_devices:
                        raise
                    self._load(stack, watch_devices=False)
                self._try()
            except KernelError as error:
                raise unavailable(error) from error
            self._resources = stack.pop_all()

    def _load(self, stack: ExitStack, watch_devices: bool) -> None:
        names = ("count_by_epoch", "count_by_identity")
        wanted, other = names if watch_devices else names[::-1]
        with ExitStack() as attempt:
            verdicts = attempt.enter_context(Object(bpf.path_of("verdicts")))
            verdicts.leave_out(other)
            verdicts.aim(wanted, self._anchor, ANCHOR)
            verdicts.keep_log(wanted)
            if not watch_devices:
                verdicts.leave_out("device_appears")
            verdicts.load()
            if watch_devices:
                with verdicts.program("device_appears") as hook:
                    link = Link.trace(hook, verdicts.attach_type("device_appears"))
                    attempt.enter_context(link)
            self._template = verdicts.template(wanted)
            self._counts_slots = self._template.map_slots(verdicts.map_fd("counts"))
            self._number_slots = self._template.constant_slots(_TARGET)
            self._counts = attempt.enter_context(verdicts.map("counts"))
            self._spilled = attempt.enter_context(verdicts.map("spilled"))
            self.target_counts = verdicts.btf.struct("target_counts")
            self._device_counts = verdicts.btf.struct("device_counts")
            self._spill_key = verdicts.btf.struct("spill_key")
            self.watches_devices = watch_devices
            stack.push(attempt.pop_all())

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
