# SPDX-License-Identifier: Apache-2.0
"""Hold the loaded BPF objects that all tracers share."""

import itertools
from collections.abc import Generator, Iterable, Iterator, Set
from contextlib import ExitStack, suppress
from errno import EPERM
from functools import cached_property
from typing import Any, Self

import numpy as np
import structlog
from numpy.typing import NDArray

from xdpscope import bpf
from xdpscope.attach import packet_writes, templates
from xdpscope.attach.handover import Handover
from xdpscope.attach.pins import PinPath, TargetPins
from xdpscope.attach.spec import Spec
from xdpscope.attach.vacancies import Vacancies
from xdpscope.attach.variants import FlowSizes
from xdpscope.counters.overflow import OverflowReading
from xdpscope.counters.records import Reading, by_device
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

# The error of attaching to a program where the kernel has no trampolines. It is in
# include/linux/errno.h, and not in the errno.h of user space.
_ENOTSUPP = 524

_ONLY_KEY = b"\0\0\0\0"

# The number of bytes by which overflow records may grow until the agent reads them again. With
# pins, they grow by at most this while no agent runs: about 2,000 devices on 256 CPUs.
_GROWTH = 256 << 20

# The number of overflow records without a target that a reading deletes. It takes a few
# milliseconds.
_DELETED_AT_ONCE = 2000


def may_hook() -> bool:
    """Return whether the agent may hook a kernel function without danger to the host.

    To remove a hook, the kernel waits for every exiting task (``synchronize_rcu_tasks``). The first
    task of a PID namespace exits only after all others. Before Linux 6.9, an agent that was killed
    with its namespace waited for ever, and so did all of ftrace. Linux 6.9 fixes this
    ("rcu-tasks: Eliminate deadlocks involving do_exit() and RCU tasks"). Tracing BPF programs needs
    no ftrace.
    """
    return pidns.is_hosts()


class Engine:
    """Hold what tracers share: the templates of their programs, and their common maps."""

    def __init__(
        self,
        flows: FlowSizes | None = None,
        *,
        watch_devices: bool = True,
        pins: PinPath | None = None,
    ) -> None:
        """Load everything, and attach a first tracer to the self-test.

        Args:
            flows: The sizes of the flow tables. None: tracers count no flows.
            watch_devices: Whether to hook the kernel function that reports new devices. Without
                the hook, tracers read the identity of a device for each packet. The engine omits
                the hook where the kernel does not run it, and where ``may_hook`` is False.
            pins: The directory for state that outlives the agent. The engine adopts the state of
                an equal engine there, and removes any other state.

        Raises:
            TracingUnavailableError: this kernel does not allow the agent to trace BPF programs.
                The error says why.
            KernelError: the state cannot be pinned.
        """
        machine.require_supported()
        self._numbers = itertools.count(1)
        self._in_use: set[int] = set()
        self._shared_maps: dict[str, Map] = {}
        self.without_flows: frozenset[int] = frozenset()
        """Programs whose tracers need not take packets for flows, because none is taken."""
        self._logged_cpus = False
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
                self._sampling = (
                    stack.enter_context(self.templates.map(".data.sampling")) if flows else None
                )
                self._usual_rate = flows.sample_rate if flows else 1
                self.sample_flows(self._usual_rate)
                self.target_counts = self.templates.btf.struct("target_counts")
                self._device_counts = self.templates.btf.struct("device_counts")
                self._overflow_key = self.templates.btf.struct("overflow_key")
                self._budget = stack.enter_context(self.templates.map(".data.budget"))
                self.vacancies = Vacancies(
                    *(
                        stack.enter_context(self.templates.map(name))
                        for name in ("gone", ".data.vacancies", ".data.moves")
                    )
                )
                self._allow_growth()
            except KernelError as error:
                raise unavailable(error) from error
            if pins is not None and self._state is not None:
                self.templates.pin(self._state)
                pins.retain(self._state)
            self._all_known = not self.templates.adopted
            self._resources = stack.pop_all()

    def close(self) -> None:
        """Unload what tracers share. The caller must close all tracers before."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def reports_targets(self) -> bool:
        """Return whether this kernel reports the target of a tracing link (Linux 5.13)."""
        return self.templates.reports_targets

    @property
    def watches_devices(self) -> bool:
        """Return whether tracers recognise devices without reading their identity."""
        return self.templates.hook is not None and self.templates.hook.trusted

    @property
    def hook_failure(self) -> str:
        """Return why the hook on devices is not trusted. Empty if it is, or was refused."""
        hook = self.templates.hook
        return self.templates.hook_failure if hook is None else hook.failure

    def check_devices(self, devices: Set[tuple[int, int]]) -> None:
        """Check, once per scan, that tracers still recognise devices: see ``DeviceHook.check``.

        Also log that there are more CPUs than the flow tables have room for.
        """
        if self.templates.hook is not None:
            self.templates.hook.check(devices)
        sizes = self.templates.sizes
        cpus = sizes.cpus if sizes is not None else 0
        if cpus and not self._logged_cpus and machine.cpus_to_serve() > cpus:
            self._logged_cpus = True
            _log.warning(
                "CPUs were added: their flows are counted as `other` until the agent starts again"
                " (with pins: after `xdpscope doctor --clean`)",
                cpus=cpus,
            )

    @property
    def sample_rate(self) -> int:
        """Return the sample rate: one of this many packets counts for flows; 0: none."""
        return self._rate

    @property
    def usual_sample_rate(self) -> int:
        """Return the sample rate for which the tracers were made."""
        return self._usual_rate

    def sample_flows(self, rate: int, without: Set[int] = frozenset()) -> None:
        """Take one of this many packets for flows from now on, in all tracers. With 0, take none.

        The tracers stay attached. Each packet counts in a flow, or as sampled out.

        Args:
            rate: The sample rate.
            without: Ids of programs, with rate 0: their tracers may be replaced by ones that cannot
                take packets.

        Raises:
            KernelError: the tracers keep their rate.
        """
        self.without_flows = frozenset() if rate else frozenset(without)
        if self._sampling is not None:
            # A reader of the key may still see the old rate: any rate is right.
            self._sampling.update(_ONLY_KEY, np.uint32(rate).tobytes())
            self.handover.sample(rate != self._usual_rate)
        self._rate = rate

    def writes_packets(self, target: Program) -> bool:
        """Return whether a target may alter its packets. False means that it certainly does not.

        Raises:
            KernelError: the instructions of the program cannot be read.
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
            _log.debug("no helper counts as read-only", error=str(error))
            return frozenset()

    def prepare(self, kind: Spec) -> None:
        """Load the programs of one of ``KINDS``. Again is no error.

        Raises:
            KernelError: this kernel does not accept these programs.
        """
        entry = self._self_test.entry_function()
        assert entry is not None  # noqa: S101 - the templates are loaded
        self.templates.load_kind(kind, self._self_test, entry)

    def prepare_times(self, sample_rate: int) -> None:
        """Load the programs for ``Spec.TIMES``. Again is no error: it sets the rate.

        Args:
            sample_rate: Measure the time of one of this many packets.

        Raises:
            KernelError: this kernel does not accept the programs that measure times.
        """
        self.handover.set_rate(sample_rate)
        self.prepare(Spec.TIMES)

    @property
    def handover(self) -> Handover:
        """Return what lets tracing programs of a target be replaced while packets pass."""
        return self.templates.handover

    def end_handover(self) -> None:
        """End a handover that this agent began. Without one, do nothing.

        Raises:
            KernelError: the handover could not be ended. The next call tries again.
        """
        if self.handover.active:
            self.handover.end()

    def next_number(self) -> int:
        """Return a number for a target. No other target of the same shared maps ever gets it.

        Raises:
            KernelError: with pins, the number could not be recorded.
        """
        return next(self._numbers) if self._state is None else self._state.next_number()

    def new_pins(self, number: int, program_id: int) -> TargetPins | None:
        """Create the directory for the pins of one target. Return None without pins.

        Raises:
            KernelError: the directory cannot be created.
        """
        return None if self._state is None else self._state.new_target(number, program_id)

    def pinned(self) -> list[TargetPins]:
        """Return the pins of each target, by ascending number."""
        return [] if self._state is None else self._state.targets()

    def use_number(self, number: int) -> None:
        """Record that a tracer has this number."""
        self._in_use.add(number)

    def give_up_number(self, number: int) -> None:
        """Delete the overflow records of a target at the next readings.

        This call reads nothing. The next reading finds these records by the target's number.
        """
        self._in_use.discard(number)

    def all_known(self) -> None:
        """Record that every target of an earlier agent is adopted.

        From now on, a record with any other number belongs to no target. A handover in which that
        agent ended is over.
        """
        self.handover.end()
        self._all_known = True

    def overflow(self) -> Generator[None, None, dict[int, OverflowReading]]:
        """Read the overflow records of all targets, in steps.

        Returns:
            The records, by the target's number.
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
        """Yield the overflow records without the sum over CPUs, in parts.

        Each part has a target's number and some of its records. The records are
        ``struct device_counts``, shape (devices, CPUs).
        """
        for targets, records in self._overflow():
            for target in set(targets.tolist()):
                yield target, records[targets == target]

    def _overflow(self) -> Iterator[tuple[NDArray[np.uint32], NDArray[Any]]]:
        """Yield numbers of targets and their overflow records, a few megabytes at a time."""
        orphans: list[bytes] = []
        for keys, values in self._overflow_map.batches():
            targets = typed(keys, self._overflow_key)["target"]
            records = typed(values, self._device_counts)
            if self._all_known:
                # Read the numbers in use only after the records. Another thread may have attached
                # a tracer, and the records may contain its counts.
                wanted = np.isin(targets, np.array(sorted(self._in_use), np.uint32))
                orphans += map(bytes, keys[~wanted][: _DELETED_AT_ONCE - len(orphans)])
                targets, records = targets[wanted], records[wanted]
            if len(records):
                yield targets, records
        # Delete only after the last read. In a map without batches, reading starts over after a
        # deletion.
        for key in orphans:
            self._overflow_map.delete(key)
        self._allow_growth()

    def _allow_growth(self) -> None:
        info = self._overflow_map.info
        devices = min(_GROWTH // (info.cpus * info.stride), info.max_entries)
        self._budget.update(_ONLY_KEY, np.int64(devices).tobytes())

    @property
    def flow_sizes(self) -> FlowSizes | None:
        """Return the sizes of the flow tables. None if flows are not counted."""
        return self.templates.sizes

    def shared_map(self, name: str) -> Map:
        """Return one of the maps that all targets share. The engine opens it once and closes it."""
        if name not in self._shared_maps:
            self._shared_maps[name] = self._resources.enter_context(self.templates.map(name))
        return self._shared_maps[name]

    def delete_overflow(
        self, keys: Iterable[tuple[int, int, int]]
    ) -> Iterator[tuple[tuple[int, int, int], Reading]]:
        """Delete overflow records, and yield the last counts of each record.

        From Linux 5.14 on, the kernel reads and deletes in one step. Only a packet that is inside
        the tracer at that moment can be lost, at most one per CPU. An older kernel needs two steps.
        The packets of that device between the two steps are then lost.

        Args:
            keys: The number of a target, the serial number of a namespace and an ifindex.

        Returns:
            Each key that existed, with the counts of the device.
        """
        for number, serial, index in keys:
            key = np.zeros((), self._overflow_key)
            key["target"], key["identity"] = number, serial << 32 | index
            with suppress(VanishedError):
                record = typed(
                    self._overflow_map.lookup_and_delete(key.tobytes()), self._device_counts
                )
                yield (number, serial, index), by_device(record)


def unavailable(error: KernelError) -> TracingUnavailableError:
    """Return an error that says why this host allows no tracing, with a hint if one is known.

    The error is an UnsupportedHostError if neither a right nor a setting of this kernel would help.
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
