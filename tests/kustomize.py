# SPDX-License-Identifier: Apache-2.0
"""kustomize, which bookworm lacks: from a newer Debian's package, unpacked into the cache.

``python -m tests.kustomize DIRECTORY`` prints what it builds there.
"""

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.vm.fetch import Apt, cache_directory
from tests.vm.kernels import Kernel
from tests.vm.sources import sources_for

_SUITE = "trixie"


@cache
def _command() -> Path:
    """Return where it is; fetched unless the machine or the cache has it."""
    installed = shutil.which("kustomize")
    if installed:
        return Path(installed)
    found = cache_directory() / "kustomize"
    if not found.exists():
        found.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=found.parent) as scratch:
            apt = Apt(Path(scratch), sources_for(Kernel("kustomize", _SUITE)))
            apt.update("kustomize", _SUITE)
            (package,) = apt.download(["kustomize"])
            tree = Path(scratch) / "tree"
            subprocess.run(["dpkg", "-x", package, tree], check=True)
            (tree / "usr/bin/kustomize").replace(found)
    return found


def text_of(directory: Path) -> str:
    """Return the manifests that a kustomization makes, as YAML."""
    done = subprocess.run(
        [_command(), "build", directory], check=True, capture_output=True, text=True
    )
    assert done.stderr == "", done.stderr  # of what is deprecated it warns there
    return done.stdout


def build(directory: Path) -> list[dict[str, Any]]:
    """Return the same, read."""
    return [each for each in yaml.safe_load_all(text_of(directory)) if each]


if __name__ == "__main__":
    print(text_of(Path(sys.argv[1])))
