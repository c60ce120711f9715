# SPDX-License-Identifier: Apache-2.0
"""Shows the main job: a filter at work, the agent that counts it, and what Prometheus has of it.

The scene plays on this host if its kernel lets BPF programs be traced, in namespaces that end with
it; else in a virtual machine. This side only asks Prometheus, prints, and ends it all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from . import plan
from .scene import SceneError, fetch, say

if TYPE_CHECKING:
    from types import FrameType

WORK_TREE = Path(__file__).resolve().parents[2]
PORTS = (plan.AGENT, plan.PROMETHEUS, plan.TRAFFIC)
START_LIMIT = 240.0
PAUSE = 3.0
"""Seconds from one table to the next."""
WELCOME = """
xdpscope counts what XDP programs do with packets. This demo shows it at work:

  1. xdp-filter, an XDP program of xdp-tools, is attached to an interface. It passes most packets
     and drops those of two rules. tcpdump on that interface would not see what it drops.
  2. xdpscope finds the filter and counts its verdicts. Prometheus reads these counts.
  3. A table compares the counts in Prometheus with the packets that were sent. They must be equal.
"""
NEXT = """
Try next:

  sudo .venv/bin/xdpscope doctor    # does xdpscope work on this host?
  sudo .venv/bin/xdpscope list      # which XDP programs does this host have?
  make install                      # install it here, with a systemd service (docs/host.md)
"""
VERDICTS = {"pass": "XDP_PASS", "drop": "XDP_DROP"}


@dataclass(frozen=True)
class Row:
    """What Prometheus knows of one verdict of one program."""

    program: str
    interface: str
    verdict: str
    counted: int
    sent: int | None
    """Nothing for a verdict that is not expected."""


class Prometheus:
    """Its HTTP API, as far as it is asked here."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return an instant query's labels and values; nothing as long as it does not answer."""
        text = fetch(f"{self.url}/api/v1/query?{urlencode({'query': expression})}")
        result: list[Any] = json.loads(text)["data"]["result"] if text else []
        return [(each["metric"], float(each["value"][1])) for each in result]

    def rows(self) -> list[Row]:
        """Return both sides' packets of one scrape; verdicts without a packet are left out."""
        found = self.query(
            "sum by (program, interface, verdict)"
            f' (xdp_packets_total{{interface="{plan.INTERFACE}"}}) > 0'
            f" or sum by (fate) ({plan.SENT})"
        )
        sent = {labels["fate"]: int(value) for labels, value in found if "fate" in labels}
        rows = [
            Row(
                each["program"],
                each["interface"],
                each["verdict"],
                int(count),
                sent.get(each["verdict"]),
            )
            for each, count in found
            if "program" in each
        ]
        return sorted(rows, key=lambda row: (row.program, row.verdict != "pass", row.verdict))


class Stage:
    """The process in which the scene plays, here or in a virtual machine."""

    def __init__(self, stack: ExitStack, ports: dict[int, int], kernel: str | None) -> None:
        if kernel is None:
            command, descriptors = self._here(stack, ports)
        else:
            command, descriptors = self._machine(ports, kernel), []
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}:/usr/sbin:/sbin"
        environment["TMPDIR"] = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="xdpscope-demo-")
        )
        # If this process is killed outright, so is that; and Ctrl-C on the terminal is ours.
        self._in_namespaces = kernel is None
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL" if self._in_namespaces else "TERM", *command],
            cwd=WORK_TREE,
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
        )
        stack.callback(self.end)

    @staticmethod
    def _here(stack: ExitStack, ports: dict[int, int]) -> tuple[list[str], list[int]]:
        """In namespaces for network, mounts and processes: with the first process all goes."""
        listeners = {port: socket.create_server(("127.0.0.1", ports[port])) for port in ports}
        for listener in listeners.values():
            stack.enter_context(listener)
        # A bpffs of its own too: the loader of the filter leaves pins there.
        scene = f'mount -t bpf bpf /sys/fs/bpf && exec "{sys.executable}" -m tests.demo.scene'
        relays = [f"--relay={listener.fileno()}:{port}" for port, listener in listeners.items()]
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += ["sh", "-c", f'{scene} "$@"', "scene", *relays]
        return command, [listener.fileno() for listener in listeners.values()]

    @staticmethod
    def _machine(ports: dict[int, int], kernel: str) -> list[str]:
        forwards = [f"--forward={here}:{there}" for there, here in ports.items()]
        command = [sys.executable, "-m", "tests.vm.run", "--kernel", kernel, "--timeout", "86400"]
        return [*command, *forwards, "--", "python", "-m", "tests.demo.scene"]

    def check(self) -> None:
        """Raise SceneError if it has ended; it has printed the reason."""
        status = self.process.poll()
        if status is not None:
            raise SceneError(f"the scene ended by itself, with status {status}")

    def end(self) -> None:
        """Take it all down."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if self._in_namespaces else signal.SIGTERM)
        self.process.wait()


def free_port(wanted: int) -> int:
    """This one, or any if it is taken."""
    for port in (wanted, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                found: int = probe.getsockname()[1]
                return found
        except OSError:
            continue
    raise SceneError("no free TCP port on 127.0.0.1")


def host_can_trace() -> bool:
    """Return whether the agent's own examination finds nothing that keeps it from its work."""
    command = [sys.executable, "-m", "xdpscope", "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        findings: list[dict[str, str]] = json.loads(result.stdout)["checks"]
    except ValueError:
        raise SceneError(f"xdpscope doctor does not work: {result.stderr}") from None
    failures = [finding for finding in findings if finding["status"] == "fail"]
    for finding in failures:
        found = finding["found"].partition(";")[0].rpartition(": ")[2]
        say(f"not on this host: {finding['check']}: {found}")
    return not failures


def await_counts(stage: Stage, prometheus: Prometheus) -> None:
    """Wait until Prometheus has counts of both verdicts."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        stage.check()
        if len(prometheus.rows()) > 1:
            return
        time.sleep(0.5)
    raise SceneError(f"no counts after {START_LIMIT:g} seconds")


def table(rows: list[Row], seconds: float) -> Table:
    """Side by side what was sent and what was counted."""
    result = Table(box=SIMPLE_HEAD, show_edge=False)
    result.add_column(f"{seconds:3.0f} s", style="dim", min_width=5)
    for heading in ("program", "interface", "verdict"):
        result.add_column(heading)
    result.add_column("counted", justify="right")
    result.add_column("sent", justify="right", style="dim")
    for row in rows:
        colour = {"pass": "green", "drop": "red"}.get(row.verdict, "yellow")
        verdict = VERDICTS.get(row.verdict, row.verdict)
        sent = "" if row.sent is None else f"{row.sent:,}"
        result.add_row(
            "", row.program, row.interface, f"[{colour}]{verdict}[/]", f"{row.counted:,}", sent
        )
    return result


def totals(agent: str, traffic: str) -> bool:
    """Stop the traffic and compare, packet by packet, what was sent with what was counted."""
    request = urllib.request.Request(f"{traffic}/stop", method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        sent: dict[str, int] = json.load(answer)
    for _ in range(20):  # the last packets may still be under way
        counted: dict[str, dict[str, int]] = {}
        for family in text_string_to_metric_families(fetch(f"{agent}/metrics")):
            for sample in family.samples:
                ours = sample.labels.get("interface") == plan.INTERFACE
                if ours and sample.name == "xdp_packets_total" and sample.value:
                    verdicts = counted.setdefault(sample.labels["program"], {})
                    verdicts[sample.labels["verdict"]] = int(sample.value)
        exact = bool(counted) and all(each == sent for each in counted.values())
        if exact:
            break
        time.sleep(0.25)
    print("traffic stopped; packets in all")
    for name, counts in {"sent": sent, **counted}.items():
        print(f"  {name:<20}{_summary(counts)}")
    print("every packet is accounted for" if exact else "the counts DIFFER", flush=True)
    return exact


def _summary(counts: dict[str, int]) -> str:
    return "  ".join(
        f"{VERDICTS.get(fate, fate)} {counts[fate]:>7,}" for fate in sorted(counts, reverse=True)
    )


def show(stage: Stage, ports: dict[int, int], seconds: float | None) -> int:
    """Print tables until time is up or Ctrl-C."""
    prometheus = Prometheus(ports[plan.PROMETHEUS])
    agent, traffic = (f"http://127.0.0.1:{ports[port]}" for port in (plan.AGENT, plan.TRAFFIC))
    await_counts(stage, prometheus)
    console = Console()
    query = "rate(xdp_packets_total[30s])"
    print(
        f"\n  the agent    {agent}/\n  its metrics  {agent}/metrics"
        f"\n  Prometheus   {prometheus.url}/graph?{urlencode({'g0.expr': query, 'g0.tab': 1})}\n"
        "\nPackets so far: counted by xdpscope, from Prometheus, and sent."
        f"\n{f'For {seconds:g} seconds.' if seconds else 'Until Ctrl-C.'}\n",
        flush=True,
    )
    started = time.monotonic()
    equal = True
    try:
        while seconds is None or time.monotonic() - started < seconds:
            stage.check()
            rows = prometheus.rows()
            equal = equal and all(row.counted == row.sent for row in rows)
            console.print(table(rows, time.monotonic() - started), "")
            left = PAUSE if seconds is None else seconds - (time.monotonic() - started)
            time.sleep(max(0.0, min(PAUSE, left)))
    except KeyboardInterrupt:
        print()
    if not equal:
        print("a table above shows DIFFERENT counts")
    return 0 if totals(agent, traffic) and equal else 1


def terminated(signum: int, _frame: FrameType | None) -> None:
    """End through the clean-up."""
    raise SystemExit(128 + signum)


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=main.__doc__)
    add = parser.add_argument
    add("--seconds", type=float, help="end by itself so long after the first table")
    add("--kernel", help="in a virtual machine with this kernel (tests/vm), even if not needed")
    options = parser.parse_args()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, terminated)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignores it
    print(WELCOME, flush=True)
    try:
        kernel = options.kernel or (None if host_can_trace() else "default")
        ports = {port: free_port(port) for port in PORTS}
        with ExitStack() as stack:
            if kernel is None:
                say("on this host, in namespaces that go with the demo")
            else:
                say("in a virtual machine, software-emulated: booting takes some 15 seconds")
            stage = Stage(stack, ports, kernel)
            status = show(stage, ports, options.seconds)
            say("taking everything down")
        print(NEXT)
        return status
    except SceneError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("interrupted; everything is taken down")
        return 130


if __name__ == "__main__":
    sys.exit(main())
