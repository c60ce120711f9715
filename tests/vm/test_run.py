# SPDX-License-Identifier: Apache-2.0
"""The harness itself: what a machine's command says of itself is what its caller is told."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import TYPE_CHECKING

import pytest

from tests.vm.fetch import ensure
from tests.vm.run import FAILED, HERE, TIMED_OUT, WORK_TREE

if TYPE_CHECKING:
    from collections.abc import Iterator


def run_vm(
    *arguments: str, tree: Path = WORK_TREE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m tests.vm.run`` as a user would, in this work tree."""
    command = [sys.executable, "-m", "tests.vm.run", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)


@pytest.fixture(params=["/tmp", "/var/tmp"])
def tree(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A work tree with only the harness, where virtme-ng puts an empty file system of its own."""
    with tempfile.TemporaryDirectory(dir=request.param) as name:
        tree = Path(name)
        copytree(HERE, tree / "tests/vm", ignore=ignore_patterns("__pycache__"))
        (tree / "agent").mkdir()
        yield tree


def test_a_work_tree_may_be_anywhere(tree: Path) -> None:
    told = run_vm("--", "sh", "-c", "touch seen; pwd; echo wrong >&2; exit 7", tree=tree)
    assert (told.returncode, told.stdout) == (7, f"{tree}\n"), told.stderr
    assert told.stderr.endswith("wrong\n")
    assert (tree / "seen").exists()


def test_modules_may_be_where_the_machine_has_a_file_system_of_its_own() -> None:
    kernel = ensure("default")
    with tempfile.TemporaryDirectory(dir="/var/cache") as name:
        copytree(kernel.directory, Path(name) / "default", symlinks=True)
        told = run_vm("--", "modprobe", "veth", XDPSCOPE_VM_CACHE=name)
        assert told.returncode == 0, told.stderr


def test_what_does_not_end_is_ended_and_told_from_what_fails() -> None:
    told = run_vm("--timeout", "30", "--", "sleep", "1000")
    assert told.returncode == TIMED_OUT, told.stderr
    assert "time limit" in told.stderr


def test_a_machine_that_dies_has_not_passed() -> None:
    told = run_vm("--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000")
    assert told.returncode == FAILED, told.stderr
    assert "died before the command ended" in told.stderr
    assert "sysrq" in told.stderr
