# SPDX-License-Identifier: Apache-2.0
"""The compiled BPF objects, as the build puts them here from ``bpf/*/*.bpf.c``."""

from pathlib import Path


def path_of(name: str) -> Path:
    """Return where the object of this name is, such as ``verdicts``."""
    return Path(__file__).parent / f"{name}.bpf.o"
