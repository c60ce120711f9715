# SPDX-License-Identifier: Apache-2.0
"""Checks whether, and how well, XDP programs can be traced on this host."""

import os
import platform
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from errno import ENOENT
from pathlib import Path

from xdpscope import libbpf
from xdpscope.attach.device_hook import ftrace_is_off
from xdpscope.attach.engine import Engine, may_hook
from xdpscope.attach.pins import InUseError, PinPath
from xdpscope.discovery.listing import Listing
from xdpscope.discovery.programs import Census
from xdpscope.errors import (
    KernelError,
    NotPermittedError,
    TracingUnavailableError,
    UnsupportedHostError,
    XdpscopeError,
)
from xdpscope.kernel import bpffs, capabilities, machine, requirements
from xdpscope.kernel.requirements import Obstacle
from xdpscope.kernel.xdp_diag import has_xdp_sockets, read_sockets
from xdpscope.libbpf import Map

_ARRAY = 2  # BPF_MAP_TYPE_ARRAY


class Status(StrEnum):
    """The result of a check; only a failure keeps the agent from its work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"  # it needs rights that are missing


@dataclass(frozen=True, slots=True)
class Finding:
    """The finding of one check, with a hint unless it is ok."""

    check: str
    status: Status
    found: str
    hint: str = ""
    permanent: bool = False
    """Whether it fails whatever the rights and settings are."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Pinned state that was taken away."""

    path: str
    programs: int  # that it had counts of


def examine(pin_path: Path | None = None) -> Iterator[Finding]:
    """Run every check. Some checks try their feature on a program of our own.

    Args:
        pin_path: ``state.pin_path``, if it is set.
    """
    yield Finding("kernel", Status.OK, f"{platform.system()} {platform.release()}")
    privileged = capabilities.may_open_programs()
    for name, check in _CHECKS.items():
        yield check(name) if privileged or check not in _PRIVILEGED else _skipped(name)
    if pin_path is not None:
        name = "state.pin_path"
        yield _pin_path(name, pin_path) if privileged else _skipped(name)


def works(findings: Iterable[Finding]) -> bool:
    """Return whether the agent works here."""
    return not any(finding.status is Status.FAIL for finding in findings)


def never_works(findings: Iterable[Finding]) -> bool:
    """Return whether no right and no setting makes the agent work here."""
    return any(finding.permanent for finding in findings)


def conclusion(findings: Sequence[Finding]) -> str:
    """Return one sentence: whether xdpscope works on this host, and what keeps it from that."""
    failed = [finding.check for finding in findings if finding.status is Status.FAIL]
    limits = [finding.check for finding in findings if finding.status is Status.WARN]
    if never_works(findings):
        return "xdpscope cannot work on this host."
    if failed == ["capabilities"]:
        return "Whether xdpscope works on this host is not known: run as root."
    if failed:
        return f"xdpscope does not work on this host. Failed: {', '.join(failed)}."
    if limits:
        return f"xdpscope works on this host. Limited: {', '.join(limits)}."
    return "xdpscope works on this host."


def _skipped(check: str) -> Finding:
    return Finding(check, Status.SKIP, "not checked: rights are missing")


def clean(pin_path: Path) -> list[Removed]:
    """Remove all that agents have pinned below ``state.pin_path``.

    Raises:
        ConfigError: that is not on a bpffs.
        InUseError: an agent is using it.
        XdpscopeError: it cannot be used.
    """
    with PinPath.open(pin_path) as pins:
        removed = []
        for state in pins.states():
            removed.append(Removed(str(state.path), len(state.targets())))
            state.remove()
        pins.remove()
        return removed


def _machine(check: str) -> Finding:
    try:
        machine.require_supported()
    except UnsupportedHostError as error:
        return _unavailable(check, error)
    return Finding(check, Status.OK, machine.SUPPORTED)


def _cpus(check: str) -> Finding:
    online, possible = machine.cpus_to_serve(), libbpf.possible_cpus()
    found = f"{online} online of {possible} possible"
    if possible <= 2 * online:
        return Finding(check, Status.OK, found)
    found += (
        ": the kernel keeps the counters of each program, and of each device beyond its fourth, for"
        f" all {possible}; flow tables are made for the first {online}"
    )
    hint = (
        f"if no more CPUs will be added, boot with nr_cpus={online}; after adding some, start the"
        " agent again to have their flows counted"
    )
    return Finding(check, Status.WARN, found, hint)


def _unavailable(check: str, error: TracingUnavailableError) -> Finding:
    never = isinstance(error, UnsupportedHostError)
    return Finding(check, Status.FAIL, str(error), error.hint or "", never)


def _failed(check: str, obstacle: Obstacle) -> Finding:
    return Finding(check, Status.FAIL, obstacle.problem, obstacle.hint, obstacle.permanent)


def _btf(check: str) -> Finding:
    obstacle = requirements.btf()
    if obstacle is not None:
        return _failed(check, obstacle)
    path = Path("/sys/kernel/btf/vmlinux")
    if not os.access(path, os.R_OK):
        return Finding(check, Status.FAIL, f"{path} is not readable", f"chmod a+r {path}")
    return Finding(check, Status.OK, f"{path}, {path.stat().st_size / 1e6:.1f} MB")


def _jit(check: str) -> Finding:
    try:
        obstacle = requirements.jit()
    except PermissionError:
        return _skipped(check)
    return _failed(check, obstacle) if obstacle is not None else Finding(check, Status.OK, "on")


def _capabilities(check: str) -> Finding:
    held = capabilities.effective()
    if capabilities.OPEN_PROGRAMS not in held:
        has = ", ".join(sorted(held)) or "none that matter here"
        hint = "give the process CAP_SYS_ADMIN: opening programs by id needs it"
        return Finding(check, Status.FAIL, f"CAP_SYS_ADMIN is missing (has {has})", hint)
    lost = {name: loss for name, loss in capabilities.WITHOUT.items() if name not in held}
    if lost:
        found = "; ".join(f"without {name} {loss}" for name, loss in lost.items())
        hint = f"run as root, or give the process {', '.join(lost)}"
        return Finding(check, Status.WARN, found, hint)
    return Finding(check, Status.OK, ", ".join(sorted(held)))


def _tracing(check: str) -> Finding:
    try:
        with Engine() as engine:
            if engine.watches_devices:
                return Finding(check, Status.OK, "a tracer of our own program attached")
            found = (
                "works, but devices cannot be watched: some 20 instructions a packet more,"
                " and for flows every program is traced at its entry too"
            )
            if engine.hook_failure:
                found += f"; the hook on them does not run: {engine.hook_failure}"
            hint = "nothing to do; the kernel's raw_notifier_call_chain cannot be hooked"
            if ftrace_is_off():
                hint = "sysctl kernel.ftrace_enabled=1"
            if not may_hook():
                hint = (
                    "run in the host's PID namespace: hostPID in Kubernetes, --pid=host elsewhere"
                )
            return Finding(check, Status.WARN, found, hint)
    except TracingUnavailableError as error:
        return _unavailable(check, error)


def _census(check: str) -> Finding:
    try:
        Census().close()
    except KernelError as error:
        found = f"{error.summary}; a program is traced only once it is attached"
        return Finding(check, Status.WARN, found, "use Linux 5.9 or newer with iterators allowed")
    return Finding(check, Status.OK, "programs can be traced from before they are attached")


def _map_entries(check: str) -> Finding:
    try:
        Listing("maps", "entry_record").close()
    except KernelError as error:
        found = f"{error.summary}; programs of devmaps and cpumaps count as not attached"
        return Finding(check, Status.WARN, found, "use Linux 5.9 or newer with iterators allowed")
    return Finding(check, Status.OK, "programs behind maps are found")


def _sockets(check: str) -> Finding:
    if not has_xdp_sockets():
        return Finding(check, Status.OK, "not in this kernel")
    try:
        read_sockets()
    except KernelError as error:
        if error.errno == ENOENT:
            found = "not reported: this kernel does not list them (CONFIG_XDP_SOCKETS_DIAG)"
            return Finding(check, Status.OK, found)
        return Finding(
            check,
            Status.WARN,
            f"{error.summary}; AF_XDP sockets have no series",
            "ask the security module (SELinux, AppArmor) whether it forbids NETLINK_SOCK_DIAG",
        )
    return Finding(check, Status.OK, "AF_XDP sockets and their drops are reported")


def _bpffs(check: str) -> Finding:
    mount = bpffs.USUAL_MOUNT
    if bpffs.is_on_bpffs(mount):
        return Finding(check, Status.OK, f"mounted at {mount}")
    return Finding(check, Status.OK, f"not mounted at {mount}; only `state.pin_path` needs it")


def _pin_path(check: str, path: Path) -> Finding:
    made = not path.exists()
    try:
        with PinPath.open(path) as pins:
            count = sum(len(state.targets()) for state in pins.states())
            if made:
                pins.remove()
    except InUseError:
        return Finding(check, Status.OK, f"{path} is in use by an agent")
    except XdpscopeError as error:
        return Finding(check, Status.FAIL, str(error), error.hint or "")
    return Finding(check, Status.OK, f"{path}, with the counts of {programs(count)}")


def programs(count: int) -> str:
    """Return a number of programs in words."""
    return f"{count} program{'' if count == 1 else 's'}"


def _memlock(check: str) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = resource.RLIM_INFINITY
    if unlimited in (soft, hard) or "CAP_SYS_RESOURCE" in capabilities.effective():
        found = "unlimited" if soft == unlimited else "raised as needed"
        return Finding(check, Status.OK, found)
    if not _maps_are_locked_memory():
        return Finding(check, Status.OK, "maps of this kernel do not count as locked memory")
    hint = "maps count against it: ulimit -l unlimited, or CAP_SYS_RESOURCE"
    return Finding(check, Status.WARN, f"limited to {hard // 1024} KiB", hint)


def _maps_are_locked_memory() -> bool:
    """Return whether a map cannot be created without locked memory: so up to Linux 5.10."""
    limits = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, limits[1]))
    try:
        Map.create(_ARRAY, "probe", 4, 4, 1).close()
    except NotPermittedError:
        return True
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)
    return False


def _lockdown(check: str) -> Finding:
    obstacle = requirements.lockdown()
    if obstacle is not None:
        return _failed(check, obstacle)
    return Finding(check, Status.OK, requirements.lockdown_level() or "not in this kernel")


def _libbpf(check: str) -> Finding:
    return Finding(check, Status.OK, libbpf.version())


def _stats(check: str) -> Finding:
    try:
        on = Path("/proc/sys/kernel/bpf_stats_enabled").read_text().strip() != "0"
    except OSError:
        return Finding(check, Status.OK, "not in this kernel")
    found = "on: each run of a BPF program costs two clock reads more" if on else "off"
    return Finding(check, Status.OK, found)


_CHECKS: Mapping[str, Callable[[str], Finding]] = {
    "machine": _machine,
    "CPUs": _cpus,
    "kernel BTF": _btf,
    "JIT": _jit,
    "capabilities": _capabilities,
    "fentry/fexit on BPF programs": _tracing,
    "iterator over programs": _census,
    "iterator over maps": _map_entries,
    "AF_XDP sockets": _sockets,
    "lockdown": _lockdown,
    "memlock": _memlock,
    "bpffs": _bpffs,
    "libbpf": _libbpf,
    "kernel statistics": _stats,
}
# These need capabilities to say anything.
_PRIVILEGED = (_jit, _tracing, _census, _map_entries, _memlock, _stats)
