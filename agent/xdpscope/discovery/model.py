# SPDX-License-Identifier: Apache-2.0
"""What discovery finds: plain values, compared and passed around."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Mode(StrEnum):
    """How an interface runs a program."""

    NATIVE = "native"  # in the driver
    GENERIC = "generic"  # on the socket buffer, after the driver
    OFFLOAD = "offload"  # on the network card


class Role(StrEnum):
    """What part a program plays; a *root* is what a driver calls."""

    ROOT = "root"
    DISPATCHER = "dispatcher"
    COMPONENT = "component"  # a freplace program inside a dispatcher
    DEVMAP = "devmap"
    CPUMAP = "cpumap"


@dataclass(frozen=True, slots=True)
class XdpProgram:
    """A loaded XDP program: what never changes about it."""

    id: int
    tag: str
    name: str  # as the kernel has it, cut at 15 characters
    function: str  # the entry function's whole name; ``name`` where there is no BTF
    entry_type_id: int  # the entry function's id in the program's BTF; 0: no BTF
    jited: bool
    attach_type: str  # libbpf's name; empty where this kernel does not tell
    extension: bool = False  # a freplace program, in place of a function of an XDP program

    @property
    def role(self) -> Role:
        """By attach type and, for libxdp's dispatcher, by name."""
        if self.extension:
            return Role.COMPONENT
        if self.attach_type == "xdp_devmap":
            return Role.DEVMAP
        if self.attach_type == "xdp_cpumap":
            return Role.CPUMAP
        return Role.DISPATCHER if self.function == "xdp_dispatcher" else Role.ROOT

    @property
    def selectors(self) -> tuple[str, str, str]:
        """What a configuration may call this program by."""
        return (self.function, str(self.id), self.tag)


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """One place where a program is attached."""

    netns: str
    interface: str
    mode: Mode


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that was there at one moment."""

    programs: Mapping[int, XdpProgram] = field(default_factory=dict)
    # By program id; sorted, and missing for a program that is attached nowhere.
    attachments: Mapping[int, tuple[Attachment, ...]] = field(default_factory=dict)
    # By program id: references that somebody who is no tracer holds on it; empty where this
    # kernel does not tell.
    holders: Mapping[int, int] = field(default_factory=dict)
    # Programs whose entry function an extension stands in for; no tracer can be put there.
    replaced: frozenset[int] = frozenset()
    # (namespace's serial number, ifindex) to (namespace name, interface name).
    interfaces: Mapping[tuple[int, int], tuple[str, str]] = field(default_factory=dict)
    # Serial number to (inode number, name), of the namespaces that were looked into.
    namespaces: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    # Inode number to name, of all namespaces that have one.
    names: Mapping[int, str] = field(default_factory=dict)
