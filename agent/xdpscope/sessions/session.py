# SPDX-License-Identifier: Apache-2.0
"""A running trace or capture: its tracers follow the programs and interfaces of the host."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from errno import E2BIG, EBUSY
from typing import Self

from xdpscope.attach.reason import Reason, Selection
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import Snapshot, XdpProgram
from xdpscope.errors import KernelError, VanishedError, XdpscopeError
from xdpscope.kernel import netns
from xdpscope.log import printable
from xdpscope.sessions.selectors import Selectors
from xdpscope.sessions.tracers import ENTRY, EXIT, Counts, Plan, Target, Tracers

__all__ = ["ENTRY", "EXIT", "Device", "Session"]

SCAN_INTERVAL = 1.0
"""Seconds between two scans of the host."""
_SCAN_AT_MOST_EVERY = 0.1
_LONGEST_PAUSE = 60.0  # before a program that was refused is tried again


@dataclass(frozen=True, slots=True)
class Device:
    """Where a packet was seen, by the names that people use."""

    netns: str
    interface: str

    @property
    def title(self) -> str:
        """``eth0``, or ``blue/eth0`` in another namespace than the host's."""
        name = self.interface if self.netns == netns.HOST else f"{self.netns}/{self.interface}"
        return printable(name)


@dataclass
class _Refusal:
    reason: str
    again_at: float
    pause: float = 1.0


class Session:
    """Traces the selected programs until it is closed.

    A thread scans the host once a second. It attaches to programs that appear, and detaches
    from programs that nothing uses any more.
    """

    def __init__(self, plan: Plan, note: Callable[[str], None]) -> None:
        """Attach to the programs of this moment.

        Args:
            plan: What is captured.
            note: Called with remarks for people; by two threads.

        Raises:
            TracingUnavailableError: this kernel does not trace BPF programs for us.
            XdpscopeError: none of the selected programs can be traced.
        """
        self._note = note
        self._selectors: Selectors = plan.selectors
        self._uses_vlan = plan.filter is not None and plan.filter.uses_vlan
        self._warned: set[tuple[str, str]] = set()
        self._names: dict[tuple[int, int], Device] = {}
        self._attached: dict[int, Target] = {}  # by program id
        self._refused: dict[int, _Refusal] = {}
        self._following = False
        self._scanned_at = 0.0
        self._scanning = threading.Lock()
        self._end = threading.Event()
        # Without the right to do this, everything else would fail as well, and log why.
        self._inventory = Inventory()
        try:
            snapshot = self._inventory.take()
            self.tracers = Tracers(plan)
        except BaseException:
            self._inventory.close()
            raise
        try:
            self._update(snapshot)
            if not self._attached:
                self._explain(snapshot)
        except BaseException:
            self.tracers.close()
            self._inventory.close()
            raise
        self._following = True
        self._thread = threading.Thread(target=self._follow, name="scan", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Detach from everything, and free the rings."""
        self.stop()
        self.tracers.close()

    def stop(self) -> None:
        """Detach from everything; what is in the rings stays there. Again is no error."""
        if self._end.is_set():
            return
        self._end.set()
        self._thread.join()
        self.tracers.detach_all()
        self._inventory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def programs(self) -> int:
        """The number of programs that are traced now."""
        return len(self._attached)

    def target(self, number: int) -> Target:
        """Return the target that a record names."""
        return self.tracers.targets[number]

    def device(self, inode: int, index: int) -> Device:
        """Return the names of a record's device."""
        found = self._names.get((inode, index))
        if found is None:
            self._scan(_SCAN_AT_MOST_EVERY)
            found = self._names.get((inode, index))
        return found or Device(str(inode), f"if{index}")

    def summary(self) -> list[tuple[Target, int, Counts]]:
        """Return what was counted at each point of capture that saw a packet."""
        return [each for each in self.tracers.counts() if each[2].matched]

    def _follow(self) -> None:
        while not self._end.wait(SCAN_INTERVAL):
            self._scan(0)

    def _scan(self, at_most_every: float) -> None:
        with self._scanning:
            if self._end.is_set() or time.monotonic() < self._scanned_at + at_most_every:
                return
            try:
                self._update(self._inventory.take())
            except (KernelError, OSError) as error:
                self._note(f"cannot scan the host: {error}")
            self._scanned_at = time.monotonic()

    def _update(self, snapshot: Snapshot) -> None:
        for (serial, index), (name, interface) in snapshot.interfaces.items():
            if serial in snapshot.namespaces:
                inode = snapshot.namespaces[serial][0]
                self._names[inode, index] = Device(name, interface)
        if self._selectors.by_device:
            self.tracers.select_devices(self._selectors.devices(snapshot))
        wanted = {}
        for id, program in snapshot.programs.items():
            if self._selectors.wants(program, snapshot):
                reason = Selection().reason_against(program, snapshot)
                if reason is None:
                    wanted[id] = program
                elif self._is_named(program) and reason is not Reason.NOT_ATTACHED:
                    self._refuse(program, reason)
        for id in self._attached.keys() - wanted.keys():
            self.tracers.detach(self._attached.pop(id))
        for id, program in wanted.items():
            if id not in self._attached:
                self._attach(program)
        if self._uses_vlan:
            self._warn_of_stripped_tags(snapshot)
        self._refused = {id: r for id, r in self._refused.items() if id in snapshot.programs}

    def _warn_of_stripped_tags(self, snapshot: Snapshot) -> None:
        """Warn once of each interface whose packets have no VLAN tags that a filter could find."""
        for at in {at for id in self._attached for at in snapshot.attachments.get(id, ())}:
            name = at.netns, at.interface
            if (
                name in snapshot.strips_vlan - self._warned
                and at.receives
                and self._selectors.wants_device(*name, snapshot.uppers.get(name, ()))
            ):
                self._warned.add(name)
                keep = f"ethtool -K {printable(at.interface)} rxvlan off"
                self._note(
                    f"warning: {Device(*name).title} strips VLAN tags before the program sees the"
                    f" packet, so `vlan` matches nothing there; `{keep}` keeps them"
                )

    def _is_named(self, program: XdpProgram) -> bool:
        return bool(self._selectors.programs) and self._selectors.wants_program(program)

    def _attach(self, program: XdpProgram) -> None:
        refused = self._refused.get(program.id)
        if refused is not None and time.monotonic() < refused.again_at:
            return
        try:
            self._attached[program.id] = self.tracers.attach(program)
        except VanishedError:
            pass
        except (KernelError, OSError) as error:
            reason = Reason.BUSY if error.errno in (EBUSY, E2BIG) else Reason.KERNEL_REFUSED
            detail = error.summary if isinstance(error, KernelError) else str(error)
            self._refuse(program, reason, detail)
        else:
            self._refused.pop(program.id, None)
            if self._following:
                self._note(f"tracing {printable(program.function)} (program {program.id}) too")

    def _refuse(self, program: XdpProgram, reason: Reason, detail: str = "") -> None:
        refused = self._refused.get(program.id)
        if refused is None:
            refused = self._refused[program.id] = _Refusal(reason, 0.0)
            more = f": {detail}" if detail else ""
            self._note(
                f"cannot trace {printable(program.function)} (program {program.id}): {reason}{more}"
            )
        refused.again_at = time.monotonic() + refused.pause
        refused.pause = min(_LONGEST_PAUSE, refused.pause * 2)

    def _explain(self, snapshot: Snapshot) -> None:
        """Say why nothing is traced; wait for programs to come if there is none."""
        if self._refused:
            raise XdpscopeError(
                "none of the selected programs can be traced",
                hint="`xdpscope list` shows every program, and why it cannot be traced",
            )
        missing = [
            each
            for each in self._selectors.programs
            if not any(Selectors((each,)).wants_program(p) for p in snapshot.programs.values())
        ]
        what = f"no program matches {', '.join(missing)}" if missing else "no XDP program is in use"
        self._note(f"{what}; waiting for one")
