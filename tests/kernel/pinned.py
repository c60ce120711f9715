# SPDX-License-Identifier: Apache-2.0
"""Helpers that read pinned state for its tests."""

import struct
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from xdpscope.errors import VanishedError
from xdpscope.libbpf import Link

BPFFS = Path("/sys/fs/bpf")

READ_ONLY, WRITING = "decide_by_source_mac", "write_and_decide"
"""Of the first packets are read where they leave, of the other where they come in."""

OWN_LINKS = 3
"""That an agent has whatever it traces: two iterators, and the hook that is pinned."""

_DROP = 1


def udp(source_port: int) -> bytes:
    """Return a frame that the programs of flows.bpf.c drop."""
    ends = ip_address("192.0.2.1").packed + ip_address("192.0.2.2").packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, 46, 0, 0, 64, 17, 0) + ends
    ethernet = b"\x02\0\0\0\0\x02" + b"\x02\0\0\0\0" + bytes([_DROP]) + b"\x08\0"
    return ethernet + header + struct.pack("!HHHH", source_port, 53, 26, 0) + bytes(18)


def tree(path: Path) -> list[str]:
    """Return all that is below a directory."""
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


def links() -> int:
    """Return how many links there are in all."""
    return len(list(Link.ids()))


def tracers_of(program_id: int) -> int:
    """Return how many tracers of a program are attached, pinned or not (Linux 5.13)."""
    found = 0
    for link_id in Link.ids():
        with suppress(VanishedError), Link.open(link_id) as link:
            found += link.ends().target == program_id
    return found


def pinned_links(path: Path, program_id: int) -> set[str]:
    """Return the tracing programs that are pinned of one program, without what differs by
    kernel.
    """
    found = path.glob(f"state_*/targets/*_{program_id}/*")
    return {"_".join(each.name.split("_")[:2]) for each in found} - {"counts"}


def settled(path: Path, *program_ids: int) -> bool:
    """Return whether what is pinned of programs is what an agent ends up with."""
    ends = {"exit_only"}, {"exit_flows", "entry_flows"}, {"count_by"}
    return all(pinned_links(path, id) in ends for id in program_ids)


def wipe(path: Path) -> None:
    """Remove all of it, and wait until what was attached is not any more."""
    for each in sorted(path.rglob("*"), reverse=True):
        each.rmdir() if each.is_dir() else each.unlink()
    if path.exists():
        path.rmdir()
    end = time.monotonic() + 10
    while links() and time.monotonic() < end:
        time.sleep(0.02)
    assert links() == 0
