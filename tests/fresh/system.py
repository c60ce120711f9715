# SPDX-License-Identifier: Apache-2.0
"""A bare root file system, and commands in it.

debootstrap makes it once and the cache keeps it as a tar. Each command runs below chroot in mount
and process namespaces of its own. They end with the command, and so do all mounts and processes,
even if this process is killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.machine import CERTIFICATES, pip_settings
from tests.vm.fetch import SBIN_PATH, cache_directory, kernel_directory
from tests.vm.kernels import Kernel, VmError
from tests.vm.sources import Source, sources_for

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = cache_directory() / "fresh"
USER = "tester"
UBUNTU_MIRROR = "XDPSCOPE_UBUNTU_MIRROR"

_ENTER = Path(__file__).with_name("enter.sh")
# Not below /etc/ssl: the package ca-certificates writes its own file there.
_CERTIFICATES = "/mnt/certificates.crt"
_SOURCE = "/mnt/source"


class FreshError(Exception):
    """The system cannot be made; the message says why."""


@dataclass(frozen=True)
class System:
    """One release of a distribution."""

    name: str
    suite: str

    def source(self) -> Source:
        """Return where its packages are, from this machine's apt. Raises FreshError."""
        if self.name.startswith("ubuntu"):
            mirror = os.environ.get(UBUNTU_MIRROR)
            if not mirror:
                raise FreshError(f"no mirror of Ubuntu is known here; {UBUNTU_MIRROR} can name one")
            return Source(mirror, (self.suite,), ("main", "universe"), {})
        try:
            return sources_for(Kernel(self.name, self.suite))[0]
        except VmError as error:
            raise FreshError(str(error)) from None


SYSTEMS = {
    system.name: system
    for system in (
        System("debian-12", "bookworm"),
        System("debian-13", "trixie"),
        System("ubuntu-24.04", "noble"),
    )
}


class Root:
    """An unpacked system with one account to work in."""

    def __init__(self, directory: Path, system: System, *, user: str) -> None:
        self.directory = directory
        self.user = user
        self.home = Path("/root") if user == "root" else Path("/home") / user
        self._system = system

    def prepare(self) -> None:
        """Give it this machine's way to package sources, and the account. Raises FreshError."""
        source = self._system.source()
        options = {key: path for key, path in source.options.items() if self._has(path)}
        plain = Source(source.uris, (self._system.suite,), source.components, options)
        self._write("etc/apt/sources.list.d/fresh.sources", plain.stanza())
        self._write("etc/apt/sources.list", "")
        self._write("etc/apt/apt.conf.d/99fresh", _apt_settings())
        # A crash of this machine would cost a file system that is thrown away anyway.
        self._write("etc/dpkg/dpkg.cfg.d/fresh", "force-unsafe-io\n")
        self._write("etc/pip.conf", pip_settings(Path(_CERTIFICATES)))
        for name in ("resolv.conf", "hosts"):
            self._write(f"etc/{name}", (Path("/etc") / name).read_text())
        # The repository belongs to whoever runs this.
        self._write("etc/gitconfig", "[safe]\n\tdirectory = *\n")
        # Where no home is and every account may write.
        shared = self.directory / "opt" / "a space"
        shared.mkdir()
        shared.chmod(0o777)
        if self.user != "root":
            commands = (
                "apt-get -qq update && apt-get -qq -y --no-install-recommends install sudo &&"
                f" useradd --create-home --shell /bin/bash {self.user} &&"
                f" echo '{self.user} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/fresh"
            )
            status, output = self.run(commands, Path("/"), 600, user="root")
            if status:
                raise FreshError(f"the account could not be made: {output[-1000:]}")

    def _has(self, path: str) -> bool:
        return (self.directory / path.lstrip("/")).exists()

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)

    def run(
        self, command: str, directory: Path, limit: float, *, user: str | None = None
    ) -> tuple[int, str]:
        """Run a shell command in it; return its status (124 at the time limit) and its output."""
        user = user or self.user
        home = Path("/root") if user == "root" else self.home
        enter = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]
        enter += ["--kill-child=KILL", "--propagation", "private", "bash", str(_ENTER)]
        arguments = [str(self.directory), user, str(home), str(directory), command]
        mounts = [f"{here}={there}" for here, there in self._mounts(user, home)]
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                [*enter, *arguments, *mounts],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": SBIN_PATH},
            )
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                status = 124
            finally:
                # unshare ignores SIGTERM. Once it is gone, the first process of the namespace is
                # killed, and the kernel ends the others.
                process.kill()
                process.wait()
            log.seek(0)
            return status, log.read().decode(errors="replace")

    def _mounts(self, user: str, home: Path) -> list[tuple[Path, str]]:
        """Return what it shares with this machine: the sources, and downloads, for repeated
        runs.
        """
        common = subprocess.check_output(
            ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"],
            cwd=REPOSITORY,
            text=True,
        ).strip()
        shared = {
            CACHE / f"apt-{self._system.name}": "/var/cache/apt/archives",
            CACHE / f"pip-{'root' if user == 'root' else 'user'}": f"{home}/.cache/pip",
            kernel_directory(): f"{home}/.cache/xdpscope/kernels",
        }
        for directory in shared:
            directory.mkdir(parents=True, exist_ok=True)
        return [(CERTIFICATES, _CERTIFICATES), (Path(common), _SOURCE), *shared.items()]


def _apt_settings() -> str:
    """Return this machine's settings of how apt downloads, as lines of apt.conf."""
    names = ("Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries")
    dump = subprocess.check_output(["apt-config", "dump"], text=True)
    return "".join(line + "\n" for line in dump.splitlines() if line.startswith(names))


@contextmanager
def unpacked(system: System, user: str) -> Iterator[Root]:
    """Give a fresh root file system, removed at the end. Raises FreshError."""
    archive = _archive(system)
    with tempfile.TemporaryDirectory(prefix=f".{system.name}-", dir=CACHE) as name:
        directory = Path(name) / "root"
        directory.mkdir()
        _checked(["tar", "-C", str(directory), "-xf", str(archive)])
        root = Root(directory, system, user=user)
        root.prepare()
        yield root


def remove_leftovers() -> None:
    """Remove what runs that were killed have left in the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for path in CACHE.glob(".*-*"):
        if time.time() - path.stat().st_mtime > 86400:
            shutil.rmtree(path, ignore_errors=True)


def _archive(system: System) -> Path:
    """Return the tar of the bare system, made once."""
    archive = CACHE / f"{system.name}.tar"
    if archive.exists():
        return archive
    source = system.source()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{system.name}-", dir=CACHE) as scratch:
        root = Path(scratch) / "root"
        options = ["--variant=minbase", f"--components={','.join(source.components)}"]
        if "Signed-By" in source.options:
            options.append(f"--keyring={source.options['Signed-By']}")
        _checked(["debootstrap", *options, system.suite, str(root), source.uris.split()[0]])
        shutil.rmtree(root / "var/cache/apt/archives")
        made = Path(scratch) / "tar"
        _checked(["tar", "-C", str(root), "-cf", str(made), "."])
        made.replace(archive)
    return archive


def _checked(command: list[str]) -> None:
    done = subprocess.run(
        command, env={**os.environ, "PATH": SBIN_PATH}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise FreshError(f"{command[0]} failed: {(done.stdout + done.stderr)[-2000:]}")
