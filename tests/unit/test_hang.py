# SPDX-License-Identifier: Apache-2.0
"""What pytest prints of a test that hangs."""

import os
import subprocess
import sys
from pathlib import Path

HANGING = """
import signal, time
import pytest

@pytest.mark.timeout(1)
def test_that_no_timeout_ends():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(2.5)

def test_that_may_take_its_time():
    time.sleep(2.5)
"""
REPOSITORY = Path(__file__).parents[2]


def test_stacks_are_printed_after_the_timeout_only(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    (tmp_path / "conftest.py").write_text("from tests import conftest\nconftest.MARGIN = 1.0\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 300\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert done.stderr.count("Timeout (0:00:02)!") == 1, done.stderr
    assert "in test_that_no_timeout_ends" in done.stderr
