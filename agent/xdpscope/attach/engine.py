# SPDX-License-Identifier: Apache-2.0
"""The loaded BPF objects that all tracers share."""

import itertools
from collections.abc import Generator, Iterable, Iterator, Set
from contextlib import ExitStack, suppress
from errno import EPERM
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from xdpscope import bpf
from xdpscope.attach import packet_writes, templates
from xdpscope.attach.pins import PinPath, TargetPins
from xdpscope.attach.templates import FlowSizes
from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.records import Reading, by_device
from xdpscope.counters.slots import FAMILIES, SlotTable
from xdpscope.discovery.programs import SELF_TEST
from xdpscope.errors import (
    KernelError,
    LoadError,
    NotPermittedError,
    TracingUnavailableError,
    UnsupportedHostError,
    VanishedError,
)
from xdpscope.kernel import machine, pidns, requirements
from xdpscope.kernel.requirements import Obstacle
from xdpscope.libbpf import Map, Object, Program, typed

_log = structlog.get_logger(__name__)

# include/linux/errno.h: what attaching to a program returns where the kernel has no trampolines.
# It is not in userspace's errno.h.
_ENOTSUPP = 524

_ONLY_KEY = b"\0\0\0\0"

# Overflow records may take so many bytes more until they are read again: with pins, that is how
# much they grow while no agent runs, on 256 CPUs some 2,000 devices.
_GROWTH = 256 << 20

# So many overflow records without a target are deleted at each reading: some milliseconds.
_DELETED_AT_ONCE = 2000


def may_hook() -> bool:
    """Whether a function of the kernel may be hooked without danger to the host.

    Letting go of it waits for every task that is about to end (``synchronize_rcu_tasks``). The
    first of a PID namespace is so until all others have ended: before Linux 6.9 ("rcu-tasks:
    Eliminate deadlocks involving do_exit() and RCU tasks") an agent killed with its namespace,
    and all of ftrace, waited for ever. BPF programs are traced without ftrace.
    """
    return pidns.is_hosts()


class Engine:
    """Holds what tracers share: the templates of their programs, and their common maps."""

    def __init__(
        self,
        flows: FlowSizes | None = None,
        *,
        watch_devices: bool = True,
        pins: PinPath | None = None,
    ) -> None:
        """Loads everything, and attaches a first tracer to a program of our own as a trial.

        Args:
            flows: With it packets are counted by flow as well, in tables of this size.
            watch_devices: Without it, or where it cannot or must not be, a device's identity
                is read for each packet.
            pins: Where what is counted outlives the agent. What such an engine left there
                is taken over, what another left is removed.

        Raises:
            TracingUnavailableError: this kernel does not trace BPF programs for us; it says why.
            KernelError: nothing can be pinned.
        """
        machine.require_supported()
        self._numbers = itertools.count(1)
        self._in_use: set[int] = set()
        self._told_of_cpus = False
        self.sample_rate = flows.sample_rate if flows else 1
        with ExitStack() as stack:
            try:
                self_test = stack.enter_context(Object(bpf.path_of("self_test")))
                self_test.load()
                self._self_test = stack.enter_context(self_test.program(SELF_TEST))
                self.templates, self._state = templates.load(
                    flows, watch_devices and may_hook(), self._self_test, pins
                )
                stack.callback(self.templates.close)
                self._overflow_map = stack.enter_context(self.templates.map("overflow"))
                self._taken = (
                    stack.enter_context(self.templates.map(".data.taken")) if flows else None
                )
                self.target_counts = self.templates.btf.struct("target_counts")
                self._device_counts = self.templates.btf.struct("device_counts")
                self._overflow_key = self.templates.btf.struct("overflow_key")
                self._budget = stack.enter_context(self.templates.map(".data.budget"))
                self._allow_growth()
            except KernelError as error:
                raise unavailable(error) from error
            if pins is not None and self._state is not None:
                self.templates.pin(self._state)
                pins.retain(self._state)
            self._all_known = not self.templates.adopted
            self._resources = stack.pop_all()

    def close(self) -> None:
        """Unloads what is shared; tracers must be closed before."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def tells_targets(self) -> bool:
        """Whether this kernel tells what a tracing link is on (Linux 5.13)."""
        return self.templates.tells_targets

    @property
    def watches_devices(self) -> bool:
        """Whether devices are recognised without reading their identity."""
        return self.templates.hook is not None and self.templates.hook.trusted

    @property
    def hook_failure(self) -> str:
        """Why the hook on devices is not relied on; empty if it is, or was refused."""
        hook = self.templates.hook
        return self.templates.hook_failure if hook is None else hook.failure

    def check_devices(self, devices: Set[tuple[int, int]]) -> None:
        """Make sure, once a scan, that devices are still recognised: see ``DeviceHook.check``.

        Also report CPUs that the flow tables are not made for.
        """
        if self.templates.hook is not None:
            self.templates.hook.check(devices)
        sizes = self.templates.sizes
        cpus = sizes.cpus if sizes is not None else 0
        if cpus and not self._told_of_cpus and machine.cpus_to_serve() > cpus:
            self._told_of_cpus = True
            _log.warning(
                "CPUs were added: their flows are counted as `other` until the agent starts again"
                " (with pins: after `xdpscope doctor --clean`)",
                cpus=cpus,
            )

    def writes_packets(self, target: Program) -> bool:
        """Whether a target may alter its packets; False only if it is certain not to.

        Raises:
            KernelError: the program cannot be asked.
        """
        variant = self.templates.variant
        if variant.rest == variant.rest_read_only:
            return True
        return packet_writes.writes_packets(target.instructions(), self._read_only)

    @cached_property
    def _read_only(self) -> frozenset[int]:
        try:
            return packet_writes.read_only_calls()
        except KernelError as error:
            _log.debug("no helper counts as harmless", error=str(error))
            return frozenset()

    def next_number(self) -> int:
        """A number for a target: none is ever used again with the maps that they share.

        Raises:
            KernelError: with pins, that this one is used could not be noted.
        """
        return next(self._numbers) if self._state is None else self._state.next_number()

    def new_pins(self, number: int, program_id: int) -> TargetPins | None:
        """Where to pin what belongs to one target; None without pins.

        Raises:
            KernelError: there can be no such place.
        """
        return None if self._state is None else self._state.new_target(number, program_id)

    def pinned(self) -> list[TargetPins]:
        """What is pinned of each target, by ascending number."""
        return [] if self._state is None else self._state.targets()

    def use_number(self, number: int) -> None:
        """Note that a tracer has this number."""
        self._in_use.add(number)

    def give_up_number(self, number: int) -> None:
        """Have the overflow records of a target deleted at the next readings.

        This reads nothing: what a reading finds there anyway says which records these are.
        """
        self._in_use.discard(number)

    def all_known(self) -> None:
        """Note that every target of an earlier agent is adopted: other records are nobody's."""
        self._all_known = True

    def overflow(self) -> Generator[None, None, dict[int, OverflowReading]]:
        """Read records that found no place in their target's own map, in steps.

        Returns:
            Them, by the target's number.
        """
        parts: list[tuple[NDArray[np.uint32], OverflowReading]] = []
        for targets, records in self._overflow():
            parts.append((targets, OverflowReading.of(records)))
            yield
        if not parts:
            return {}
        all_targets = np.concatenate([targets for targets, _ in parts])
        return dict(OverflowReading.joined(part for _, part in parts).split(all_targets))

    def overflow_records(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the same records, not summed over CPUs, some of a target at a time.

        ``struct device_counts``, shape (devices, CPUs).
        """
        for targets, records in self._overflow():
            for target in np.unique(targets).tolist():
                yield target, records[targets == target]

    def _overflow(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[Any]]]:
        """Yield targets' numbers and their records, some megabytes at a time."""
        orphans: list[bytes] = []
        for keys, values in self._overflow_map.batches():
            targets = typed(keys, self._overflow_key)["target"]
            records = typed(values, self._device_counts)
            if self._all_known:
                # Only now: a tracer that another thread attaches may have counted what was read.
                wanted = np.isin(targets, np.array(sorted(self._in_use), np.uint32))
                orphans += map(bytes, keys[~wanted][: _DELETED_AT_ONCE - len(orphans)])
                targets, records = targets[wanted], records[wanted]
            if len(records):
                yield targets, records
        # Now only: a map without batches starts over after a deletion.
        for key in orphans:
            self._overflow_map.delete(key)
        self._allow_growth()

    def _allow_growth(self) -> None:
        info = self._overflow_map.info
        devices = min(_GROWTH // (info.cpus * info.stride), info.max_entries)
        self._budget.update(_ONLY_KEY, np.int64(devices).tobytes())

    def flow_tables(self) -> list[SlotTable]:
        """The tables of flows, to be read; none without flows. Closed with the engine."""
        sizes = self.templates.sizes
        if self._taken is None or sizes is None:
            return []
        btf = self.templates.btf
        return [
            SlotTable(
                family,
                self._resources.enter_context(self.templates.map(family.map)),
                btf.struct(family.record),
                btf.struct(family.key),
                partial(_is_set, self._taken, at),
                adopted=self.templates.adopted,
                sets=sizes.sets,
            )
            for at, family in enumerate(FAMILIES)
        ]

    def delete_overflow(
        self, keys: Iterable[tuple[int, int, int]]
    ) -> Iterator[tuple[tuple[int, int, int], Reading]]:
        """Delete spilled records, and yield what each of them had at that moment.

        From Linux 5.14 on, the kernel reads and deletes in one step: only a packet that is inside
        the tracer right then can be lost, at most one per CPU. An older kernel does it in two
        steps, and loses the packets of that device that come in between.

        Args:
            keys: A target's number, a namespace's serial number and an ifindex.

        Returns:
            Each key that there was, with the device's counts.
        """
        for number, serial, index in keys:
            key = np.zeros((), self._overflow_key)
            key["target"], key["identity"] = number, serial << 32 | index
            with suppress(VanishedError):
                record = typed(
                    self._overflow_map.lookup_and_delete(key.tobytes()), self._device_counts
                )
                yield (number, serial, index), by_device(record)


def _is_set(taken: Map, at: int) -> bool:
    """One of the flags in the ``taken`` of ``bpf/common/flow_table.h``."""
    return bool(taken.lookup(_ONLY_KEY)[0].view(np.uint32)[at])


def unavailable(error: KernelError) -> TracingUnavailableError:
    """Return why nothing can be traced here, and what to do about it, as far as that is known.

    It is an UnsupportedHostError if neither a right nor a setting of this kernel would help.
    """
    found = _obstacle(error)
    kind = UnsupportedHostError if found.permanent else TracingUnavailableError
    return kind(f"cannot trace BPF programs: {found.problem}", hint=found.hint)


def _obstacle(error: KernelError) -> Obstacle:
    if isinstance(error, LoadError) and "vmlinux BTF" in error.log:
        return requirements.NO_BTF
    for check in (
        requirements.btf,
        requirements.capability,
        requirements.jit,
        requirements.lockdown,
    ):
        found = check()
        if found is not None:
            return found
    if error.errno == EPERM or isinstance(error, NotPermittedError):
        return Obstacle(
            f"{error.summary}; the capabilities are there: this kernel forbids it",
            "see security modules and seccomp; some hosted kernels forbid tracing outright: use"
            " another, or a virtual machine with a kernel of your own",
            permanent=False,
        )
    if error.errno == _ENOTSUPP:
        return requirements.NO_TRAMPOLINES
    too_old = requirements.version()
    return too_old or Obstacle(error.summary, "see `xdpscope doctor`", permanent=False)
