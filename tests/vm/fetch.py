# SPDX-License-Identifier: Apache-2.0
"""Fetch a kernel from the distribution's own packages into a cache, once.

apt does the work, with its signature and checksum checks, but with a configuration of its own: its
own sources, lists and package state, so that neither the machine's apt nor its installed packages
are touched or asked. The address of the mirror is the machine's; the repository names none.

A kernel appears in the cache under its name by one rename, when it is complete: ``6.1`` is a
symbolic link to the directory of one package version.
"""

from __future__ import annotations

import argparse
import fcntl
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .kernels import (
    DEBIAN_META,
    KERNELS,
    MATRIX,
    UBUNTU_META,
    InstalledKernel,
    Kernel,
    VmError,
    kernel,
)
from .sources import MIRROR_VARIABLE, Source, sources_for, stanzas

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SBIN_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""Debian keeps sbin off a normal user's PATH; depmod and modprobe live there."""

_PART = re.compile(r"linux-(?:image|binary|modules|modules-extra|base)-(?:unsigned-)?(\d\S*)")
_XZ_MAGIC = b"\xfd7zXZ\x00"


def cache_directory() -> Path:
    """Return where downloads are kept: outside of any work tree, so that all of them share it."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).absolute() if base else Path.home() / ".cache") / "xdpscope"


def kernel_directory() -> Path:
    """Return where kernels are kept: in ``XDPSCOPE_VM_CACHE``, else in the cache."""
    chosen = os.environ.get("XDPSCOPE_VM_CACHE")
    return Path(chosen).absolute() if chosen else cache_directory() / "kernels"


def installed(name: str) -> InstalledKernel | None:
    """Return the kernel called ``name`` if the cache holds it; touches no network."""
    directory = (kernel_directory() / kernel(name).name).resolve()
    if not directory.is_dir():
        return None
    release = next((directory / "lib" / "modules").iterdir()).name
    image = directory / "boot" / f"vmlinuz-{release}"
    if not image.exists():
        image = directory / "lib" / "modules" / release / "vmlinuz"
    boot = directory / "vmlinux"
    return InstalledKernel(name, directory, release, image, boot if boot.exists() else image)


def ensure(name: str, *, refresh: bool = False) -> InstalledKernel:
    """Return the kernel called ``name``, fetched unless the cache has it.

    ``refresh`` asks for the newest package version even so. Safe to call from several processes at
    once. Raises :class:`VmError`.
    """
    wanted = kernel(name)
    found = None if refresh else installed(name)
    if found is not None:
        return found
    cache = kernel_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache):
        found = (
            None if refresh else installed(name)
        )  # another process may have fetched it while we waited
        if found is None:
            _fetch(wanted, cache)
            found = installed(name)
    assert found is not None
    return found


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    with (cache / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process is fetching a kernel; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        for leftover in cache.glob(".partial-*"):  # its maker died, or it would hold the lock
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _fetch(wanted: Kernel, cache: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache) as scratch:
        partial = Path(scratch)
        apt = Apt(partial, sources_for(wanted))
        _say(f"kernel {wanted.name}: reading the package lists")
        apt.update(f"kernel {wanted.name}", wanted.suite)
        packages, version = _kernel_packages(apt, wanted)
        release = packages[0].removeprefix("linux-image-")
        directory = cache / f"{release}_{version.replace(':', '-')}"
        if not directory.is_dir():
            _say(f"kernel {wanted.name}: fetching {', '.join(packages)}")
            tree = partial / "tree"
            tree.mkdir()
            for package in apt.download(packages):
                _checked(["dpkg", "-x", str(package), str(tree)])
            _complete(tree, release)
            tree.rename(directory)
        link = partial / "link"
        link.symlink_to(directory.name)
        link.replace(cache / wanted.name)
    _say(f"kernel {wanted.name}: {release} is in {cache}")


def _complete(tree: Path, release: str) -> None:
    """Make one layout of the several that packages have had, and index the modules."""
    old, merged = tree / "lib", tree / "usr" / "lib"
    if (merged / "modules").is_dir():
        if not old.exists():
            old.symlink_to("usr/lib")
    elif (old / "modules").is_dir():
        merged.parent.mkdir(exist_ok=True)
        if not merged.exists():
            merged.symlink_to("../lib")
    images = [tree / "boot" / f"vmlinuz-{release}", old / "modules" / release / "vmlinuz"]
    image = next((candidate for candidate in images if candidate.is_file()), None)
    if image is None:
        raise VmError(
            f"the packages of {release} hold no kernel image; have they been split again?"
        )
    _checked(["depmod", "-b", str(tree), release])
    uncompressed = _uncompressed(image.read_bytes())
    if uncompressed is not None:
        (tree / "vmlinux").write_bytes(uncompressed)


def _uncompressed(image: bytes) -> bytes | None:
    """Return the ELF kernel inside an XZ-compressed bzImage, or None for another compression.

    Unpacking XZ takes the emulated CPU about 2.5 seconds at every start; other compressions cost a
    fraction. Fields are those of the x86 boot protocol, Documentation/arch/x86/boot.rst.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[(setup_sectors + 1) * 512 + offset :][:length]
    if not payload.startswith(_XZ_MAGIC):
        return None
    return lzma.LZMADecompressor().decompress(payload)  # four bytes of length follow the stream


class Apt:
    """apt with nothing of the machine's but its keys, its proxy and its way to the mirror."""

    def __init__(self, scratch: Path, sources: Sequence[Source]) -> None:
        self._scratch = scratch
        self._debs = scratch / "debs"
        for directory in ("lists/partial", "cache/archives/partial", "debs"):
            (scratch / directory).mkdir(parents=True)
        (scratch / "status").touch()
        listing = scratch / "vm.sources"
        listing.write_text("\n".join(source.stanza() for source in sources))
        settings = {
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",  # the user _apt may not enter a private cache
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::Etc::SourceList": str(listing),
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::State": str(scratch),
            "Dir::State::Lists": str(scratch / "lists"),
            "Dir::State::Status": str(scratch / "status"),
            "Dir::Cache": str(scratch / "cache"),
        }
        self._options = [
            part for name, value in settings.items() for part in ("-o", f"{name}={value}")
        ]

    def update(self, purpose: str, suite: str | None) -> None:
        """Fetch and verify the package lists."""
        try:
            # Without the last option a list that cannot be had is only a warning.
            _checked(
                ["apt-get", *self._options, "-qq", "-o", "APT::Update::Error-Mode=any", "update"]
            )
        except VmError as error:
            raise VmError(
                f"{error}\n{purpose} needs {suite or 'its archive'}. If the "
                f"mirror no longer carries it, set {MIRROR_VARIABLE} to one that does (old suites "
                "move to the distribution's archive); if a key is missing, install "
                "debian-archive-keyring"
            ) from None

    def show(self, package: str) -> dict[str, str]:
        """Return the control fields of the package's candidate version; empty if there is none."""
        result = _run(["apt-cache", *self._options, "show", "--no-all-versions", package])
        return next(stanzas(result.stdout), {}) if result.returncode == 0 else {}

    def download(self, packages: Iterable[str]) -> list[Path]:
        """Return the packages' files; apt compares them with the signed lists."""
        _checked(["apt-get", *self._options, "-qq", "download", *packages], cwd=self._debs)
        return sorted(self._debs.glob("*.deb"))


def _kernel_packages(apt: Apt, wanted: Kernel) -> tuple[list[str], str]:
    """Return the packages of the suite's current kernel, ``linux-image-RELEASE`` first, and its
    version.

    Kernels have been one package, or image and modules, or four: so dependencies are followed from
    the meta package, through what carries a kernel release in its name and only that.
    """
    metas = (wanted.meta,) if wanted.suite else (DEBIAN_META, UBUNTU_META)
    meta = next((fields for fields in map(apt.show, metas) if fields), None)
    if meta is None:
        raise VmError(
            f"no package {' or '.join(metas)} for kernel {wanted.name}; is this machine amd64?"
        )
    found: dict[str, str] = {}
    waiting = _dependencies(meta)
    while waiting:
        package = waiting.pop(0)
        if package in found or not _PART.fullmatch(package):
            continue
        fields = apt.show(package)
        if fields:
            found[package] = fields["Version"]
            waiting += _dependencies(fields)
    ordered = sorted(found, key=lambda package: not re.match(r"linux-image-\d", package))
    if not ordered or not ordered[0].startswith("linux-image-"):
        raise VmError(f"the meta package of kernel {wanted.name} leads to no linux-image package")
    return ordered, found[ordered[0]]


def _dependencies(fields: Mapping[str, str]) -> list[str]:
    """Names depended on; of alternatives the first, which is what apt would install."""
    relations = f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}".split(",")
    return [
        words[0].partition(":")[0]
        for words in (relation.split() for relation in relations)
        if words
    ]


def _run(command: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C", "PATH": SBIN_PATH}
    try:
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise VmError(
            f"{command[0]} is not installed; kernels are fetched with apt, dpkg and kmod"
        ) from None


def _checked(command: Sequence[str], cwd: Path | None = None) -> None:
    result = _run(command, cwd)
    if result.returncode != 0:
        reason = (result.stderr or result.stdout).strip() or f"exit status {result.returncode}"
        raise VmError(f"{command[0]} failed: {reason}")


def _say(message: str) -> None:
    print(f"vm: {message}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch kernels ahead of their use."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.fetch", description=main.__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(KERNELS)}; without any, the matrix"
    )
    parser.add_argument(
        "--refresh", action="store_true", help="take a newer package version if there is one"
    )
    options = parser.parse_args(arguments)
    try:
        for name in options.names or MATRIX:
            found = ensure(name, refresh=options.refresh)
            print(f"{name}\t{found.release}\t{found.directory}")
    except VmError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
