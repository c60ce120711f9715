# SPDX-License-Identifier: Apache-2.0
"""The harness itself: the command's output and exit status in the machine reach the caller."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from tests.vm import kvm
from tests.vm.fetch import ensure
from tests.vm.run import FAILED, HERE, TIMED_OUT, WORK_TREE


def run_vm(
    *arguments: str, tree: Path = WORK_TREE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m tests.vm.run`` as a user would, in this work tree."""
    command = [sys.executable, "-m", "tests.vm.run", *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=tree, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("location", "cache"),
    [("/tmp", None), pytest.param("/var/tmp", "/var/cache", marks=pytest.mark.nightly)],
)
def test_trees_and_caches_may_be_where_guests_have_a_file_system_of_their_own(
    location: str, cache: str | None
) -> None:
    """virtme-ng puts empty file systems over these directories."""
    kernel, environment = ensure("default"), {}
    with ExitStack() as stack:
        tree = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=location)))
        copytree(HERE, tree / "tests/vm", ignore=ignore_patterns("__pycache__"))
        (tree / "agent").mkdir()
        if cache is not None:
            kernels = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=cache)))
            copytree(kernel.directory, kernels / "default", symlinks=True)
            environment["XDPSCOPE_VM_CACHE"] = str(kernels)
        else:
            environment["XDPSCOPE_VM_CACHE"] = str(kernel.directory.parent)
        downloads = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=location)))
        (downloads / "xdpscope").mkdir()
        (downloads / "xdpscope" / "one").write_text("fetched\n")
        environment["XDG_CACHE_HOME"] = str(downloads)
        fetched = 'cat "$XDG_CACHE_HOME/xdpscope/one"'
        command = f"modprobe veth && touch seen; pwd; {fetched}; echo wrong >&2; exit 7"
        done = run_vm("--", "sh", "-c", command, tree=tree, **environment)
        assert (done.returncode, done.stdout) == (7, f"{tree}\nfetched\n"), done.stderr
        assert done.stderr.endswith("wrong\n")
        assert (tree / "seen").exists()


def test_what_does_not_end_is_ended_and_told_from_what_fails() -> None:
    done = run_vm("--timeout", "20", "--", "sleep", "1000")
    assert done.returncode == TIMED_OUT, done.stderr
    assert "time limit" in done.stderr


def test_a_machine_that_dies_has_not_passed() -> None:
    done = run_vm("--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000")
    assert done.returncode == FAILED, done.stderr
    assert "died before the command ended" in done.stderr
    assert "sysrq" in done.stderr


@pytest.mark.nightly
def test_a_kernel_that_boots_is_told_from_one_that_does_not() -> None:
    """What finds out whether KVM works, tried with the emulator, which always does."""
    kernel = ensure("default")
    assert kvm.boots(kernel, "tcg", 240)
    began = time.monotonic()
    assert not kvm.boots(kernel, "tcg", 0.5)
    assert not kvm.boots(kernel, "none", 10)
    assert time.monotonic() - began < 10


def test_whether_kvm_works_is_found_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = ensure("default")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    began = time.monotonic()
    answer = kvm.works(kernel)
    assert time.monotonic() - began < kvm.LIMIT + 5
    monkeypatch.setattr(kvm, "boots", lambda *_: pytest.fail("booted again"))
    assert kvm.works(kernel) is answer
