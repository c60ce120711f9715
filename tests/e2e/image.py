# SPDX-License-Identifier: Apache-2.0
"""Builds the image as its Dockerfile says, without a Docker engine, and unpacks it.

    python -m tests.e2e.image

Needs Debian, root, buildah and debootstrap. ``debian:bookworm-slim`` is made here, of the same
packages from the machine's own mirror; the real one is smaller by what it leaves out of them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.machine import CERTIFICATES, pip_settings
from tests.vm.fetch import SBIN_PATH, cache_directory
from tests.vm.kernels import Kernel
from tests.vm.sources import sources_for

REPOSITORY = Path(__file__).resolve().parents[2]
# Beside the kernels, where guests read it cached.
CACHE = cache_directory() / "image"
ROOT, CONFIG = CACHE / "rootfs", CACHE / "config.json"

_SUITE = "bookworm"
_BASE, _IMAGE = f"localhost/debian:{_SUITE}-slim", "localhost/xdpscope:test"


def config() -> dict[str, Any]:
    """Return the image's own settings: Entrypoint, Env and so on."""
    found: dict[str, Any] = json.loads(CONFIG.read_text())
    return found


class _Buildah:
    """buildah with a storage of its own."""

    def __init__(self, storage: Path) -> None:
        self._command = ["buildah", "--root", str(storage / "root")]
        self._command += ["--runroot", str(storage / "run"), "--storage-driver", "vfs"]

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [*self._command, *arguments], check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.strip()


def _base() -> Path:
    """Return a tar of the base, made once."""
    archive = CACHE / f"{_SUITE}.tar"
    if archive.exists():
        return archive
    (source, *_) = sources_for(Kernel("the base image", _SUITE))
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=CACHE) as scratch:
        root = Path(scratch) / "root"
        options = ["--variant=minbase", f"--components={','.join(source.components)}"]
        if "Signed-By" in source.options:
            options.append(f"--keyring={source.options['Signed-By']}")
        _run(["debootstrap", *options, _SUITE, str(root), source.uris.split()[0]])
        for left in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(root / left, ignore_errors=True)
        made = Path(scratch) / "tar"
        _run(["tar", "-C", str(root), "-cf", str(made), "."])
        made.replace(archive)
    return archive


def _run(command: Sequence[str]) -> None:
    # What they say matters only if they fail.
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": SBIN_PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout[-3000:]}\n{command[0]} failed")


def _settings(scratch: Path) -> list[str]:
    """Return how pip reaches an index from this machine: its own settings, not the Dockerfile's."""
    file = scratch / "pip.conf"
    # Not where Debian has its own: a package of the build stage writes that again.
    there = Path("/mnt/certificates.crt")
    file.write_text(pip_settings(there))
    mounts = ((file, "/etc/pip.conf"), (CERTIFICATES, there))
    return [f"--volume={here}:{there}:ro" for here, there in mounts]


def make() -> None:
    """Leave the image's file system and its configuration in the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=CACHE) as name:
        scratch = Path(name)
        buildah = _Buildah(scratch)
        base = buildah("from", "scratch")
        buildah("add", "--quiet", base, _base())
        buildah("commit", "--quiet", base, _BASE)
        below = _size(Path(buildah("mount", base)))
        options = ["--quiet", "--isolation=chroot", "--pull-never", "--format=docker"]
        buildah("bud", *options, *_settings(scratch), "--tag", _IMAGE, REPOSITORY)
        container = buildah("from", "--pull-never", _IMAGE)
        shutil.rmtree(ROOT, ignore_errors=True)
        _run(["cp", "-a", buildah("mount", container), str(ROOT)])
        inspected = json.loads(buildah("inspect", "--type=image", _IMAGE))
        CONFIG.write_text(json.dumps(inspected["Docker"]["config"], indent=2))
        print(f"image: {_size(ROOT) - below:.0f} MB on a base of {below:.0f} MB")
        buildah("umount", "--all")


def _size(root: Path) -> float:
    output = subprocess.check_output(["du", "--summarize", "--block-size=1", root], text=True)
    return int(output.split()[0]) / 1e6


if __name__ == "__main__":
    began = time.monotonic()
    make()
    print(f"image: built in {time.monotonic() - began:.0f} s")
