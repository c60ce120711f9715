# SPDX-License-Identifier: Apache-2.0
"""Which packets a session wants: by program, interface, namespace, verdict and time inside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from xdpscope.discovery.model import Snapshot, XdpProgram

VERDICTS = ("aborted", "drop", "pass", "tx", "redirect", "unknown")
"""In the order of ``enum xdp_action``, then any other value."""

_UNKNOWN = len(VERDICTS) - 1


def kernel_name(verdict: int) -> str:
    """Return the kernel's name of a verdict, such as ``XDP_PASS``; the number of an unknown one."""
    return f"XDP_{VERDICTS[verdict].upper()}" if verdict < _UNKNOWN else str(verdict)


@dataclass(frozen=True)
class Selectors:
    """What the command line selects. An empty selector selects all."""

    programs: Sequence[str] = ()  # ids, tags, or globs over entry functions
    interfaces: Sequence[str] = ()  # globs
    namespaces: Sequence[str] = ()  # globs over names
    verdicts: frozenset[str] = field(default_factory=frozenset)
    min_inside: int = 0  # ns

    @property
    def late(self) -> bool:
        """Whether only the exit knows if a packet is wanted."""
        return bool(self.verdicts or self.min_inside)

    @property
    def by_device(self) -> bool:
        """Whether packets of some interfaces only are wanted."""
        return bool(self.interfaces or self.namespaces)

    @property
    def verdict_bits(self) -> int:
        """``config.verdicts`` of bpf/sessions/capture.bpf.c."""
        wanted = self.verdicts or VERDICTS
        return sum(1 << bit for bit, verdict in enumerate(VERDICTS) if verdict in wanted)

    def wants_program(self, program: XdpProgram) -> bool:
        """Return whether a program is selected by id, tag or entry function."""
        return not self.programs or any(
            wanted in (str(program.id), program.tag) or fnmatchcase(program.function, wanted)
            for wanted in self.programs
        )

    def wants_device(self, netns: str, interface: str, uppers: Sequence[str] = ()) -> bool:
        """Return whether the packets of an interface, or of its bond, are selected."""
        return _admits(self.namespaces, netns) and (
            _admits(self.interfaces, interface)
            or any(_admits(self.interfaces, upper) for upper in uppers)
        )

    def wants(self, program: XdpProgram, snapshot: Snapshot) -> bool:
        """Return whether packets of a program may be selected."""
        if not self.wants_program(program):
            return False
        locations = snapshot.attachments.get(program.id, ())
        if not self.by_device or not locations:
            # A cpumap's program is attached nowhere: any device's packets may come to it.
            return True
        return any(
            self.wants_device(
                at.netns, at.interface, snapshot.uppers.get((at.netns, at.interface), ())
            )
            for at in locations
        )

    def devices(self, snapshot: Snapshot) -> set[tuple[int, int]]:
        """Return the selected devices, each by its namespace's inode and its ifindex."""
        return {
            (snapshot.namespaces[serial][0], index)
            for (serial, index), (netns, name) in snapshot.interfaces.items()
            if serial in snapshot.namespaces
            and self.wants_device(netns, name, snapshot.uppers.get((netns, name), ()))
        }


def _admits(globs: Sequence[str], name: str) -> bool:
    return not globs or any(fnmatchcase(name, each) for each in globs)
