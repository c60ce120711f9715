# SPDX-License-Identifier: Apache-2.0
"""promtool, Prometheus's own judge of rules and expressions."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Beside the interpreter, where make setup puts it, or anywhere.
_LOCATIONS = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool", path=_LOCATIONS)


def promtool(*arguments: str | Path, text: str = "") -> str:
    """Run it, fail unless it succeeds, and return its output; ``text`` is /dev/stdin."""
    assert PROMTOOL is not None
    run = subprocess.run(
        [PROMTOOL, *map(str, arguments)], input=text, capture_output=True, text=True, timeout=110
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout
