# SPDX-License-Identifier: Apache-2.0
"""Imports go in one direction: see docs/architecture.md."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[2] / "agent"

# From top to bottom. A module imports nothing above its own layer.
LAYERS = (
    ("cli", "__main__"),
    ("agent", "doctor", "survey"),
    ("source",),
    ("web", "scanner"),
    ("observer",),
    ("metrics", "describe"),
    ("probes",),
    ("target_reader", "report"),
    ("sessions",),
    ("attach",),
    ("counters",),
    ("discovery", "config", "client"),
    ("libbpf", "kernel", "read_lock", "scans"),
    ("_schema", "_yaml"),
    ("errors", "log", "formats", "bpf", "program_types", "_globs"),
)


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in AGENT.rglob("*.py"):
        parts = path.relative_to(AGENT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """Return the modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{each.name}" for each in node.names}
            found |= inner & modules().keys() or {node.module}
    return frozenset(found & modules().keys() - {name})


def layer(name: str) -> int:
    part = name.split(".")[1] if "." in name else "__main__"
    (found,) = (n for n, parts in enumerate(LAYERS) if part in parts)
    return found


def test_there_is_no_circle() -> None:
    try:
        TopologicalSorter({name: imports(name) for name in modules()}).prepare()
    except CycleError as error:
        pytest.fail(str(error))


def test_no_module_imports_what_is_above_it() -> None:
    found = [
        f"{name} imports {each}"
        for name in modules()
        for each in imports(name)
        if each != "xdpscope" and layer(each) < layer(name)
    ]
    assert found == []


def test_a_probe_imports_no_other_probe() -> None:
    """Only the registry knows all of them."""
    shared = {"probe", "running", ""}

    def package(name: str) -> str:
        parts = name.split(".")
        return parts[2] if parts[:2] == ["xdpscope", "probes"] and len(parts) > 2 else ""

    found = [
        f"{name} imports {each}"
        for name in modules()
        if package(name) not in shared
        for each in imports(name)
        if package(each) not in shared | {package(name)}
    ]
    assert found == []
