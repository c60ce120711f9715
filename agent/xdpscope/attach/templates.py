# SPDX-License-Identifier: Apache-2.0
"""The programs that are copied for each target, and which of them a kernel takes.

One object is loaded of two: ``verdicts``, an exit alone; ``flows``, an entry and an exit.
Of both there are variants, from the cheapest to the one that every kernel takes. Which
one this kernel takes is found by loading.
"""

import secrets
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from errno import EPROTO
from hashlib import sha256
from itertools import chain
from math import ceil, log2
from typing import Self

import numpy as np
from numpy.typing import NDArray

from xdpscope import bpf
from xdpscope.attach.device_hook import DeviceHook, ftrace_is_off
from xdpscope.attach.pins import PinPath, Shared, State
from xdpscope.counters.records import of_target
from xdpscope.errors import KernelError, UnsupportedHostError
from xdpscope.kernel import netns
from xdpscope.kernel.requirements import NO_BTF
from xdpscope.libbpf import (
    Btf,
    EntryFunction,
    Link,
    Map,
    MapInfo,
    Object,
    Program,
    Slots,
    Template,
    possible_cpus,
    typed,
)

_ONLY_KEY = b"\0\0\0\0"

# bpf/common/xdpscope.h: what stands for a constant in the templates.
_TARGET = 0x7A26E7
_SAMPLE_RATE = 0x5A3BCA7
_BY_INODE = 0x1DE0DE
_SET_SHIFT = 61
_HASHES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)

WAYS = 4
"""Places in a set."""

_FLOW_STATE = ".data.taken"
_SETS = 2

# Secret factors, odd, that targets choose their two from.
_FACTORS = 16

# Any other constant in the place of _BY_INODE.
_BY_COOKIE = 0

_HOOK = "device_appears"
# How packets are read, from the cheapest.
_READERS = ("plain", "cast", "copy")


@dataclass(frozen=True, slots=True)
class FlowSizes:
    """What the flow tables are loaded with."""

    sets: int  # of flows of each family, on each CPU: a power of two from 2 on
    sample_rate: int
    cpus: int = 0  # how many, from the first on, have sets in plain arrays; 0: per-CPU arrays
    entries: int = (
        0  # `flows.max_entries` that the others follow from; 0: they stand for themselves
    )

    @classmethod
    def for_entries(cls, entries: int, sample_rate: int, online: int, possible: int) -> Self:
        """For so many flows, over all CPUs.

        One CPU alone may have them all, but on many it is less and less likely to: what
        they have room for together grows with their number no further than to
        32 times what each has.

        Args:
            entries: ``flows.max_entries``.
            sample_rate: ``flows.sample_rate``.
            online: How many CPUs are to be served, from the first on.
            possible: How many a per-CPU array has values for. It is taken if that is at most
                twice as many.
        """
        slots = entries / max(1, min(online, 32) // 2)
        sets = 1 << max(1, ceil(log2(slots / WAYS)))
        return cls(sets, sample_rate, online if possible > 2 * online else 0, entries)

    @property
    def identity(self) -> tuple[int, int]:
        """What pinned tables must agree in: not the number of CPUs that were online then."""
        return self.sample_rate, self.entries or self.sets * WAYS

    def found_in(self, table: MapInfo, sets: int) -> Self:
        """Return the sizes of an earlier agent's tables.

        Args:
            table: One of them.
            sets: How many each CPU has.
        """
        return replace(self, sets=sets, cpus=0 if table.per_cpu else table.max_entries // sets)

    @property
    def first_sets(self) -> NDArray[np.uint64]:
        """Where in the tables the sets of each possible CPU begin; of a CPU without, at the end."""
        before = np.minimum(np.arange(possible_cpus(), dtype=np.uint64), np.uint64(self.cpus))
        return before * np.uint64(self.sets)


@dataclass(frozen=True, slots=True)
class Variant:
    """Programs of one object that work together."""

    object: str
    first: str  # counts verdicts; loaded soon
    watches_devices: bool
    # To follow, in the order of attaching, and to take its place; the same for targets that
    # never alter a packet.
    rest: tuple[str, ...] = ()
    rest_read_only: tuple[str, ...] = ()

    @property
    def programs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.first, *self.rest, *self.rest_read_only)))

    def id(self, sizes: FlowSizes | None) -> str:
        """Equal for what can be pinned by one agent and taken over by the next."""
        of_sizes = None if sizes is None else sizes.identity
        parts = bpf.path_of(self.object).read_bytes(), repr((self, of_sizes)).encode()
        return sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()[:16]


def variants(flows: FlowSizes | None, watch_devices: bool) -> Iterator[Variant]:
    """What there is to try, the best first."""
    for watches in (True, False) if watch_devices else (False,):
        known = "by_epoch" if watches else "by_identity"
        if flows is None:
            yield Variant("verdicts", f"count_{known}", watches)
            continue
        sampled = flows.sample_rate > 1
        for reader in ("sampled",) if sampled else _READERS:
            leave = f"exit_flows_sampled_{known}" if sampled else f"exit_flows_{known}"
            # The exit before the entry: see bpf/probes/flows.bpf.c.
            pair = leave, f"entry_flows_{reader}"
            alone = (f"exit_only_{reader}",) if watches else pair
            yield Variant("flows", f"exit_verdicts_{known}", watches, pair, alone)


@dataclass(frozen=True, slots=True)
class _Copyable:
    """One template and where it takes what differs by target."""

    template: Template
    counts: Slots
    number: Slots
    hashes: tuple[Slots, Slots]
    device: Slots  # the device of a packet is the one it came by, or switched the one it leaves by


@dataclass(frozen=True, slots=True)
class Copy:
    """A template with what one target has in it."""

    name: str
    template: Template

    @property
    def title(self) -> str:
        """What the program is called in the kernel, which cuts it at 15 characters."""
        return f"xdpscope_{self.name.partition('_')[0]}"[:15]


@dataclass(frozen=True, slots=True)
class Attached:
    """A tracing program in place."""

    program: Program
    link: Link

    def close(self) -> None:
        """Detaches and unloads it."""
        self.link.close()
        self.program.close()


class SilentHookError(KernelError):
    """The kernel takes the hook on devices, but never runs it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the hook on devices is silent: {why}", EPROTO)
        self.why = why


class Templates:
    """A loaded object; makes the tracing programs of each target."""

    def __init__(
        self,
        variant: Variant,
        sizes: FlowSizes | None,
        self_test: Program,
        entry: EntryFunction,
        state: State | None = None,
    ) -> None:
        """Loads it, aimed at the anchor's entry function.

        With ``state``, with the maps that are pinned there, if any are.

        Raises:
            LoadError: the kernel refused one of its programs.
        """
        self.variant = variant
        self.tells_targets = False
        self._factors = [secrets.randbits(64) | 1 for _ in range(_FACTORS)]
        with ExitStack() as stack:
            loaded = stack.enter_context(Object(bpf.path_of(variant.object)))
            hooks = [_HOOK] if variant.watches_devices else []
            self._shared = [name for name in loaded.maps() if name != "counts"]
            pinned = state.open(self._shared, hooks) if state is not None else None
            if pinned is not None:
                for each in (*pinned.maps.values(), *pinned.links.values()):
                    stack.enter_context(each)
            loaded.set_autoload(*variant.programs, *(hooks if pinned is None else []))
            for name in variant.programs:
                loaded.set_attach_target(name, self_test, entry.name)
                loaded.keep_log(name)
            if pinned is not None:
                for name, each in pinned.maps.items():
                    loaded.reuse_fd(name, each)
                if sizes is not None:
                    sets = _flow_state(pinned.maps[_FLOW_STATE])[_SETS]
                    sizes = sizes.found_in(pinned.maps["flows4"].info, int(sets))
            elif sizes is not None:
                for family in ("flows4", "flows6"):
                    loaded.resize(family, sizes.sets * (sizes.cpus or 1))
                    if sizes.cpus:
                        loaded.share_between_cpus(family)
            self._hooks = dict(pinned.links) if pinned is not None else {}
            loaded.load()
            if pinned is None:
                for name in hooks:
                    with loaded.program(name) as hook:
                        link = stack.enter_context(Link.trace(hook, loaded.attach_type(name)))
                        self._hooks[name] = link
            if pinned is None and sizes is not None:
                with loaded.map(_FLOW_STATE) as map_:
                    state_ = _flow_state(map_)
                    state_[_SETS] = sizes.sets
                    map_.update(_ONLY_KEY, state_.tobytes())
            self.sizes = sizes
            self.adopted = pinned is not None
            self._copyables = {
                name: self._copyable(loaded, name, sizes) for name in variant.programs
            }
            self._object = loaded
            self._counts = stack.enter_context(loaded.map("counts"))
            self.hook_failure = ""  # of a variant that was tried before
            self.hook = (
                DeviceHook(stack.enter_context(loaded.map(".data.epoch")))
                if variant.watches_devices
                else None
            )
            self._resources = stack.pop_all()

    @staticmethod
    def _copyable(loaded: Object, name: str, sizes: FlowSizes | None) -> _Copyable:
        template = loaded.template(name)
        if netns.has_cookies():
            template = template.filled((template.constant_slots(_BY_INODE), _BY_COOKIE))
        if sizes is not None:
            template = template.filled(
                (template.constant_slots(_SAMPLE_RATE), sizes.sample_rate),
                (template.shift_slots(_SET_SHIFT), 64 - (sizes.sets.bit_length() - 1)),
            )
        first, second = (template.constant_slots(value) for value in _HASHES)
        return _Copyable(
            template,
            template.map_slots(loaded.map_fd("counts")),
            template.constant_slots(_TARGET) + template.comparison_slots(_TARGET),
            (first, second),
            template.switch_slots(),
        )

    def close(self) -> None:
        """Unloads everything."""
        self._resources.close()

    @property
    def btf(self) -> Btf:
        """The types of the records."""
        return self._object.btf

    def map(self, name: str) -> Map:
        """One of the maps that all targets share."""
        return self._object.map(name)

    def pin(self, state: State) -> None:
        """Pins what targets share, unless it was taken over from there.

        Raises:
            KernelError: it cannot be.
        """
        if not self.adopted:
            with ExitStack() as stack:
                maps = {name: stack.enter_context(self.map(name)) for name in self._shared}
                state.create(Shared(maps, self._hooks))

    @property
    def counts_info(self) -> MapInfo:
        """Describe the map of any target's counts."""
        return self._counts.info

    def new_counts(self) -> Map:
        """An empty map for the counts of one target."""
        counts = self._counts.sibling("xdpscope_counts")
        if self.sizes is not None and self.sizes.cpus:
            with ExitStack() as stack:
                stack.enter_context(counts)
                values = np.zeros((counts.info.cpus, counts.info.stride), np.uint8)
                typed(values, self.btf.struct("target_counts"))["first_set"] = self.sizes.first_sets
                counts.update(_ONLY_KEY, values.tobytes())
                stack.pop_all()
        return counts

    def copies(
        self, names: Iterable[str], number: int, counts: Map, *, at_egress: bool = False
    ) -> list[Copy]:
        """A copy of each of these programs for one target, to be loaded.

        Args:
            names: Of the programs.
            number: The target's.
            counts: The target's own.
            at_egress: Packets are counted at the device that they leave by.
        """
        # Which flows share a set is nobody's to know, and differs from target to target.
        hashes = self._factors[number % _FACTORS], self._factors[(3 * number + 1) % _FACTORS]
        found = []
        for name in names:
            each = self._copyables[name]
            template = each.template.filled(
                (each.counts, counts.fileno()),
                (each.number, number),
                *zip(each.hashes, hashes, strict=True),
            )
            if at_egress:
                template = template.switched(each.device)
            found.append(Copy(name, template))
        return found

    @staticmethod
    def attach(
        copies: Iterable[Copy], target: Program, entry: EntryFunction
    ) -> Generator[tuple[str, Attached], None, None]:
        """Loads each copy as a tracer of ``target``, or none; then attaches them.

        One after the other: each is the caller's, with its name, before the next is attached.

        Raises:
            LoadError: the kernel refused a copy.
            KernelError: it could not be attached.
        """
        waiting: list[tuple[Copy, Program]] = []
        try:
            for copy in copies:
                program = Program.load(copy.template, copy.title, target, entry)
                waiting.append((copy, program))
            while waiting:
                copy, program = waiting[0]
                attached = Attached(program, Link.trace(program, copy.template.attach_type))
                del waiting[0]
                yield copy.name, attached
        finally:
            for _, program in waiting:
                program.close()

    def try_on(self, self_test: Program, entry: EntryFunction) -> None:
        """Traces a program of our own, for a moment, in each of the ways there are.

        What a copy is refused for may be in code that its template has no use for; and what
        counts is to be replaced without a packet lost or counted twice, whichever of two exits
        this kernel runs first.

        Raises:
            KernelError: it cannot be done in one of them.
        """
        for rest in {self.variant.rest, self.variant.rest_read_only}:
            with ExitStack() as stack:
                counts = stack.enter_context(self.new_counts())
                for _, each in chain.from_iterable(
                    self.attach(self.copies(names, 0, counts), self_test, entry)
                    for names in ((self.variant.first,), rest)
                ):
                    stack.callback(each.close)
                    # Whether a tracer's reference can be told from a user's (Linux 5.13).
                    self.tells_targets = each.link.ends().target == self_test.info().id
                self_test.test_run(bytes(64))
                self._check_one(counts)

    def test_hook(self) -> None:
        """Make sure that devices are recognised exactly.

        ``kernel.ftrace_enabled`` may be switched on again: until then the hook is not trusted.

        Raises:
            SilentHookError: the hook does not run, and never will.
        """
        if self.hook is None:
            return
        self.hook.decide()
        if not self.hook.trusted and not ftrace_is_off():
            raise SilentHookError(self.hook.failure)

    def _check_one(self, counts: Map) -> None:
        records = typed(counts.lookup(_ONLY_KEY), self.btf.struct("target_counts"))
        packets = sum(int(each.counts[0, :, 0].sum()) for each in of_target(records).values())
        if packets != 1:
            raise KernelError(f"one packet was counted {packets} times", EPROTO)


def _flow_state(map_: Map) -> NDArray[np.uint32]:
    """Return ``taken`` of ``bpf/common/flow_table.h``."""
    found: NDArray[np.uint32] = map_.lookup(_ONLY_KEY)[0].view(np.uint32)
    return found


def load(
    flows: FlowSizes | None, watch_devices: bool, self_test: Program, pins: PinPath | None = None
) -> tuple[Templates, State | None]:
    """The best variant that this kernel takes; and where, with pins, its state is.

    Raises:
        UnsupportedHostError: programs have no BTF here, so that none can be traced.
        KernelError: why it takes not even the last variant.
    """
    entry = self_test.entry_function()
    if entry is None:
        raise UnsupportedHostError(
            "cannot trace BPF programs: this kernel keeps no BTF of them", hint=NO_BTF.hint
        )
    *others, last = variants(flows, watch_devices)
    failure = ""
    for variant in others:
        if failure and variant.watches_devices:
            continue
        try:
            return _tried(variant, flows, self_test, entry, pins, failure)
        except SilentHookError as error:
            failure = error.why
        except KernelError:
            continue
    return _tried(last, flows, self_test, entry, pins, failure)


def _tried(
    variant: Variant,
    flows: FlowSizes | None,
    self_test: Program,
    entry: EntryFunction,
    pins: PinPath | None,
    hook_failure: str,
) -> tuple[Templates, State | None]:
    state = pins.state(variant.id(flows)) if pins is not None else None
    with ExitStack() as stack:
        templates = stack.enter_context(closing(Templates(variant, flows, self_test, entry, state)))
        templates.hook_failure = hook_failure
        templates.test_hook()
        templates.try_on(self_test, entry)
        stack.pop_all()
        return templates, state
