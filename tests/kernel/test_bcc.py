# SPDX-License-Identifier: Apache-2.0
"""Programs by others, as they come: bcc's XDP examples, of Debian's package bpfcc-tools.

bcc compiles each here, with the headers of the running kernel: half a minute in an emulated
machine. What it has no headers of, in the cache that tests/setup.sh fills, is left out.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.conftest import Counts, expect
from tests.kernel.lab import Lab, Veth
from tests.kernel.observing import Observer
from tests.kernel.test_xdp_tools import ALL, BYTES, TCP, UDP
from tests.vm.fetch import cache_directory
from tests.waiting import wait_for

TREE = cache_directory() / "bcc"
EXAMPLES = TREE / "usr/share/doc/bpfcc-tools/examples/networking/xdp"
SERIES = ".".join(os.uname().release.split(".")[:2])

# Debian has them in two parts: what all builds of a kernel share, and what one has.
COMMON = next(TREE.glob(f"usr/src/linux-headers-{SERIES}.*-common"), None)
OWN = next(TREE.glob(f"usr/src/linux-headers-{SERIES}.*-amd64"), None)

pytestmark = [
    pytest.mark.one_kernel,
    pytest.mark.skipif(
        COMMON is None or OWN is None, reason=f"bcc and headers of Linux {SERIES} are not unpacked"
    ),
    pytest.mark.timeout(600),
]

# bcc is Debian's, its Python part too; pyroute2, which examples import, is ours.
_RUN = """
import runpy, sys
sys.path.append(sys.argv[1])
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@contextmanager
def example(lab: Lab, directory: Path, name: str, *arguments: str) -> Iterator[None]:
    """One of them, from when its first interface has a program until it is interrupted."""
    assert COMMON is not None
    assert OWN is not None
    (directory / "source").symlink_to(COMMON)
    (directory / "build").symlink_to(OWN)
    # In a mount namespace of its own, where the headers are in their place.
    mounted = 'mount --bind "$0" /lib/modules/$(uname -r) && exec "$@"'
    python = [sys.executable, "-c", _RUN, TREE / "usr/lib/python3/dist-packages"]
    process = subprocess.Popen(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            mounted,
            directory,
            *python,
            EXAMPLES / name,
            *arguments,
        ],
        env={**os.environ, "LD_LIBRARY_PATH": str(next(TREE.glob("usr/lib/*-linux-gnu")))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    entrance = Veth(arguments[0], f"{arguments[0]}p", lab.index(arguments[0]))
    try:
        wait_for(
            lambda: process.poll() is not None or lab.attached_program(entrance) is not None,
            patience=500,
        )
        yield
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said


EXPECTED: dict[str, Counts] = {
    "xdp_drop_count.py xst0": {("xdp_prog1", "xst0", "drop"): (ALL, BYTES)},
    "xdp_macswap_count.py xst0": {("xdp_prog1", "xst0", "tx"): (ALL, BYTES)},
    "xdp_redirect_map.py xst0 xst1": {
        ("xdp_redirect_map", "xst0", "redirect"): (ALL, BYTES),
        ("decide_drop", "xst1p", "drop"): (ALL, BYTES),
    },
    "xdp_redirect_cpu.py xst0 1": {("xdp_redirect_cpu", "xst0", "redirect"): (ALL, BYTES)},
}


@pytest.mark.nightly
@pytest.mark.parametrize("command", EXPECTED)
def test_bcc_example(lab: Lab, observer: Observer, tmp_path: Path, command: str) -> None:
    entrance, leaving = lab.veth("xst0"), lab.veth("xst1")
    # A pair takes redirected packets if what is at its other end could be run there.
    arriving = Veth(leaving.peer, leaving.name, lab.index(leaving.peer))
    lab.attach(lab.load("decide_drop"), arriving)
    with example(lab, tmp_path, *command.split()):
        observer.scan(0)
        entrance.send(TCP, times=7)
        entrance.send(UDP, times=5)
        expect(observer, EXPECTED[command])
