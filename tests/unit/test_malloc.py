# SPDX-License-Identifier: Apache-2.0
"""Memory that the agent has freed is the kernel's again."""

import subprocess
import sys

import pytest

# Large blocks, each with a smaller one behind it that stays.
_PROGRAM = """
from pathlib import Path
from xdpscope.kernel.malloc import return_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

if {returns}:
    return_freed_memory()
b"x" * (2 * {size})  # freed at once, which raises the thresholds of glibc
before, blocks, kept = resident(), [], []
for _ in range(10):
    blocks.append(b"x" * {size})
    kept.append(bytearray(100_000))
blocks.clear()
print(resident() - before)
"""
_SIZE = 4 << 20


@pytest.mark.parametrize(("returns", "kept"), [(False, True), (True, False)])
def test_freed_memory_goes_back_to_the_kernel(returns: bool, kept: bool) -> None:
    """And the allocator keeps it if left to itself: else there is nothing to test."""
    script = _PROGRAM.format(returns=returns, size=_SIZE)
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert (int(found.stdout) * 1024 > 5 * _SIZE) is kept, found.stdout
