# SPDX-License-Identifier: Apache-2.0
"""What observing 200 programs costs the agent. Exit status 1 if it is too much."""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.compiled import BUILT, compile_all
from tests.bench.scale import PROGRAMS, grown, page
from tests.bench.table import insert, markdown
from tests.vm.kernels import KERNELS, VmError
from tests.vm.run import Machine, run, supervised

_MIB = 1 << 20
_INTERVAL = 5.0  # discovery.interval of the default configuration
_IDLE_SECONDS = 60.0
_TIMEOUT = 3600.0  # of a guest, on a machine that has other work


@dataclass(frozen=True)
class Finding:
    """One line of the report; with a limit, one that must hold."""

    what: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value < self.limit


def in_guest(module: str, kernel: str, *, icount: bool) -> dict[str, Any]:
    """Measure in a guest, idling only where an instruction is a nanosecond: it costs no time."""
    with tempfile.TemporaryDirectory(dir=BUILT) as directory:
        result = Path(directory) / "result.json"
        command = ["python", "-m", f"tests.bench.scale.{module}", str(result)]
        if module == "guest":
            command.append(str(_IDLE_SECONDS if icount else 0))
        machine = Machine(icount=icount, emulate=True, timeout=_TIMEOUT)
        if status := run(command, kernel=kernel, machine=machine):
            raise VmError(f"measuring on kernel {kernel} failed with status {status}")
        found: dict[str, Any] = json.loads(result.read_text())
    return found


def native_round() -> float:
    """Seconds that a round of discovery takes of a CPU of this machine."""
    command = ["unshare", "--net", sys.executable, "-m", "tests.bench.scale.rounds"]
    found: float = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def of_page(costs: list[page.PageCost]) -> list[Finding]:
    """Return what a scrape takes."""
    found = []
    for cost in costs:
        name = f"`{cost.path}`, {cost.encoding}"
        found += [
            Finding(f"{name}: median of {page.SCRAPES}", cost.median * 1e3, "ms", 100),
            Finding(f"{name}: slowest", cost.slowest * 1e3, "ms"),
            Finding(f"{name}: size", cost.size / 1024, "KiB"),
        ]
    return found


def of_agent(clock: dict[str, Any], counted: dict[str, Any], native: float) -> list[Finding]:
    """Return what the agent takes, on one kernel."""
    # Seconds here for an instruction, by discovery: it can be run here, and is most of idling.
    speed = native / counted["round_cpu"]
    # A scan, then a pause: here the scan is shorter, and the pause the same.
    scan = counted["idle_cpu"] * _INTERVAL / (1 - counted["idle_cpu"])
    return [
        Finding("attaching", clock["attaching"], "s of the guest", 3),
        Finding("attaching, by instructions", counted["attaching"], "s at 1 GHz and 1 a cycle"),
        Finding("from the start until all are traced", counted["starting_cpu"], "10⁹ instructions"),
        Finding("resident memory before a scrape", counted["resident"] / _MIB, "MiB"),
        Finding("resident memory after it", counted["resident_scraped"] / _MIB, "MiB", 80),
        Finding("kernel memory of the maps", counted["maps"]["sum"] / _MIB, "MiB"),
        Finding("a scan of the host", scan * 1e3, "10⁶ instructions"),
        Finding("of it finding programs", counted["round_cpu"] * 1e3, "10⁶ instructions"),
        Finding("finding programs, on this machine", native * 1e3, "ms of a CPU"),
        Finding("idling, on this machine", 100 * scan * speed / _INTERVAL, "% of a CPU", 1),
        Finding("a scrape", counted["scrape_cpu"] * 1e3, "10⁶ instructions"),
        Finding(
            "of it a series", counted["scrape_cpu"] / counted["series"] * 1e6, "10³ instructions"
        ),
    ]


def table(findings: list[Finding]) -> str:
    rows = [["", "measured", "limit", "unit"]]
    for each in findings:
        limit = "" if each.limit is None else f"{each.limit:g}"
        value = f"{each.value:.3g}" if each.value < 100 else f"{each.value:.0f}"
        rows.append([each.what, value if each.holds else f"**{value}**", limit, each.unit])
    return markdown(rows)


def of_numbers(options: argparse.Namespace) -> tuple[bool, dict[str, Any]]:
    """Return what ever more programs take: whether it is little enough, and the figures."""
    texts, results, holds = [], {}, True
    for kernel in options.kernel or ["6.12"]:
        guests = [in_guest("growth", kernel, icount=icount) for icount in (False, True)]
        results[kernel] = dict(zip(("clock", "counted"), guests, strict=True))
        holds &= all(row.holds for row in grown.rows(*guests))
        title = f"Measured on {datetime.now(UTC):%Y-%m-%d} on kernel {guests[0]['release']}"
        texts.append(f"{title}.\n\n{grown.table(*guests)}")
    _publish(options, "growth", "\n\n".join(texts))
    return holds, results


def of_many(options: argparse.Namespace) -> tuple[bool, dict[str, Any]]:
    """Return what PROGRAMS take: whether it is little enough, and the figures."""
    pages = page.measure()
    native = native_round()
    results: dict[str, Any] = {"page": [asdict(each) for each in pages], "native_round": native}
    findings = of_page(pages)
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    parts = [f"Measured on {date}: {PROGRAMS} programs, the page.\n\n{table(findings)}"]
    for kernel in options.kernel or ["6.12"]:
        clock = in_guest("guest", kernel, icount=False)
        counted = in_guest("guest", kernel, icount=True)
        results[kernel] = {"clock": clock, "counted": counted}
        of_kernel = of_agent(clock, counted, native)
        findings += of_kernel
        title = f"{PROGRAMS} programs on kernel {counted['release']}"
        parts.append(f"Measured on {date}: {title}.\n\n{table(of_kernel)}")
    _publish(options, "scale", "\n\n".join(parts))
    return all(each.holds for each in findings), results


def _publish(options: argparse.Namespace, part: str, text: str) -> None:
    print(text, flush=True)
    if options.write:
        insert(options.write, part, text)


def bench(options: argparse.Namespace) -> int:
    compile_all()
    results, holds = {}, True
    for name in options.part or PARTS:
        held, results[name] = PARTS[name](options)
        holds &= held
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(not holds)


PARTS = {"many": of_many, "numbers": of_numbers}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="repeatable")
    parser.add_argument(
        "--part", action="append", choices=PARTS, help="repeatable; all of them without it"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="for machines")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="between its markers")
    options = parser.parse_args()
    return supervised(lambda: bench(options))


if __name__ == "__main__":
    sys.exit(main())
