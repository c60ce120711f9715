# SPDX-License-Identifier: Apache-2.0
"""The systemd service: that systemd understands it, and how it rates it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from xdpscope.errors import ConfigError, UnsupportedHostError

CONFIG = Path(__file__).parents[2] / "config"
SERVICE = CONFIG / "systemd" / "xdpscope.service"

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: make setup"
)


@analyze
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    text = SERVICE.read_text()
    # What is not installed here is not the unit's fault.
    (tmp_path / SERVICE.name).write_text(text.replace("/usr/local/bin/xdpscope", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", tmp_path / SERVICE.name]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@analyze
def test_it_is_rated_as_the_documentation_says() -> None:
    """3.1 of 10, that is. The program counts in tenths of that."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=31"]
    done = subprocess.run([*command, SERVICE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_it_is_not_restarted_where_that_is_in_vain() -> None:
    (line,) = re.findall(r"^RestartPreventExitStatus=(.*)$", SERVICE.read_text(), re.MULTILINE)
    in_vain = {ConfigError.exit_status, UnsupportedHostError.exit_status}
    assert set(map(int, line.split())) == in_vain == {2, 3}


def test_its_rights_are_the_daemonsets() -> None:
    manifest = yaml.safe_load((CONFIG / "kubernetes/base/daemonset.yaml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    names = container["securityContext"]["capabilities"]["add"]
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", SERVICE.read_text(), re.MULTILINE)
    assert line.split() == [f"CAP_{name}" for name in names]
