# SPDX-License-Identifier: Apache-2.0
"""The memory of an agent in guests of 2, 128 and 256 possible CPUs, as a Markdown table.

Measuring all of it takes half an hour. With ``--json``, one can do it in parts: the file keeps what
was measured before.
"""

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.compiled import BUILT, compile_all
from tests.bench.table import insert, markdown
from tests.vm.kernels import KERNELS, VmError
from tests.vm.run import Machine, run, supervised

# Few programs with many devices, and a host full of programs. Each is one agent.
SIZES = ("10x1,4,100", "20x1,100", "200x1,4", "500x1,4")
POSSIBLE = (2, 128, 256)

COMPUTED = (
    ((2, 2), (200, 100)),
    ((2, 2), (500, 100)),
    ((2, 128), (200, 100)),
    ((2, 128), (500, 100)),
    ((2, 256), (200, 100)),
    ((2, 256), (500, 100)),
    ((128, 128), (500, 1)),
    ((128, 128), (20, 100)),
    ((256, 256), (500, 1)),
    ((256, 256), (20, 100)),
)
"""CPUs online and possible, programs and devices: too large for a guest, or for its CPUs."""

_MIB = 1 << 20
_ENTRIES = 65536  # flows.max_entries
# Bytes in the kernel, see docs/cost.md: for each program, for each device of a program beyond its
# fourth, and for a flow of both families. The first two have a part for each possible CPU.
_PROGRAM, _PROGRAM_CPU = 272, 2592
_DEVICE, _DEVICE_CPU = 100, 520
_TABLE = 1 << 20  # for further devices, and from Linux 6.1 on a record in stock for each CPU
_FLOW = 112
_INLINE = 4


def per_cpu(row: dict[str, Any]) -> float:
    """Return the bytes of the per-CPU maps by the formula of docs/cost.md."""
    further = row["programs"] * max(0, row["devices"] - _INLINE)
    stock = row["cpus"]
    own = row["cpus"] * (row["programs"] * _PROGRAM_CPU + (further + stock) * _DEVICE_CPU)
    return float(own + (0 if _plain(row) else _flows(row)))


def predicted(row: dict[str, Any]) -> float:
    """Return the bytes of all maps by the formula of docs/cost.md."""
    further = row["programs"] * max(0, row["devices"] - _INLINE)
    rest = _TABLE + row["programs"] * _PROGRAM + further * _DEVICE
    return float(per_cpu(row) + rest + (_flows(row) if _plain(row) else 0))


def _plain(row: dict[str, Any]) -> bool:
    """Return whether flow tables are plain arrays: see docs/decisions/0005-flow-table.md."""
    return bool(row["cpus"] > 2 * row["online"])


def _flows(row: dict[str, Any]) -> float:
    cpus = row["online"] if _plain(row) else row["cpus"]
    return float(cpus * _FLOW * _ENTRIES / max(1, min(row["online"], 32) // 2))


def in_guest(kernel: str, possible: int, sizes: list[str]) -> dict[str, Any]:
    """Measure in one guest."""
    with tempfile.TemporaryDirectory(dir=BUILT) as directory:
        result = Path(directory) / "result.json"
        command = ["python", "-m", "tests.bench.scale.occupied", str(result), *sizes]
        machine = Machine(possible_cpus=possible, memory="4G", timeout=7200)
        if status := run(command, kernel=kernel, machine=machine):
            raise VmError(f"measuring on kernel {kernel} failed with status {status}")
        found: dict[str, Any] = json.loads(result.read_text())
    if any(row["cpus"] != possible for row in found["sizes"]):
        raise VmError(f"the guest has not {possible} possible CPUs")
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return a table in MiB."""
    lines = [
        ["CPUs: online of possible", "programs", "devices of each", "per-CPU maps",
         "by the formula", "kernel", "agent", "most in all"],
    ]  # fmt: skip
    for row in rows:
        values = row["percpu"], per_cpu(row), row["kernel"], row["resident"], row["peak"]
        lines.append(
            [
                f"{row['online']} of {row['cpus']}",
                *(str(row[name]) for name in ("programs", "devices")),
                *(f"{value / _MIB:.0f}" for value in values),
            ]
        )
    return markdown(lines)


def computed() -> str:
    """Return a table in MiB of what was not measured."""
    lines = [["CPUs: online of possible", "programs", "devices of each", "maps by the formula"]]
    for (online, cpus), (programs, devices) in COMPUTED:
        row = {"online": online, "cpus": cpus, "programs": programs, "devices": devices}
        size = f"{predicted(row) / _MIB:,.0f}"
        lines.append([f"{online} of {cpus}", str(programs), str(devices), size])
    return markdown(lines)


def _key(row: dict[str, Any]) -> tuple[int, ...]:
    return row["cpus"], row["programs"], row["devices"]


def bench(options: argparse.Namespace) -> int:
    """Measure what is wanted, and print all that is known."""
    known: dict[tuple[int, ...], dict[str, Any]] = {}
    if options.json and options.json.exists():
        known = {_key(row): row for row in json.loads(options.json.read_text())}
    compile_all()
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    for possible in options.possible if options.possible is not None else POSSIBLE:
        found = in_guest(options.kernel, possible, options.size or list(SIZES))
        for row in found["sizes"]:
            known[_key(row)] = {**row, "release": found["release"], "date": today}
        if options.json:
            options.json.write_text(json.dumps(list(known.values()), indent=2) + "\n")
    rows = [row for _, row in sorted(known.items())]
    releases = ", ".join(sorted({row["release"] for row in rows}))
    dates = ", ".join(sorted({row["date"] for row in rows}))
    text = f"Measured on {dates} on kernel {releases}; MiB.\n\n{table(rows)}"
    text += f"\n\nComputed, not measured; MiB.\n\n{computed()}"
    print(text, flush=True)
    if options.write:
        insert(options.write, "memory", text)
    return 0


def main() -> int:
    """Read the options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--kernel", default="6.1", choices=KERNELS)
    add("--possible", nargs="*", type=int, metavar="CPUS", help="none: measure nothing more")
    add("--size", action="append", metavar="PROGRAMSxDEVICES[,DEVICES…]", help="repeatable")
    add("--json", type=Path, metavar="FILE", help="for machines")
    add("--write", type=Path, metavar="DOCUMENT", help="between its markers")
    options = parser.parse_args()
    return supervised(lambda: bench(options))


if __name__ == "__main__":
    sys.exit(main())
