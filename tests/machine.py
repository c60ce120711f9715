# SPDX-License-Identifier: Apache-2.0
"""How this machine reaches its package sources, for tests that install into another file system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def pip_settings(certificates: Path) -> str:
    """Return a pip.conf with this machine's index and proxy, and the certificates at that path.

    An index in this machine's own files is left out: nobody else has it.
    """
    lines = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    index = [
        line.partition(".")[2].replace("'", "")
        for line in lines.splitlines()
        if line.partition("=")[0].endswith(("index-url", "proxy", "timeout"))
        and "file:" not in line
    ]
    return "\n".join(["[global]", f"cert = {certificates}", *index, ""])
