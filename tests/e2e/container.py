# SPDX-License-Identifier: Apache-2.0
"""What the kubelet and a runtime make of the DaemonSet: an OCI bundle for crun."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.image import ROOT, config

REPOSITORY = Path(__file__).resolve().parents[2]
# containers-common's: the default of podman and CRI-O, and but for a few calls containerd's.
SECCOMP = Path("/usr/share/containers/seccomp.json")

_PROPAGATION = {"HostToContainer": "rslave", "Bidirectional": "rshared", None: "rprivate"}
_UNIT = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
# What the kubelet asks of every runtime.
_MASKED = [f"/proc/{name}" for name in ("acpi", "kcore", "keys", "latency_stats", "timer_list")]
_MASKED += ["/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"]
_READ_ONLY = [f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")]

CRUN = ("crun", "--root", "/run/crun")

Json = dict[str, Any]


def bundle(directory: Path, configuration: str, variables: dict[str, str], *command: str) -> Path:
    """Write a bundle with everything that the manifest says of the agent's container.

    Args:
        directory: Where to; ``crun run --bundle`` takes it.
        configuration: The text of xdpscope.yaml.
        variables: The values of what comes from the node.
        command: Arguments in place of the manifest's.
    """
    manifest = yaml.safe_load((REPOSITORY / "config/kubernetes/base/daemonset.yaml").read_text())
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security, image = container["securityContext"], config()
    assert pod["hostNetwork"] and pod["hostPID"] and security["capabilities"]["drop"] == ["ALL"]
    capabilities = [f"CAP_{name}" for name in security["capabilities"]["add"]]
    given = {each["name"] for each in container["env"]}
    assert given == variables.keys()
    arguments = list(command) or [
        re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], each)
        for each in container["args"]
    ]
    directory.mkdir(parents=True, exist_ok=True)
    mounted = directory / "config"
    mounted.mkdir(exist_ok=True)
    (mounted / "xdpscope.yaml").write_text(configuration)
    spec = {
        "ociVersion": "1.0.2",
        "root": {"path": str(ROOT), "readonly": security["readOnlyRootFilesystem"]},
        "process": {
            "user": {"uid": security["runAsUser"], "gid": security["runAsGroup"]},
            "args": [*image["Entrypoint"], *arguments],
            "env": [*image["Env"], *(f"{name}={value}" for name, value in variables.items())],
            "cwd": image.get("WorkingDir") or "/",
            "noNewPrivileges": not security["allowPrivilegeEscalation"],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "rlimits": [{"type": "RLIMIT_MEMLOCK", "soft": 65536, "hard": 65536}],
        },
        "mounts": [*_SYSTEM, *_volumes(pod, container, mounted)],
        "linux": {
            # Neither of network nor of processes: those are the host's.
            "namespaces": [{"type": name} for name in ("mount", "ipc", "uts")],
            "resources": {"memory": {"limit": _bytes(container["resources"]["limits"]["memory"])}},
            "cgroupsPath": "/xdpscope",
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
            "seccomp": _seccomp({*capabilities}),
        },
    }
    (directory / "config.json").write_text(json.dumps(spec, indent=2))
    return directory


_SYSTEM = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid"]},
]


def _volumes(pod: Json, container: Json, configuration: Path) -> list[Json]:
    sources = {
        volume["name"]: volume["hostPath"]["path"] if "hostPath" in volume else str(configuration)
        for volume in pod["volumes"]
    }
    return [
        {
            "destination": mount["mountPath"],
            "type": "bind",
            "source": sources[mount["name"]],
            "options": [
                "rbind",
                "ro" if mount.get("readOnly") else "rw",
                _PROPAGATION[mount.get("mountPropagation")],
            ],
        }
        for mount in container["volumeMounts"]
    ]


def _bytes(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    return int(number) * _UNIT[unit]


def _seccomp(capabilities: set[str]) -> Json:
    """Return the default profile as a runtime makes it of its rules for these capabilities."""
    profile = json.loads(SECCOMP.read_text())
    rules = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if (
            {*includes.get("caps", ())} <= capabilities
            and not {*excludes.get("caps", ())} & capabilities
            and "amd64" in includes.get("arches", ["amd64"])
            and "amd64" not in excludes.get("arches", [])
        ):
            kept = {name: rule[name] for name in ("names", "action", "args") if rule.get(name)}
            if "errnoRet" in rule:
                kept["errnoRet"] = rule["errnoRet"]
            rules.append(kept)
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    }
