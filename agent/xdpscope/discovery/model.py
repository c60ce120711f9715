# SPDX-License-Identifier: Apache-2.0
"""The results of discovery: plain values, which are compared and passed on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


def interface_name(raw: bytes) -> str:
    """Return the label value for an interface's name: text, and different for different names.

    The kernel allows almost any bytes in a name. Bytes that are not UTF-8 are written as
    ``\\xff``. A backslash is doubled, so that no two names have the same label.
    """
    return raw.partition(b"\0")[0].replace(b"\\", rb"\\").decode(errors="backslashreplace")


class Mode(StrEnum):
    """How an interface runs a program."""

    NATIVE = "native"  # in the driver
    GENERIC = "generic"  # on the socket buffer, after the driver
    OFFLOAD = "offload"  # on the network card


class Role(StrEnum):
    """The role of a program; a driver calls a *root*."""

    ROOT = "root"
    DISPATCHER = "dispatcher"
    COMPONENT = "component"  # a freplace program inside a dispatcher, or for an entry function
    EXTENSION = "extension"  # a freplace program for any other function: it returns no verdict
    DEVMAP = "devmap"  # run by a devmap's entry, where a redirected packet leaves
    CPUMAP = "cpumap"  # run by a cpumap's entry, on the CPU that a packet was redirected to
    TAILCALL = "tailcall"  # reached through a prog array only


UNNAMED = "(unnamed)"
"""The name of a program that has none: neither a name nor BTF."""


@dataclass(frozen=True, slots=True)
class XdpProgram:
    """A loaded XDP program: what never changes about it."""

    id: int
    tag: str
    name: str  # as the kernel has it, cut at 15 characters
    function: str  # the entry function's whole name; ``name``, or UNNAMED, where there is no BTF
    entry_type_id: int  # the entry function's id in the program's BTF; 0: no BTF
    jited: bool
    attach_type: str  # libbpf's name; empty where this kernel does not tell
    extension: bool = False  # a freplace program, in place of a function of an XDP program
    at_egress: bool = False  # its packets belong to the device that they leave by
    map_ids: tuple[int, ...] = ()  # of the maps that it uses
    offloaded: bool = False  # a network card runs it
    entry_problem: str = ""  # why no tracer can read its entry function; empty: one can
    unreadable: str = ""  # why the agent may not open it; empty: it may
    load_time: int = 0  # nanoseconds since boot; 0: not known
    uid: int | None = None  # of who loaded it; None: not known

    @property
    def role(self) -> Role:
        """Return its role by attach type and, for libxdp's dispatcher, by name.

        ``Snapshot.part_of`` returns its role as it is used.
        """
        if self.extension:
            return Role.COMPONENT
        if self.attach_type == "xdp_devmap":
            return Role.DEVMAP
        if self.attach_type == "xdp_cpumap":
            return Role.CPUMAP
        return Role.DISPATCHER if self.function == "xdp_dispatcher" else Role.ROOT

    @property
    def selectors(self) -> tuple[str, str, str]:
        """Return the values by which a configuration may select this program."""
        return (self.function, str(self.id), self.tag)


@dataclass(frozen=True, slots=True, order=True)
class Attachment:
    """One location of a program: an interface where it is attached, or from which it receives
    packets.
    """

    netns: str
    interface: str
    mode: Mode
    # On a lower device of a bond that the program is attached to: the name of the bond. A packet's
    # device is the lower one.
    via: str = ""
    # False for a bond: it passes the program on to its lower devices. They receive the packets.
    receives: bool = True


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """A component's place in a dispatcher.

    ``position`` is 0 for the first, and for a component that replaces the dispatcher's entry
    function.
    """

    dispatcher: int
    position: int


@dataclass(frozen=True, slots=True)
class Part:
    """The role of a program at one moment."""

    role: Role
    chain: tuple[ChainPosition, ...] = ()  # of a component
    callers: tuple[int, ...] = ()  # of a tailcall program; see Snapshot.tail_called


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that was there at one moment."""

    programs: Mapping[int, XdpProgram] = field(default_factory=dict)
    # By program id; sorted. A program without attachments has no entry.
    attachments: Mapping[int, tuple[Attachment, ...]] = field(default_factory=dict)
    # By program id: the references on it that no tracer holds; empty where this kernel does not
    # report them.
    holders: Mapping[int, int] = field(default_factory=dict)
    # Programs whose entry function an extension replaces, which leaves no room for a tracer; or is
    # loaded to replace, which a tracer would prevent.
    claimed: frozenset[int] = frozenset()
    # Freplace programs for functions that return no verdict. See Role.EXTENSION.
    extensions: frozenset[int] = frozenset()
    # By component; empty where this kernel does not report it.
    chains: Mapping[int, tuple[ChainPosition, ...]] = field(default_factory=dict)
    # Programs that run without being attached anywhere: a cpumap's entry has them do so.
    running: frozenset[int] = frozenset()
    # Programs that only tail calls reach, and those that these calls begin with; none where
    # nobody uses the prog array.
    tail_called: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    # (namespace's serial number, ifindex) to (namespace name, interface name).
    interfaces: Mapping[tuple[int, int], tuple[str, str]] = field(default_factory=dict)
    # (namespace name, interface name) to the driver's name, as ethtool(8) shows it, of interfaces
    # that run a program; missing where it is not known.
    drivers: Mapping[tuple[str, str], str] = field(default_factory=dict)
    # (namespace name, interface name) of those that take VLAN tags out of packets before their
    # program sees them.
    strips_vlan: frozenset[tuple[str, str]] = frozenset()
    # (namespace name, interface name) to the names of the bonds, or the like, that it is a lower
    # device of, the nearest first.
    uppers: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    # Serial number to (inode number, name), of the namespaces that were scanned.
    namespaces: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    # Inode number to name, of all namespaces that have one.
    names: Mapping[int, str] = field(default_factory=dict)

    def in_service(self, program_id: int) -> bool:
        """Return whether packets reach this program otherwise than by tail call."""
        return bool(self.attachments.get(program_id)) or program_id in self.running

    def part_of(self, program: XdpProgram) -> Part:
        """Return the role of a program now."""
        if program.id in self.tail_called:
            return Part(Role.TAILCALL, callers=self.tail_called[program.id])
        if program.id in self.extensions:
            return Part(Role.EXTENSION)
        return Part(program.role, chain=self.chains.get(program.id, ()))
