# SPDX-License-Identifier: Apache-2.0
"""Which kernels the project is tested on, and what a name stands for.

A kernel is named after what a reader wants to know, its version; where it comes from is the suite
of the distribution that carries it. Nothing here knows a mirror: ``fetch`` takes that from the
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DEBIAN_META = "linux-image-amd64"
"""Depends on the suite's current kernel; the ``cloud`` flavour is not taken, for it has no 9p."""

DEBIAN_RT_META = "linux-image-rt-amd64"
"""The same with PREEMPT_RT."""

UBUNTU_META = "linux-image-generic"


class VmError(Exception):
    """The harness cannot do what was asked; the message says what to do about it."""


@dataclass(frozen=True)
class Kernel:
    """A kernel by the name used on the command line."""

    name: str
    suite: str | None
    """The Debian suite that carries it; None for the machine's own distribution."""
    meta: str = DEBIAN_META
    """The Debian package that depends on it."""


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("5.10", "bullseye"),
        Kernel("6.1", "bookworm"),
        Kernel("6.12", "trixie"),
        Kernel("newest", "trixie-backports"),
        Kernel("rt", "trixie-backports", DEBIAN_RT_META),
        Kernel("default", None),
    )
}

MATRIX = ("5.10", "6.1", "6.12", "newest")
"""From the oldest supported to the newest that Debian carries."""

LAST_PARALLEL = (6, 1)
"""The newest kernel line known to survive several CPUs emulated in truly parallel threads."""


@dataclass(frozen=True)
class InstalledKernel:
    """An unpacked kernel in the cache."""

    name: str
    directory: Path
    """Holds ``lib/modules``, as if it were a root file system."""
    release: str
    """What ``uname -r`` will say."""
    image: Path
    """The kernel as packaged."""
    boot: Path
    """What the emulator boots: the image, or the same uncompressed where that is faster."""

    @property
    def modules(self) -> Path:
        """Return the directory of its modules."""
        return self.directory / "lib" / "modules" / self.release

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor = self.release.split(".")[:2]
        return int(major), int(minor.partition("-")[0].partition("+")[0])


def kernel(name: str) -> Kernel:
    """Return the kernel called ``name``; raises :class:`VmError` for a name that is none."""
    try:
        return KERNELS[name]
    except KeyError:
        raise VmError(f"no kernel is called {name!r}; there are {', '.join(KERNELS)}") from None
