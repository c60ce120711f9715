# SPDX-License-Identifier: Apache-2.0
"""The BPF programs of the measurements themselves, compiled when they are taken."""

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILT = HERE.parent.parent / "build" / "bench"
"""Inside the work tree, which a guest shares with its host."""


def compile_all() -> None:
    """Compile as setup.py does for the product.

    Raises:
        CalledProcessError: clang has printed the reason.
    """
    BUILT.mkdir(parents=True, exist_ok=True)
    for source in HERE.glob("*.bpf.c"):
        command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]
        subprocess.run([*command, "-c", source, "-o", path_of(source.name)], check=True)


def path_of(name: str) -> Path:
    """Return the object compiled from ``name`` or ``name.bpf.c``."""
    return BUILT / f"{name.partition('.')[0]}.bpf.o"
