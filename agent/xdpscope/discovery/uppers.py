# SPDX-License-Identifier: Apache-2.0
"""Devices that pass their XDP program on to their lower devices, without recording it there.

A bond gives the program to each of its lower devices, and runs it nowhere itself. netvsc, the
device of Hyper-V, gives it to its virtual function, and runs it on what comes past that as well.
rtnetlink reports the program on the upper device only; a packet's device is the lower one.
A team does not do this: it accepts generic mode only, which runs on the team itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xdpscope.discovery.interfaces import BOND, NETVSC, Interface
from xdpscope.discovery.model import Attachment, Mode


@dataclass(frozen=True, slots=True)
class Uppers:
    """The devices of one namespace that pass programs on, and those below them."""

    # By the ifindex of the upper device: all devices below it. A bond may be in a bond.
    _lower: Mapping[int, Sequence[Interface]]
    # By name: the names of the devices above it, the nearest first.
    names: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, interfaces: Sequence[Interface]) -> "Uppers":
        """Return the upper devices of all interfaces of a namespace."""
        passing = {each.index: each for each in interfaces if each.kind in (BOND, NETVSC)}
        lower: dict[int, list[Interface]] = {}
        names: dict[str, tuple[str, ...]] = {}
        for interface in interfaces:
            above: list[Interface] = []
            upper = passing.get(interface.master)
            while upper is not None and upper not in above:
                above.append(upper)
                lower.setdefault(upper.index, []).append(interface)
                upper = passing.get(upper.master)
            if above:
                names[interface.name] = tuple(each.name for each in above)
        return cls(lower, names)

    def attachments(self, netns: str, interface: Interface, mode: Mode) -> Iterator[Attachment]:
        """Yield every location of a program that is attached to this interface."""
        passes_on = mode is Mode.NATIVE and interface.kind in (BOND, NETVSC)
        receives = not (passes_on and interface.kind == BOND)
        yield Attachment(netns, interface.name, mode, receives=receives)
        if passes_on:
            for lower in self._lower.get(interface.index, ()):
                # A bond below a bond only passes its program on.
                if lower.kind != BOND:
                    yield Attachment(netns, lower.name, mode, via=interface.name)
