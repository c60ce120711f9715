# SPDX-License-Identifier: Apache-2.0
"""Many XDP programs on as many interfaces, in the network namespace that one is in."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import if_nametoindex

from pyroute2 import IPRoute

from tests.bench.compiled import path_of
from tests.bench.guest import TARGET
from xdpscope.libbpf import Object

_NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE of include/uapi/linux/if_link.h


@contextmanager
def crowd(count: int) -> Iterator[None]:
    """Make ``count`` pairs of veth; on one end of each, a program of its own."""
    names = [f"xsb{number}" for number in range(count)]
    # Nothing is to be sent that nobody asked for.
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    _ip(f"link add {name} type veth peer name {name}p" for name in names)
    try:
        _ip(f"link set {name}{end} up" for name in names for end in ("", "p"))
        with IPRoute() as route, ExitStack() as loaded:
            for name in names:
                target = loaded.enter_context(Object(path_of("target")))
                target.load()
                with target.program(TARGET) as program:
                    attributes = [("IFLA_XDP_FD", program.fileno()), ("IFLA_XDP_FLAGS", _NATIVE)]
                    route.link("set", index=if_nametoindex(name), xdp={"attrs": attributes})
        yield
    finally:
        _ip(f"link del {name}" for name in names)


def _ip(commands: Iterator[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
