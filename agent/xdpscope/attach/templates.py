# SPDX-License-Identifier: Apache-2.0
"""Load the templates, and copy them for each target.

There are two objects, and the agent loads one. ``verdicts`` has an fexit program. ``flows`` has an
fentry and an fexit program. Both have variants, from the cheapest to one that every kernel accepts.
The agent loads one variant after the other until the kernel accepts one.
"""

import secrets
from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from errno import EPROTO
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from xdpscope import bpf
from xdpscope.attach.device_hook import DeviceHook, ftrace_is_off
from xdpscope.attach.handover import Handover
from xdpscope.attach.pins import PinPath, Shared, State
from xdpscope.attach.spec import Spec
from xdpscope.attach.variants import FlowSizes, Variant, variants
from xdpscope.counters.records import of_target
from xdpscope.errors import KernelError, LoadError, UnsupportedHostError
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
    typed,
)

_ONLY_KEY = b"\0\0\0\0"

# Placeholders for constants in the templates: see bpf/common/xdpscope.h.
_TARGET = 0x7A26E7
_BY_INODE = 0x1DE0DE
_SET_SHIFT = 61
_HASHES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)

_FLOW_STATE = ".data.taken"
_SETS = 2

# The number of secret factors. All are odd, and each target uses two.
_FACTORS = 16

# The variants that the verifier has refused. Those of one kernel stay the same.
_refused: set[Variant] = set()

# Any constant other than _BY_INODE.
_BY_COOKIE = 0

_HOOK = "device_appears"


@dataclass(frozen=True, slots=True)
class _Copyable:
    """Hold a template, and the instructions in it that differ by target."""

    template: Template
    counts: Slots
    number: Slots
    hashes: tuple[Slots, Slots]
    device: Slots  # select the device: the receiving one, or if switched, the sending one


@dataclass(frozen=True, slots=True)
class Copy:
    """Hold a template that is patched for one target."""

    name: str
    template: Template

    @property
    def title(self) -> str:
        """Return the name of the program in the kernel, which has at most 15 characters."""
        return f"xdpscope_{self.name.partition('_')[0]}"[:15]


@dataclass(frozen=True, slots=True)
class Attached:
    """Hold an attached tracing program."""

    program: Program
    link: Link

    def close(self) -> None:
        """Detach and unload the program."""
        self.link.close()
        self.program.close()


class SilentHookError(KernelError):
    """Report that the kernel accepts the hook on devices, but never runs it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the hook on devices is silent: {why}", EPROTO)
        self.why = why


class Templates:
    """Hold a loaded object, and create the tracing programs of each target."""

    def __init__(
        self,
        variant: Variant,
        sizes: FlowSizes | None,
        self_test: Program,
        entry: EntryFunction,
        state: State | None = None,
    ) -> None:
        """Load the object. Its attach target is the entry function of the self-test.

        With ``state``, the object uses the maps that are pinned there, if there are any.

        Raises:
            LoadError: the kernel refused a program of the object.
        """
        self.variant = variant
        self.reports_targets = False
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
            self.handover = Handover(stack.enter_context(loaded.map(".data.control")))
            self._object = loaded
            self._counts = stack.enter_context(loaded.map("counts"))
            self.hook_failure = ""  # why the hook of an earlier variant was silent
            self.hook = (
                DeviceHook(stack.enter_context(loaded.map(".data.epoch")))
                if variant.watches_devices
                else None
            )
            self._resources = stack.pop_all()

    def load_kind(self, kind: Spec, self_test: Program, entry: EntryFunction) -> None:
        """Load the programs of a kind, and try them on the self-test.

        They use the maps of the programs that are loaded already. Again is no error.

        Raises:
            LoadError: the kernel refused one of them.
            KernelError: a test failed.
        """
        names = self.variant.programs_for(kind)
        if names[0] in self._copyables:
            return
        with ExitStack() as stack:
            loaded = stack.enter_context(Object(bpf.path_of(self.variant.object)))
            loaded.set_autoload(*names)
            for name in names:
                loaded.set_attach_target(name, self_test, entry.name)
                loaded.keep_log(name)
            for name in loaded.maps():
                with self.map(name) as shared:
                    loaded.reuse_fd(name, shared)
            loaded.load()
            added = {name: self._copyable(loaded, name, self.sizes) for name in names}
            try:
                self._copyables |= added
                self._try_handover(kind, self_test, entry)
            except KernelError:
                self._copyables = {k: v for k, v in self._copyables.items() if k not in added}
                raise
            self._resources.push(stack.pop_all())

    @staticmethod
    def _copyable(loaded: Object, name: str, sizes: FlowSizes | None) -> _Copyable:
        template = loaded.template(name)
        if netns.has_cookies():
            template = template.filled((template.constant_slots(_BY_INODE), _BY_COOKIE))
        if sizes is not None:
            template = template.filled(
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
        """Unload everything."""
        self._resources.close()

    @property
    def btf(self) -> Btf:
        """Return the types of the records."""
        return self._object.btf

    def map(self, name: str) -> Map:
        """Return one of the maps that all targets share."""
        return self._object.map(name)

    def pin(self, state: State) -> None:
        """Pin the maps and links that targets share, unless they are adopted.

        Raises:
            KernelError: a map or link cannot be pinned.
        """
        if not self.adopted:
            with ExitStack() as stack:
                maps = {name: stack.enter_context(self.map(name)) for name in self._shared}
                state.create(Shared(maps, self._hooks))

    @property
    def counts_info(self) -> MapInfo:
        """Return the properties of the map that holds the counts of a target."""
        return self._counts.info

    def new_counts(self) -> Map:
        """Create an empty map for the counts of one target."""
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
        """Return a copy of each of these programs for one target. The copies are not loaded yet.

        Args:
            names: The names of the programs.
            number: The number of the target.
            counts: The map with the counts of the target.
            at_egress: Whether packets count at the device through which they leave.
        """
        # Nobody must be able to predict which flows share a set. The factors differ by target.
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
        """Load all copies as tracing programs of ``target``, then attach them one by one.

        If one copy does not load, none is attached. The generator yields each program with its
        name before it attaches the next one. The caller then owns the program.

        Raises:
            LoadError: the kernel refused a copy.
            KernelError: a copy could not be attached.
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
        """Trace the self-test for a moment, with ``rest`` and with ``rest_read_only``.

        The kernel may load a template and refuse its copy, because of code that only a copy uses.
        The test also checks that one packet counts once while two fexit programs are attached. The
        kernel may run these in any order.

        Raises:
            KernelError: a test failed.
        """
        for rest in {self.variant.rest, self.variant.rest_read_only}:
            with ExitStack() as stack:
                counts = stack.enter_context(self.new_counts())
                for _, each in chain.from_iterable(
                    self.attach(self.copies(names, 0, counts), self_test, entry)
                    for names in ((self.variant.first,), rest)
                ):
                    stack.callback(each.close)
                    # From Linux 5.13, the agent can distinguish its references from those of users.
                    self.reports_targets = each.link.ends().target == self_test.info().id
                self_test.test_run(bytes(64))
                self._check(counts, packets=1)

    def _try_handover(self, kind: Spec, self_test: Program, entry: EntryFunction) -> None:
        """Replace the usual programs on the self-test by those of a kind.

        Each packet must count once, also while all of them are attached. A packet under programs
        that measure times must have one, and no other packet.

        Raises:
            KernelError: a test failed.
        """
        kinds = Spec.FLOWS, kind
        for ways in dict.fromkeys(zip(*map(self.variant.ways, kinds), strict=True)):
            with ExitStack() as stack:
                counts = stack.enter_context(self.new_counts())
                attached = ExitStack()
                for number, (each_kind, way) in enumerate(zip(kinds, ways, strict=True)):
                    old, attached = attached, stack.enter_context(ExitStack())
                    with old:
                        self.handover.begin(each_kind)
                        copies = self.copies(way, 0, counts)
                        for _, each in self.attach(copies, self_test, entry):
                            attached.callback(each.close)
                        self_test.test_run(bytes(64))
                        self._check(counts, packets=2 * number + 1)
                    self.handover.end()
                    self_test.test_run(bytes(64))
                    times = number if kind is Spec.TIMES else 0
                    self._check(counts, packets=2 * number + 2, times=times)

    def test_hook(self) -> None:
        """Test the hook on devices.

        While ``kernel.ftrace_enabled`` is 0, the hook is not trusted. That is not an error, because
        somebody may set it to 1 again.

        Raises:
            SilentHookError: the hook does not run, and never will.
        """
        if self.hook is None:
            return
        self.hook.decide()
        if not self.hook.trusted and not ftrace_is_off():
            raise SilentHookError(self.hook.failure)

    def _check(self, counts: Map, packets: int, times: int = 0) -> None:
        records = typed(counts.lookup(_ONLY_KEY), self.btf.struct("target_counts"))
        found = sum(int(each.counts[0, :, 0].sum()) for each in of_target(records).values())
        if found != packets:
            raise KernelError(f"of {packets} packets {found} were counted", EPROTO)
        found = int(records["timing"]["buckets"].sum())
        if found != times:
            raise KernelError(f"of {times} packets {found} have a time", EPROTO)


def _flow_state(map_: Map) -> NDArray[np.uint32]:
    """Return ``taken`` of ``bpf/common/flow_table.h``."""
    found: NDArray[np.uint32] = map_.lookup(_ONLY_KEY)[0].view(np.uint32)
    return found


def load(
    flows: FlowSizes | None, watch_devices: bool, self_test: Program, pins: PinPath | None = None
) -> tuple[Templates, State | None]:
    """Load the best variant that this kernel accepts. With pins, also return its state.

    Raises:
        UnsupportedHostError: this kernel keeps no BTF of programs, so it can trace none.
        KernelError: the kernel does not accept the last variant either.
    """
    entry = self_test.entry_function()
    if entry is None:
        raise UnsupportedHostError(
            "cannot trace BPF programs: this kernel keeps no BTF of them", hint=NO_BTF.hint
        )
    *others, last = variants(flows, watch_devices)
    failure = ""
    for variant in others:
        if variant in _refused or (failure and variant.watches_devices):
            continue
        try:
            return _tried(variant, flows, self_test, entry, pins, failure)
        except SilentHookError as error:
            failure = error.why
        except KernelError as error:
            if isinstance(error, LoadError) and error.log and not error.transient:
                _refused.add(variant)
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
