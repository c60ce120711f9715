# SPDX-License-Identifier: Apache-2.0
"""What decides how many instructions a packet takes: while it is as it was when the figures of a
kernel build were recorded, measuring again can show nothing new.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.vm.fetch import ensure

_ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = (
    "bpf",
    "agent/xdpscope/attach",
    "agent/xdpscope/libbpf",
    "agent/xdpscope/sessions",
    "tests/bench",
)
_SUFFIXES = (".c", ".h", ".py")
RECORDED = Path(__file__).with_name("inputs.json")
"""Digests by benchmark and kernel build."""


def digest(root: Path = _ROOT) -> str:
    """Return a digest of all sources that decide the figures, and of those that measure them."""
    found = hashlib.sha256()
    for folder in _FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in _SUFFIXES and path.name != "_raw.c":  # that one is generated
                found.update(f"{path.relative_to(root)}\n".encode())
                found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def unchanged(benchmark: str, kernels: Sequence[str], path: Path = RECORDED) -> bool:
    """Return whether all is as it was when the figures of these kernels were recorded."""
    recorded = _read(path).get(benchmark, {})
    now = digest()
    for kernel in kernels:
        release = ensure(kernel).release
        if recorded.get(release) != now:
            return False
        print(
            f"bench: {benchmark}: nothing that decides the figures of kernel {release} has changed "
            "since they were recorded",
            file=sys.stderr,
        )
    return True


def note(benchmark: str, releases: Sequence[str], path: Path = RECORDED) -> None:
    """Keep the digest of now, as the one with which these kernel builds were recorded."""
    recorded = _read(path)
    recorded.setdefault(benchmark, {}).update(dict.fromkeys(releases, digest()))
    path.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")


def _read(path: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
    return found
