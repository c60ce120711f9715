# SPDX-License-Identifier: Apache-2.0
"""Run a command in a virtual machine with a chosen kernel, as if it were run here.

The guest sees this X
Exit status: the command's own; 124 at the time limit, 125 if the machine could not be started or
died, 130 and 143 when interrupted or terminated.
"""

from __future__ import annotations

import argparse
import compileall
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from . import kvm, stall
from .fetch import SBIN_PATH, cache_directory, ensure
from .kernels import KERNELS, LAST_PARALLEL, InstalledKernel, VmError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

TIMED_OUT = 124
FAILED = 125

HERE = Path(__file__).resolve().parent
WORK_TREE = HERE.parent.parent

_SCRIPTS = Path(sysconfig.get_path("scripts"))
_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "udevadm": "udev",
    "file": "file",
    "strings": "binutils",
}
_HIDDEN = ("/var/cache", "/var/log", "/var/tmp")
"""What virtme-ng puts empty file systems over: a work tree, or the kernels, may be in there."""
_FIRST_RELAY_PORT = 20000
_NEEDS_ERMS = 8  # QEMU's major version
_CONSOLE_LINES = 60
_CONSOLE_MARK = "-- command starts --"
"""The text that guest.sh writes there, which separates the kernel's start from its end."""


@cache
def _qemu_version() -> int:
    """Return the major version of the emulator."""
    command = ["qemu-system-x86_64", "--version"]
    environment = {**os.environ, "PATH": SBIN_PATH}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = re.search(r"version (\d+)", answer.stdout)
    if found is None:
        raise VmError(f"the version of QEMU is not known: {answer.stdout.strip()}")
    return int(found[1])


@dataclass(frozen=True)
class Machine:
    """The virtual hardware and its surroundings."""

    cpus: int = 2
    possible_cpus: int | None = None
    """The kernel prepares for so many. Tried on Linux 6.1 only."""
    memory: str = "2G"
    timeout: float = 600.0
    """Seconds for everything, the start included."""
    icount: bool = False
    """One CPU whose clock advances one nanosecond an instruction: times are instruction counts."""
    paced: bool = False
    """The same, but that waiting takes its time: shares of a CPU do not depend on this machine."""
    parallel: bool = False
    """A host thread for each CPU, not one that takes turns, which newer kernels need to survive."""
    stall: bool = False
    """Stop one of these threads for 20 ms at random moments."""
    emulate: bool = False
    """Emulate the CPU even where KVM works; ``icount`` and ``paced`` imply it."""
    forward: Sequence[tuple[int, int]] = ()
    """TCP ports, (host, guest): 127.0.0.1 here to the loopback there."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether its clock is a count of instructions."""
        return self.icount or self.paced

    def emulated(self) -> list[str]:
        """QEMU's options for how instructions are emulated."""
        options = ["-accel", f"tcg,thread={'multi' if self.parallel else 'single'}"]
        if self.counts:
            # Without sleep, nothing is waited for: the clock is set to when the next timer expires.
            return [*options, "-icount", f"shift=0,sleep={'on' if self.paced else 'off'}"]
        # Without erms the kernel clears pages eight bytes at a time: QEMU 7.2 emulates `rep stosb`
        # byte by byte, and that takes a seventh of the time in which Python starts. In QEMU 10.0,
        # Linux 6.1 hangs without it while it boots.
        return [*options, "-cpu", "max,-erms"] if _qemu_version() < _NEEDS_ERMS else options


def run(command: Sequence[str], *, kernel: str = "default", machine: Machine | None = None) -> int:
    """Run ``command`` in a fresh guest with the kernel called ``kernel``; return its exit status.

    Output is passed on as it comes. Raises :class:`VmError` if the machine cannot be set up.
    """
    machine = machine or Machine()
    _check_tools()
    for part in ("agent", "tests"):
        compileall.compile_dir(WORK_TREE / part, quiet=2)
    chosen = ensure(kernel)
    if machine.stall and not machine.parallel:
        raise VmError("--stall stops the thread of one CPU: it needs --parallel")
    if machine.parallel and machine.counts:
        raise VmError("instructions are counted of one CPU: leave out --parallel")
    virtualised = not (machine.emulate or machine.counts) and kvm.works(chosen)
    if machine.parallel and not virtualised and chosen.version > LAST_PARALLEL:
        raise VmError(
            f"kernel {chosen.release} does not survive CPUs emulated in parallel threads: the "
            "emulator runs stale translations of instructions that the kernel has patched. "
            "Leave out --parallel, or take kernel 6.1 or 5.10"
        )
    accelerator = ["-accel", "kvm", "-cpu", "host"] if virtualised else machine.emulated()
    with tempfile.TemporaryDirectory(prefix="xdpscope-vm-") as name:
        orders = Path(name)
        (orders / "layout").write_text(_layout(chosen, machine))
        (orders / "command").write_text(_command(command, machine))
        # Their paths are on the kernel's command line, and virtme-ng allows no space there.
        (orders / "lib").mkdir()
        (orders / "lib" / "virtme").symlink_to(Path(sysconfig.get_path("purelib")) / "virtme")
        (orders / "boot").symlink_to(HERE / "boot")
        ended = _boot(_virtual_machine(chosen, machine, accelerator, orders), orders, machine)
        return _outcome(ended, orders, machine, chosen)


def _outcome(ended: bool, orders: Path, machine: Machine, chosen: InstalledKernel) -> int:
    status = orders / "status"
    if status.exists() and (text := status.read_text().strip()):
        return int(text)  # even if the machine then failed to switch itself off
    console = orders / "console"
    text = console.read_text(errors="replace") if console.exists() else ""
    lines = text.rpartition(_CONSOLE_MARK)[2].strip().splitlines()
    if lines:
        _say(f"last on the console of kernel {chosen.release}:")
        for line in lines[-_CONSOLE_LINES:]:
            print(line, file=sys.stderr)
    if not ended:
        _say(f"time limit: not finished after {machine.timeout:g} seconds; machine killed")
        return TIMED_OUT
    _say(f"the virtual machine (kernel {chosen.release}) died before the command ended")
    return FAILED


def _layout(chosen: InstalledKernel, machine: Machine) -> str:
    """Return what ``guest.sh`` needs to know to build the file system."""
    read = (sys.prefix, sys.base_prefix, cache_directory(), chosen.directory)
    prefixes = dict.fromkeys(Path(path) for path in read)
    # The guest's /tmp is its own, and the work tree is read uncached: what is read much is put over
    # both.
    covered = (Path("/tmp"), WORK_TREE)
    kept = [
        path
        for path in prefixes
        if path.is_dir() and any(path.is_relative_to(each) for each in covered)
    ]
    relays = [
        f"{_FIRST_RELAY_PORT + index}:{guest}" for index, (_, guest) in enumerate(machine.forward)
    ]
    layout = {
        "WORK": str(WORK_TREE),
        "MODULES": str(chosen.modules),
        "KEPT": "\n".join(map(str, kept)),
        "FORWARD": "\n".join(relays),
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in layout.items())


def _command(command: Sequence[str], machine: Machine) -> str:
    """Return the command as a script with its whole environment."""
    environment = {
        # `python` and `pytest` belong to the user who runs this.
        "PATH": f"{_SCRIPTS}:{SBIN_PATH}",
        "HOME": str(Path.home()),
        "XDG_CACHE_HOME": str(cache_directory().parent),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # Two guests at once would write the same files; what they read is compiled before.
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDPSCOPE_VM": "1",
        # QEMU 7.2 emulates AVX2 wrongly: numpy's sorts come out unsorted, without a word.
        "NPY_DISABLE_CPU_FEATURES": "X86_V3",
        **machine.environment,
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    if _same_file(sys.stdout, sys.stderr):
        lines.append("exec 2>&1")  # one stream keeps their order, which two cannot
    lines += [f"cd {shlex.quote(str(WORK_TREE))}", f"exec {shlex.join(command)}", ""]
    return "\n".join(lines)


def _same_file(one: IO[str], other: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
    except (AttributeError, OSError, ValueError):
        return False


def _virtual_machine(
    chosen: InstalledKernel, machine: Machine, accelerator: Sequence[str], orders: Path
) -> list[str]:
    """Return the command line of virtme-ng."""
    # virtme-ng's six serial devices have 32 ports each, with two descriptors a port. QEMU asks the
    # kernel about each descriptor whenever a timer of the guest expires.
    qemu = ["-global", "virtio-serial-device.max_ports=2"]
    qemu += [*accelerator, "-kernel", str(chosen.boot)]
    shares = (("host", Path("/"), "on"), ("work", WORK_TREE, "off"), ("orders", orders, "off"))
    for name, path, readonly in shares:
        quoted = str(path).replace(",", ",,")
        share = f"local,id=vm-{name},path={quoted},readonly={readonly}"
        qemu += ["-fsdev", f"{share},security_model=none,multidevs=remap"]
        qemu += ["-device", f"virtio-9p-pci,fsdev=vm-{name},mount_tag=vm.{name}"]
    qemu += ["-set", f"chardev.console.path={orders / 'console'}"]  # virtme-ng: /dev/null
    if machine.forward:
        rules = [
            f"hostfwd=tcp:127.0.0.1:{host}-10.0.2.15:{_FIRST_RELAY_PORT + index}"
            for index, (host, _) in enumerate(machine.forward)
        ]
        qemu += ["-netdev", ",".join(["user,id=forward", *rules])]
        qemu += ["-device", "virtio-net-pci,netdev=forward,romfile="]
    if machine.stall:
        qemu += ["-name", "debug-threads=on"]
    kernel_options = (
        f"PATH={orders / 'boot'}:/bin",  # for the init: see boot/
        "oops=panic",  # a test must not pass on a kernel that is no longer sound
        "net.ifnames=0",
        *([f"possible_cpus={machine.possible_cpus}"] if machine.possible_cpus else []),
        "no_timer_check",  # on a busy host the emulator may stand still for as long as that takes
    )
    return [
        str(_SCRIPTS / "vng"),
        *("--run", shlex.quote(str(chosen.image))),
        *("--name", "xdpscope", "--disable-kvm"),  # the accelerator is ours to choose
        "--force-9p",  # else it waits six seconds for a virtiofsd too old to be used
        *("--cpus", str(1 if machine.counts else machine.cpus)),
        *("--memory", machine.memory),
        *(part for option in kernel_options for part in ("--append", option)),
        f"--qemu-opts={shlex.join(qemu)}",
        "--",
        f"busybox umount -l {' '.join(_HIDDEN)} 2>/dev/null;"
        f" busybox sh {shlex.quote(str(HERE / 'guest.sh'))}",
    ]


def _boot(command: Sequence[str], orders: Path, machine: Machine) -> bool:
    """Run the machine to its end and pass its output on; False if the time limit ended it."""
    deadline = time.monotonic() + machine.timeout
    # virtme-ng wants a home directory only for settings, which would make one machine differ from
    # another; its temporary files go where they are removed even if it is killed.
    environment = {**os.environ, "PATH": f"{_SCRIPTS}:{SBIN_PATH}"}
    environment |= {"HOME": str(orders), "TMPDIR": str(orders)}
    environment["PYTHONPATH"] = str(orders / "lib")
    # timeout(1) is the safety net for the day this process itself is killed: no machine outlives
    # its limit by much. Pipes, never our own files: QEMU truncates a regular file it is given.
    process = subprocess.Popen(
        ["timeout", "--signal=KILL", f"{machine.timeout + 15:.0f}", *command],
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with stall.stalling(process.pid) if machine.stall else nullcontext():
            return _pass_on(process, deadline)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _pass_on(process: subprocess.Popen[bytes], deadline: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, sys.stdout)  # type: ignore[arg-type]
        selector.register(process.stderr, selectors.EVENT_READ, sys.stderr)  # type: ignore[arg-type]
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            for key, _ in selector.select(remaining):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.data is not None:  # None: closed by whoever started us
                    _write(key.data, data)
    with suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
        return True
    return False


def _write(stream: IO[str], data: bytes) -> None:
    """Write bytes as they are; as text where a test has put a stream of its own."""
    binary = getattr(stream, "buffer", None)
    if binary is None:
        stream.write(data.decode(errors="replace"))
    else:
        binary.write(data)
    stream.flush()


def _check_tools() -> None:
    missing = [each for tool, each in _TOOLS.items() if not shutil.which(tool, path=SBIN_PATH)]
    if missing:
        raise VmError(f"to run a virtual machine: apt-get install {' '.join(sorted(missing))}")
    if not (_SCRIPTS / "vng").exists():
        raise VmError(f"virtme-ng is not installed beside {sys.executable}: pip install virtme-ng")


def _say(message: str) -> None:
    with suppress(BrokenPipeError):
        print(f"vm: {message}", file=sys.stderr, flush=True)


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """The options that describe a :class:`Machine`, shared with the matrix."""
    default = Machine()
    add = parser.add_argument
    add("--cpus", type=int, default=default.cpus, metavar="N", help="%(default)s without it")
    add(
        "--possible-cpus",
        type=int,
        metavar="N",
        help="that the kernel prepares for; tried on Linux 6.1",
    )
    add("--memory", default=default.memory, metavar="SIZE", help="%(default)s without it")
    add(
        *("--timeout", "-t"),
        type=float,
        default=default.timeout,
        metavar="SECONDS",
        help="for everything, the start included; %(default)g without it",
    )
    add("--icount", action="store_true", help="one CPU, and an instruction takes a nanosecond")
    add("--paced", action="store_true", help="as --icount, but waiting takes its time")
    add("--parallel", action="store_true", help="a thread for each CPU; kernels up to 6.1")
    add("--stall", action="store_true", help="with --parallel: stop a CPU for 20 ms now and then")
    add("--emulate", action="store_true", help="emulate the CPU even where KVM works")
    add(
        "--forward",
        action="append",
        type=_ports,
        default=[],
        metavar="HOST:GUEST",
        help="pass 127.0.0.1:HOST here on to 127.0.0.1:GUEST there; repeatable",
    )
    add(
        "--env",
        action="append",
        type=_variable,
        default=[],
        metavar="NAME=VALUE",
        help="set a variable for the command; repeatable",
    )
    add("command", nargs="+", metavar="COMMAND", help="after --; run as root in the work tree")


def machine_from(options: argparse.Namespace) -> Machine:
    """Return the machine that parsed options describe."""
    return Machine(
        cpus=options.cpus,
        possible_cpus=options.possible_cpus,
        memory=options.memory,
        timeout=options.timeout,
        icount=options.icount,
        paced=options.paced,
        parallel=options.parallel,
        stall=options.stall,
        emulate=options.emulate,
        forward=tuple(options.forward),
        environment=dict(options.env),
    )


def _ports(text: str) -> tuple[int, int]:
    host, separator, guest = text.partition(":")
    if not separator or not host.isdecimal() or not guest.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:GUEST, two port numbers")
    return int(host), int(guest)


def _variable(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", text, re.DOTALL)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return match[1], match[2]


def supervised(action: Callable[[], int]) -> int:
    """Run ``action`` so that no way of ending leaves a machine behind; return the status."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _terminated)
    try:
        return action()
    except VmError as error:
        _say(str(error))
        return FAILED
    except KeyboardInterrupt:
        _say("interrupted; machine killed")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE


def _terminated(signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)  # unwinds through the cleanup, as the default action would not


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command in a virtual machine."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.run", description=main.__doc__)
    parser.add_argument("--kernel", "-k", choices=KERNELS, default="default")
    add_machine_options(parser)
    options = parser.parse_args(arguments)
    machine = machine_from(options)
    return supervised(lambda: run(options.command, kernel=options.kernel, machine=machine))


if __name__ == "__main__":
    sys.exit(main())
