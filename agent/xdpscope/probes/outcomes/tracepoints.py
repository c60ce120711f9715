# SPDX-License-Identifier: Apache-2.0
"""The programs of ``bpf/probes/outcomes.bpf.c``, attached to the kernel's xdp:* tracepoints."""

import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

import numpy as np
import structlog

from xdpscope import bpf
from xdpscope.discovery.model import interface_name
from xdpscope.errors import KernelError, LoadError
from xdpscope.kernel import netns
from xdpscope.libbpf import Btf, Link, Map, Object, Program, typed

_log = structlog.get_logger(__name__)

_OBJECT: Final = "outcomes"
_STATE: Final = ".data.outcomes"
_ONLY_KEY: Final = bytes(4)
_BTF_KIND_TYPEDEF: Final = 8  # include/uapi/linux/btf.h


class Outcome(StrEnum):
    """What can happen after a verdict. The values are those of the label ``outcome``."""

    EXCEPTION = "exception"
    REDIRECT_ERROR = "redirect_error"
    DEVMAP_TRANSMIT = "devmap_transmit"
    TX = "tx"
    CPUMAP = "cpumap"


@dataclass(frozen=True, slots=True)
class _Source:
    """The map that has an outcome's counts, and the tracepoints that report it."""

    map: str
    tracepoints: tuple[str, ...]  # without any of these, the outcome is not reported
    optional: tuple[str, ...] = ()


_SOURCES: Final[Mapping[Outcome, _Source]] = {
    Outcome.EXCEPTION: _Source("exceptions", ("xdp_exception",)),
    # Since Linux 5.6 the kernel raises the first one only; the other one is gone in 6.17.
    Outcome.REDIRECT_ERROR: _Source(
        "redirect_errors", ("xdp_redirect_err",), ("xdp_redirect_map_err",)
    ),
    Outcome.DEVMAP_TRANSMIT: _Source("devmap_transmits", ("xdp_devmap_xmit",)),
    Outcome.TX: _Source("transmits", ("xdp_bulk_tx",)),
    Outcome.CPUMAP: _Source("cpumaps", ("xdp_cpumap_enqueue", "xdp_cpumap_kthread")),
}


@dataclass(frozen=True, slots=True)
class Device:
    """A device as a tracepoint saw it first."""

    serial: int  # of its namespace
    index: int
    inode: int  # of its namespace
    name: str


@dataclass(frozen=True, slots=True)
class Record:
    """The packets of one key since the tracepoint was attached, over all CPUs."""

    outcome: Outcome
    key: bytes
    succeeded: int
    failed: int
    code: int  # an errno (negative), a verdict, or enum cpumap_side
    program_id: int  # 0: none
    program: str  # cut at 15 characters by the kernel
    map_id: int  # 0: none
    source: Device | None
    target: Device | None


class _Attached:
    """Programs that were loaded together, and their maps."""

    def __init__(self, outcomes: Iterable[Outcome], present: frozenset[str]) -> None:
        """Load and attach.

        Raises:
            KernelError: the kernel refuses one of the programs; none is attached then.
        """
        sources = {outcome: _SOURCES[outcome] for outcome in outcomes}
        names = [
            name
            for source in sources.values()
            for name in (*source.tracepoints, *source.optional)
            if name in present
        ]
        self._programs: list[Program] = []
        self._maps: dict[Outcome, Map] = {}
        self._stack = ExitStack()
        with ExitStack() as stack, Object(bpf.path_of(_OBJECT)) as loaded:
            loaded.set_autoload(*names)
            for name in names:
                loaded.keep_log(name)
            loaded.load()
            self._key = loaded.btf.struct("outcome_key")
            self._value = loaded.btf.struct("outcome")
            self._state = stack.enter_context(loaded.map(_STATE))
            state = np.zeros(1, loaded.btf.struct("outcome_state"))
            state["by_cookie"] = netns.has_cookies()
            self._state.update(_ONLY_KEY, state.tobytes())
            for outcome, source in sources.items():
                self._maps[outcome] = stack.enter_context(loaded.map(source.map))
            for name in names:
                program = stack.enter_context(loaded.program(name))
                stack.enter_context(Link.trace(program, loaded.attach_type(name)))
                self._programs.append(program)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    @property
    def outcomes(self) -> Iterable[Outcome]:
        return self._maps.keys()

    @property
    def lost(self) -> int:
        """Packets that a map had no room for, and runs that the kernel left out."""
        lost: int = struct.unpack_from("=Q", self._state.lookup(_ONLY_KEY).tobytes())[0]
        return lost + sum(program.run_stats().recursion_misses for program in self._programs)

    def read(self) -> list[Record]:
        found: list[Record] = []
        for outcome, opened in self._maps.items():
            keys, values = opened.items()
            if not len(keys):
                continue
            for raw, key, cpus in zip(
                keys, typed(keys, self._key), typed(values, self._value), strict=True
            ):
                found.append(_record(outcome, raw.tobytes(), key, cpus))
        return found

    def delete(self, record: Record) -> Record | None:
        """Delete the record's key; return what it had in the end, None if it is not one of ours."""
        if record.outcome not in self._maps:
            return None
        values = self._maps[record.outcome].lookup_and_delete(record.key)
        raw = np.frombuffer(record.key, np.uint8)
        return _record(
            record.outcome, record.key, typed(raw, self._key), typed(values, self._value)
        )


def _record(outcome: Outcome, raw: bytes, key: Any, cpus: Any) -> Record:
    source = int(key["from"])
    is_map = outcome is Outcome.CPUMAP
    first = cpus[np.argmax(cpus["from"]["netns"])]  # of a CPU that has the names
    return Record(
        outcome=outcome,
        key=raw,
        succeeded=int(cpus["succeeded"].sum()),
        failed=int(cpus["failed"].sum()),
        code=int(key["code"]),
        program_id=int(key["program"]),
        program=bytes(first["program"]).decode(errors="replace"),
        map_id=source if is_map else 0,
        source=None if is_map else _device(source, first["from"]),
        target=_device(int(key["to"]), first["to"]) if key["to"] else None,
    )


def _device(identity: int, described: Any) -> Device:
    return Device(
        identity >> 32,
        identity & 0xFFFFFFFF,
        int(described["netns"]),
        interface_name(bytes(described["name"])),
    )


class Tracepoints:
    """All tracepoints that this kernel has."""

    def __init__(self) -> None:
        """Attach to them. An outcome without its tracepoint is left out, and logged.

        Raises:
            KernelError: the kernel has no BTF, or it lacks what it may have later.
        """
        with Btf.of_kernel() as btf:
            present = frozenset(
                name
                for source in _SOURCES.values()
                for name in (*source.tracepoints, *source.optional)
                if btf.find(f"btf_trace_{name}", _BTF_KIND_TYPEDEF) is not None
            )
        self._attached: list[_Attached] = []
        wanted = []
        for outcome, source in _SOURCES.items():
            missing = [name for name in source.tracepoints if name not in present]
            if missing:
                _left_out(outcome, f"this kernel has no tracepoint {', '.join(missing)}")
            else:
                wanted.append(outcome)
        try:
            if wanted:
                self._attached.append(_Attached(wanted, present))
        except LoadError as error:
            if error.transient:
                raise
            _log.debug("attaching to each tracepoint by itself", error=str(error))
            self._one_by_one(wanted, present)

    def _one_by_one(self, wanted: Iterable[Outcome], present: frozenset[str]) -> None:
        for outcome in wanted:
            try:
                self._attached.append(_Attached([outcome], present))
            except KernelError as error:
                if error.transient:
                    self.close()
                    raise
                _left_out(outcome, str(error))

    def close(self) -> None:
        """Detach from all of them; again is no error."""
        for each in self._attached:
            each.close()
        self._attached.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def outcomes(self) -> frozenset[Outcome]:
        """The outcomes that this kernel reports."""
        return frozenset(outcome for each in self._attached for outcome in each.outcomes)

    @property
    def lost(self) -> int:
        """Packets whose outcome is in no record."""
        return sum(each.lost for each in self._attached)

    def read(self) -> list[Record]:
        """Return all records.

        Raises:
            KernelError: a map cannot be read.
        """
        return [record for each in self._attached for record in each.read()]

    def delete(self, record: Record) -> Record:
        """Delete a record from the kernel; return it as it was in the end.

        Raises:
            VanishedError: there is none.
            KernelError: it cannot be deleted.
        """
        for each in self._attached:
            found = each.delete(record)
            if found is not None:
                return found
        raise ValueError(f"no map for {record.outcome}")


def _left_out(outcome: Outcome, error: str) -> None:
    _log.warning("an outcome of packets is not counted", outcome=str(outcome), error=error)
