# SPDX-License-Identifier: Apache-2.0
"""Checks whether, and how well, XDP programs can be traced on this host."""

import os
import platform
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from xdpscope import libbpf
from xdpscope.discovery.listing import Listing
from xdpscope.discovery.programs import Census
from xdpscope.errors import (
    KernelError,
    NotPermitted,
    TracingUnavailable,
    UnsupportedHostError,
    XdpscopeError,
)
from xdpscope.kernel import bpffs, capabilities, machine
from xdpscope.tracing.engine import Engine, may_hook
from xdpscope.tracing.hook import ftrace_is_off
from xdpscope.tracing.pins import InUse, PinPath


class Status(StrEnum):
    """How a check ended; only a failure keeps the agent from its work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do about it unless it is ok."""

    check: str
    status: Status
    found: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    """Pinned state that was taken away."""

    path: str
    programs: int  # that it had counts of


def examine(pin_path: Path | None = None) -> Iterator[Finding]:
    """Runs every check. What needs trying is tried, on a program of our own.

    Args:
        pin_path: ``state.pin_path``, if it is set.
    """
    yield Finding("kernel", Status.OK, f"{platform.system()} {platform.release()}")
    for check in _CHECKS:
        yield check()
    if pin_path is not None:
        yield _pin_path(pin_path)


def clean(pin_path: Path) -> list[Removed]:
    """Removes all that agents have pinned below ``state.pin_path``.

    Raises:
        ConfigError: that is not on a bpffs.
        InUse: an agent is using it.
        XdpscopeError: it cannot be used.
    """
    with PinPath.open(pin_path) as pins:
        removed = []
        for state in pins.states():
            removed.append(Removed(str(state.path), len(state.targets())))
            state.remove()
        pins.remove()
        return removed


def _machine() -> Finding:
    try:
        machine.require_supported()
    except UnsupportedHostError as error:
        return Finding("machine", Status.FAIL, str(error), error.hint or "")
    return Finding("machine", Status.OK, machine.SUPPORTED)


def _btf() -> Finding:
    path = Path("/sys/kernel/btf/vmlinux")
    if not path.exists():
        cure = "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are"
        return Finding("kernel BTF", Status.FAIL, f"{path} is missing", cure)
    if not os.access(path, os.R_OK):
        return Finding("kernel BTF", Status.FAIL, f"{path} is not readable", "run as root")
    return Finding("kernel BTF", Status.OK, f"{path}, {path.stat().st_size / 1e6:.1f} MB")


def _jit() -> Finding:
    try:
        value = Path("/proc/sys/net/core/bpf_jit_enable").read_text().strip()
    except FileNotFoundError:
        return Finding(
            "JIT", Status.FAIL, "this kernel has no BPF JIT", "use one with CONFIG_BPF_JIT=y"
        )
    except PermissionError:
        return Finding("JIT", Status.WARN, "bpf_jit_enable is readable by root only", "run as root")
    if value == "0":
        cure = "sysctl net.core.bpf_jit_enable=1, then load the XDP programs again"
        return Finding("JIT", Status.FAIL, "off: interpreted programs cannot be traced", cure)
    return Finding("JIT", Status.OK, f"on (net.core.bpf_jit_enable={value})")


def _capabilities() -> Finding:
    held = capabilities.effective()
    if capabilities.OPEN_PROGRAMS not in held:
        has = ", ".join(sorted(held)) or "none that matter here"
        cure = "run as root, or give the process CAP_SYS_ADMIN: opening programs by id needs it"
        return Finding("capabilities", Status.FAIL, f"CAP_SYS_ADMIN is missing (has {has})", cure)
    lost = {name: loss for name, loss in capabilities.WITHOUT.items() if name not in held}
    if lost:
        found = "; ".join(f"without {name} {loss}" for name, loss in lost.items())
        cure = f"run as root, or give the process {', '.join(lost)}"
        return Finding("capabilities", Status.WARN, found, cure)
    return Finding("capabilities", Status.OK, ", ".join(sorted(held)))


def _tracing() -> Finding:
    check = "fentry/fexit on BPF programs"
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
            cure = "nothing to do; the kernel's raw_notifier_call_chain cannot be hooked"
            if ftrace_is_off():
                cure = "sysctl kernel.ftrace_enabled=1"
            if not may_hook():
                cure = (
                    "run in the host's PID namespace: hostPID in Kubernetes, --pid=host elsewhere"
                )
            return Finding(check, Status.WARN, found, cure)
    except TracingUnavailable as error:
        cause = error.__cause__
        refused = isinstance(cause, NotPermitted) or getattr(cause, "errno", 0) == 1
        if refused and capabilities.OPEN_PROGRAMS in capabilities.effective():
            found = f"{error}; the capabilities are there: this kernel forbids it"
            cure = (
                "see lockdown and security modules; some hosted kernels forbid tracing"
                " outright: use another, or a virtual machine with a kernel of your own"
            )
            return Finding(check, Status.FAIL, found, cure)
        return Finding(check, Status.FAIL, str(error), error.hint or "")


def _census() -> Finding:
    check = "iterator over programs"
    try:
        Census().close()
    except KernelError as error:
        found = f"{error.summary}; a program is traced only once it is attached"
        return Finding(check, Status.WARN, found, "use Linux 5.9 or newer with iterators allowed")
    return Finding(check, Status.OK, "programs can be traced from before they are attached")


def _map_entries() -> Finding:
    check = "iterator over maps"
    try:
        Listing("maps", "entry_record").close()
    except KernelError as error:
        found = f"{error.summary}; programs of devmaps and cpumaps count as not attached"
        return Finding(check, Status.WARN, found, "use Linux 5.9 or newer with iterators allowed")
    return Finding(check, Status.OK, "programs behind maps are found")


def _bpffs() -> Finding:
    mount = bpffs.USUAL_MOUNT
    if not bpffs.is_on_bpffs(mount):
        cure = f"mount -t bpf bpf {mount} (only `state.pin_path` needs it)"
        return Finding("bpffs", Status.WARN, f"not mounted at {mount}", cure)
    return Finding("bpffs", Status.OK, f"mounted at {mount}")


def _pin_path(path: Path) -> Finding:
    check = "state.pin_path"
    made = not path.exists()
    try:
        with PinPath.open(path) as pins:
            count = sum(len(state.targets()) for state in pins.states())
            if made:
                pins.remove()
    except InUse:
        return Finding(check, Status.OK, f"{path} is in use by an agent")
    except XdpscopeError as error:
        return Finding(check, Status.FAIL, str(error), error.hint or "")
    return Finding(check, Status.OK, f"{path}, with the counts of {programs(count)}")


def programs(count: int) -> str:
    """A number of programs in words."""
    return f"{count} program{'' if count == 1 else 's'}"


def _memlock() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    unlimited = resource.RLIM_INFINITY
    if unlimited in (soft, hard) or "CAP_SYS_RESOURCE" in capabilities.effective():
        found = "unlimited" if soft == unlimited else "raised as needed"
        return Finding("memlock", Status.OK, found)
    cure = "before Linux 5.11 maps count against it: ulimit -l unlimited, or CAP_SYS_RESOURCE"
    return Finding("memlock", Status.WARN, f"limited to {hard // 1024} KiB", cure)


def _lockdown() -> Finding:
    try:
        text = Path("/sys/kernel/security/lockdown").read_text()
    except OSError:
        return Finding("lockdown", Status.OK, "not in this kernel")
    level = text.partition("[")[2].partition("]")[0]
    if level == "confidentiality":
        cure = "boot with lockdown=integrity: confidentiality forbids BPF to read kernel memory"
        return Finding("lockdown", Status.FAIL, level, cure)
    return Finding("lockdown", Status.OK, level or "none")


def _libbpf() -> Finding:
    return Finding("libbpf", Status.OK, libbpf.version())


def _stats() -> Finding:
    try:
        on = Path("/proc/sys/kernel/bpf_stats_enabled").read_text().strip() != "0"
    except OSError:
        return Finding("kernel statistics", Status.WARN, "cannot be read", "run as root")
    found = "on: each run of a BPF program costs two clock reads more" if on else "off"
    return Finding("kernel statistics", Status.OK, found)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _machine,
    _btf,
    _jit,
    _capabilities,
    _tracing,
    _census,
    _map_entries,
    _lockdown,
    _memlock,
    _bpffs,
    _libbpf,
    _stats,
)
