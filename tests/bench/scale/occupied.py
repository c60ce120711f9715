# SPDX-License-Identifier: Apache-2.0
"""Measure the memory of an agent, in a guest.

    python -m tests.vm.run --possible-cpus 128 -- python -m tests.bench.scale.occupied RESULT SIZE…

A SIZE is PROGRAMSxDEVICES[,DEVICES…], the numbers of devices in ascending order. Each program gets
a packet from each device, and so a flow of each. Then the records of this CPU are copied to all
possible CPUs, as if each CPU were online and had seen each device.
"""

import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pyroute2 import IPRoute

from tests.bench.compiled import path_of
from tests.bench.guest import TARGET
from tests.bench.rig import packet4
from tests.bench.scale.dummies import dummies
from xdpscope import bpf
from xdpscope.errors import VanishedError
from xdpscope.kernel.machine import cpus_to_serve
from xdpscope.libbpf import Map, Object, Program, possible_cpus, typed

_NATIVE = 1 << 2  # XDP_FLAGS_DRV_MODE of include/uapi/linux/if_link.h
_GROUP = Path("/sys/fs/cgroup/xdpscope")
_PAGE = "http://127.0.0.1:10091/metrics"
_PATIENCE = 3600.0  # of an emulated guest beside others
_SCANS = 11.0  # seconds in which there are two
_FIRST_DEVICE = 1_000_000
# The kernel allocates records of further devices from what it has in stock. A worker fills it up.
_TO_FILL_UP = 0.2


@dataclass(frozen=True)
class Occupied:
    """Bytes that the agent takes with a number of programs and devices."""

    programs: int
    devices: int
    cpus: int  # possible
    online: int
    percpu: int  # the growth of the host's per-CPU memory since before the agent
    kernel: int  # kernel memory of the agent's control group
    resident: int  # of the process
    peak: int  # the most that the control group ever had: what a limit must allow


@contextmanager
def attached(count: int) -> Iterator[list[Program]]:
    """Yield programs, each attached to an end of a pair of veth that are silent by themselves."""
    for path in ("default", "all"):
        Path(f"/proc/sys/net/ipv6/conf/{path}/disable_ipv6").write_text("1")
    pairs = [f"xsb{number}" for number in range((count + 1) // 2)]
    _ip(f"link add {name} up type veth peer {name}p" for name in pairs)
    _ip(f"link set {name}p up" for name in pairs)
    try:
        with IPRoute() as route, ExitStack() as loaded:
            indices = {link.get_attr("IFLA_IFNAME"): link["index"] for link in route.get_links()}
            programs = []
            for name in [f"{name}{end}" for name in pairs for end in ("", "p")][:count]:
                with Object(path_of("target")) as target:
                    target.set_autoload(TARGET)
                    target.load()
                    program = loaded.enter_context(target.program(TARGET))
                attributes = [("IFLA_XDP_FD", program.fileno()), ("IFLA_XDP_FLAGS", _NATIVE)]
                route.link("set", index=indices[name], xdp={"attrs": attributes})
                programs.append(program)
            yield programs
    finally:
        _ip(f"link del {name}" for name in pairs)


def _ip(commands: Iterable[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


@contextmanager
def agent() -> Iterator[subprocess.Popen[bytes]]:
    """Run ``xdpscope run`` with its defaults, in a control group of its own."""
    _GROUP.mkdir()

    def join() -> None:
        os.sched_setaffinity(0, range(cpus_to_serve()))
        (_GROUP / "cgroup.procs").write_text(str(os.getpid()))

    command = [sys.executable, "-m", "xdpscope", "--log-level", "warning", "run"]
    process = subprocess.Popen([*command, "--listen", "127.0.0.1:10091"], preexec_fn=join)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        _until(lambda: not (_GROUP / "cgroup.procs").read_text())
        _GROUP.rmdir()


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > end:
            raise AssertionError("it takes too long")
        time.sleep(2)


def _scrape() -> str:
    with urllib.request.urlopen(_PAGE, timeout=_PATIENCE) as answer:
        return str(answer.read().decode())


def _wait_for_flows(programs: int) -> None:
    """Wait until the flows of all programs are counted: the agent then loads nothing more."""
    seen, since = set[int](), time.monotonic()

    def settled() -> bool:
        nonlocal seen, since
        now = set(Program.ids())
        if now != seen:
            seen, since = now, time.monotonic()
        return len(seen) > 2 * programs and time.monotonic() > since + _SCANS

    _until(settled)


def _packets(page: str) -> tuple[int, int]:
    """Return the sum of all packets, and of those without the name of a device."""
    lines = [line for line in page.splitlines() if line.startswith("xdp_packets_total{")]
    values = [(line, int(float(line.rpartition(" ")[2]))) for line in lines]
    unknown = (value for line, value in values if 'interface="unknown"' in line)
    return sum(value for _, value in values), sum(unknown)


def _expect(packets: int) -> None:
    found, unknown = _packets(_scrape())
    if (found, unknown) != (packets, 0):
        raise AssertionError(f"{found} packets and not {packets}, {unknown} without a device")


def _copy_to_all_cpus(name: str, record: str) -> None:
    """Copy the records of this CPU to all possible ones, in each map of this name."""
    (cpu,) = os.sched_getaffinity(0)
    with Object(bpf.path_of("flows")) as flows:
        layout = flows.btf.struct(record)
    for id in Map.ids():
        with suppress(VanishedError), Map.open(id) as found:
            if found.info.name != name:
                continue
            for keys, values in found.batches():
                for key, value in zip(keys, values, strict=True):
                    records = typed(value, layout)
                    devices = records["devices"] if record == "target_counts" else records
                    devices[...] = devices[cpu].copy()
                    found.update(key.tobytes(), np.ascontiguousarray(value).tobytes())


def _percpu() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Percpu:")) * 1024


def _charged(key: str) -> int:
    lines = (_GROUP / "memory.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.split()[0] == key)


def _memory(pid: int) -> dict[str, int]:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return {
        "kernel": _charged("kernel"),
        "resident": resident * 1024,
        "peak": int((_GROUP / "memory.peak").read_text()),
    }


def measure(programs: int, numbers: list[int]) -> Iterator[Occupied]:
    """Measure one agent, with ever more devices.

    Raises:
        AssertionError: a packet is not counted, or not for its device.
    """
    cpus, online = possible_cpus(), cpus_to_serve()
    devices = range(_FIRST_DEVICE, _FIRST_DEVICE + numbers[-1])
    with ExitStack() as stack:
        loaded = stack.enter_context(attached(programs))
        stack.enter_context(dummies(devices))
        before = _percpu()
        process = stack.enter_context(agent())
        _wait_for_flows(programs)
        seen = 0
        for number in numbers:
            for device in devices[seen:number]:
                for program in loaded:
                    program.test_run(packet4(), device=device)
                time.sleep(_TO_FILL_UP)
            time.sleep(_SCANS)
            # Those before are copied already, and nothing has added to the copies since.
            _expect(programs * (cpus * seen + number - seen))
            seen = number
            _copy_to_all_cpus("xdpscope_counts", "target_counts")
            _copy_to_all_cpus("overflow", "device_counts")
            time.sleep(_SCANS)
            for _ in range(3):
                _expect(programs * cpus * number)
            grown = _percpu() - before
            yield Occupied(programs, number, cpus, online, grown, **_memory(process.pid))


def main() -> None:
    """Measure each size."""
    os.sched_setaffinity(0, {0})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
    found = []
    for size in sys.argv[2:]:
        programs, _, devices = size.partition("x")
        for each in measure(int(programs), [int(number) for number in devices.split(",")]):
            found.append(asdict(each))
            print(found[-1], file=sys.stderr, flush=True)
            result = {"release": os.uname().release, "sizes": found}
            Path(sys.argv[1]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
