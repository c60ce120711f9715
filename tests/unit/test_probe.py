# SPDX-License-Identifier: Apache-2.0
"""The probes of config/kubernetes/components/tls, against the real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.authority import PASSWORD, USERS, Authority
from tests.unit.served import FakeSource, serving

from xdpscope.web.policy import PolicyFile

TLS = Path(__file__).parents[2] / "config" / "kubernetes" / "components" / "tls"


def probe(address: str, port: int, path: str, secret: Path) -> tuple[int, str]:
    environment = os.environ | {
        "NODE_ADDRESS": address,
        "XDPSCOPE_PORT": str(port),
        "XDPSCOPE_WEB": str(secret),
    }
    command = [sys.executable, str(TLS / "probe.py"), path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_probe_asks_with_the_password_of_the_secret(tmp_path: Path, address: str) -> None:
    (tmp_path / "username").write_text("prometheus")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    source = FakeSource()
    policy = PolicyFile(Authority(tmp_path).write(rest=USERS)).current
    with serving(source, host=address, policy=policy) as served:
        assert probe(address, served.port, "/healthz", tmp_path) == (0, "")
        assert probe(address, served.port, "/readyz", tmp_path) == (0, "")
        source.is_ready = False
        status, said = probe(address, served.port, "/readyz", tmp_path)
        assert status == 1 and "503" in said
        (tmp_path / "password").write_text("wrong")
        status, said = probe(address, served.port, "/healthz", tmp_path)
        assert status == 1 and "401" in said
    status, said = probe(address, served.port, "/healthz", tmp_path)
    assert status == 1 and "refused" in said
