# SPDX-License-Identifier: Apache-2.0
"""Measure a scan of programs and interfaces in many network namespaces.

    python -m tests.vm.run --icount -- python -m tests.bench.scale.namespaces

prints the least of a few scans, by numbers of namespaces, links and programs. Natively it
takes root, and tells what finding programs takes alone.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyroute2 import IPRoute
from xdpscope.libbpf._raw import ffi, lib

from tests.bench.compiled import path_of
from tests.bench.guest import TARGET
from tests.bench.table import markdown
from tests.kernel.observing import Observer
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.discovery.inventory import Inventory
from xdpscope.errors import TracingUnavailableError
from xdpscope.kernel import netns
from xdpscope.libbpf import Descriptor, Object, Program

_NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE of include/uapi/linux/if_link.h
_SCANS = 5
SIZES = ((0, 0, 0), (10, 100, 100), (50, 500, 0), (50, 500, 100), (50, 500, 500), (200, 500, 500))
"""Namespaces, links in all of them, programs on as many of these."""


@contextmanager
def spread(
    namespaces: int, links: int, programs: int, *, by_link: bool = False
) -> Iterator[list[str]]:
    """Make pairs of veth in so many namespaces, under the same names in each; their names.

    Programs are attached over netlink or, ``by_link``, each by a bpf_link.
    """
    names = [f"xsb{number}" for number in range(namespaces)]
    with ExitStack() as stack:
        for number, name in enumerate(names):
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            pairs = links // namespaces // 2
            with within(name):
                # Nothing is to be sent that nobody asked for.
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            commands = [f"link add eth{pair} up type veth peer eth{pair}p" for pair in range(pairs)]
            commands += [f"link set eth{pair}p up" for pair in range(pairs)]
            _ip("-n", name, "-batch", "-", input="\n".join(commands))
            wanted = programs // namespaces + (number < programs % namespaces)
            for attached in attach_programs(name, wanted, by_link=by_link):
                stack.push(attached)
        yield names


def _ip(*arguments: str, input: str | None = None) -> None:
    subprocess.run(["ip", *arguments], input=input, text=True, check=True)


@contextmanager
def within(name: str) -> Iterator[None]:
    """This thread is in the named namespace meanwhile."""
    path = f"/run/netns/{name}"
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        netns.enter(path, Path(path).stat().st_ino)
        try:
            yield
        finally:
            back = f"/proc/self/fd/{home.fileno()}"
            netns.enter(back, Path(back).stat().st_ino)


def attach_programs(name: str, count: int, *, by_link: bool, skip: int = 0) -> Iterator[Descriptor]:
    """Attaches a program each to so many interfaces, after ``skip`` of them; what must be held."""
    with within(name), IPRoute() as route:
        indices = [link["index"] for link in route.get_links() if link.get_attr("IFLA_LINK")]
        for index in indices[skip : skip + count]:
            with Object(path_of("target")) as target:
                target.set_autoload(TARGET)
                target.load()
                with target.program(TARGET) as program:
                    if by_link:
                        yield _linked(program, index)
                        continue
                    attributes = [("IFLA_XDP_FD", program.fileno()), ("IFLA_XDP_FLAGS", _NATIVE)]
                    route.link("set", index=index, xdp={"attrs": attributes})


def _linked(program: Program, index: int) -> Descriptor:
    fd = lib.bpf_link_create(program.fileno(), index, lib.BPF_XDP, ffi.NULL)
    if fd < 0:
        raise OSError(-fd, f"cannot attach a program to interface {index}")
    return Descriptor(fd)


def _least(scan: Callable[[], object]) -> tuple[float, float]:
    """Return milliseconds of the clock and of this process's CPU; the first scan is not counted."""
    scan()
    found = []
    for _ in range(_SCANS):
        clock, cpu = time.perf_counter(), time.process_time()
        scan()
        found.append((time.perf_counter() - clock, time.process_time() - cpu))
    clocks, cpus = zip(*found, strict=True)
    return min(clocks) * 1e3, min(cpus) * 1e3


def measure(namespaces: int, links: int, programs: int) -> list[str]:
    with spread(namespaces, links, programs):
        with Inventory() as inventory:
            finding = _least(inventory.take)
            attached = sum(map(len, inventory.take().attachments.values()))
        try:
            with (
                Engine() as engine,
                Inventory() as inventory,
                Observer(engine, inventory, Selection()) as observer,
            ):
                whole = _least(lambda: observer.scan(0))
        except TracingUnavailableError:
            whole = (float("nan"),) * 2
    figures = [f"{value:.2f}" for value in (*finding, *whole)]
    return [str(namespaces), str(links), str(programs), str(attached), *figures]


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a tracer takes three descriptors
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    head = ["namespaces", "links", "programs", "attachments found"]
    head += ["finding, ms", "… of CPU", "whole scan, ms", "… of CPU"]
    wanted = [tuple(map(int, size.split(","))) for size in sys.argv[1:]] or SIZES
    print(markdown([head, *(measure(*size) for size in wanted)]))


if __name__ == "__main__":
    main()
