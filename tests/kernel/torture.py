# SPDX-License-Identifier: Apache-2.0
"""What hosts do to their XDP programs all day, at full speed: with an agent there, and without.

``python -m tests.kernel.torture --seconds 300`` in a virtual machine. First it does all
kinds of things at random for so many seconds; then the very same again with the agent
running. Nothing may fail, nor take longer by more than a tenth; traffic through a program
that stays must be counted to the packet; and in the end nothing may be left.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.kernel.agent import AgentProcess, traced, wait_for
from tests.kernel.lab import Lab, frame, kernel_objects
from tests.kernel.programs import compiled

PINNED = Path("/sys/fs/bpf/torture")
SLOWER = 1.1
"""An operation may take so much longer with the agent."""

_LONGEST_CHAIN = 10
_SCRAPES = 5.0  # seconds between two

Command = list[str]


@dataclass
class Report:
    """How one run went: seconds, by kind of operation; what failed."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)

    @property
    def operations(self) -> int:
        return sum(map(len, self.seconds.values()))

    def mean(self, kind: str) -> float:
        return sum(self.seconds[kind]) / len(self.seconds[kind])

    @property
    def total(self) -> float:
        return sum(map(sum, self.seconds.values()))


def operations(seed: int) -> Iterator[tuple[str, list[Command]]]:
    """Endless: a kind of operation, and the commands that it takes.

    Each can be done whatever came before, but by its own predecessors of the same kind.
    """
    choose = random.Random(seed)
    program = str(compiled("single"))
    chained = attached = False
    namespaces: set[str] = set()
    while True:
        kind = choose.choice(["chain", "replace", "attach", "namespace"])
        if kind == "chain":
            if chained:
                yield "xdp-loader unload", [["xdp-loader", "unload", "chain0", "--all"]]
            else:
                components = [program] * choose.randint(1, _LONGEST_CHAIN)
                yield "xdp-loader load", [["xdp-loader", "load", "chain0", *components]]
            chained = not chained
        elif kind == "replace":
            mode = choose.choice(["xdpdrv", "xdpgeneric"])
            link = ["ip", "-force", "link", "set", "dev", "replace0"]
            other = "xdpgeneric" if mode == "xdpdrv" else "xdpdrv"
            yield (
                "ip link replace",
                [[*link, other, "off"], [*link, mode, "obj", program, "sec", "xdp"]],
            )
        elif kind == "attach":
            if attached:
                yield "bpftool net detach", [["bpftool", "net", "detach", "xdp", "dev", "attach0"]]
            else:
                path = str(PINNED / "single")
                bpftool = ["bpftool", "net", "attach", "xdp", "pinned", path, "dev", "attach0"]
                yield "bpftool net attach", [[*bpftool, "overwrite"]]
            attached = not attached
        else:
            name = f"torture{choose.randrange(4)}"
            if name in namespaces:
                namespaces.remove(name)
                yield "namespace deleted", [["ip", "netns", "delete", name]]
            else:
                namespaces.add(name)
                inside = ["ip", "-netns", name, "link"]
                yield (
                    "namespace made",
                    [
                        ["ip", "netns", "add", name],
                        [*inside, "add", "eth0", "type", "veth", "peer", "name", "eth1"],
                        [*inside, "set", "dev", "eth0", "up"],
                        [*inside, "set", "dev", "eth0", "xdpdrv", "obj", program, "sec", "xdp"],
                    ],
                )


def torment(seed: int, go_on: Callable[[Report], bool]) -> Report:
    """Does them one after the other as long as ``go_on`` says so."""
    report = Report()
    for kind, commands in operations(seed):
        if not go_on(report):
            return report
        began = time.monotonic()
        for command in commands:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if ended.returncode:
                report.failures.append(f"{' '.join(command)}: {ended.stderr.strip()}")
        report.seconds[kind].append(time.monotonic() - began)
    raise AssertionError("operations are endless")


@contextmanager
def ground() -> Iterator[Lab]:
    """The interfaces that are tormented, and one that is left alone."""
    lab = Lab()
    with ExitStack() as stack:
        stack.callback(lab.close)
        for name in ("chain0", "replace0", "attach0"):
            lab.veth(name)
        PINNED.mkdir(exist_ok=True)
        pinned = PINNED / "single"
        load = ["bpftool", "prog", "load", str(compiled("single")), str(pinned), "type", "xdp"]
        subprocess.run(load, check=True)
        stack.callback(PINNED.rmdir)
        stack.callback(pinned.unlink)
        try:
            yield lab
        finally:
            subprocess.run(["xdp-loader", "unload", "chain0", "--all"], capture_output=True)
            for name in [f"torture{number}" for number in range(4)]:
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@contextmanager
def traffic(lab: Lab, ready: Callable[[], bool] = lambda: True) -> Iterator[Callable[[], int]]:
    """Packets through a program that stays where it is; yields what tells how many in the end."""
    steady = lab.veth("steady0")
    lab.attach(lab.load("decide_drop"), steady)
    wait_for(ready)
    with steady.sending(frame(60)) as sending:
        yield lambda: sending.sent - steady.lost


def without(seed: int, seconds: float) -> Report:
    """How it goes with nobody looking."""
    with ground() as lab, traffic(lab):
        end = time.monotonic() + seconds
        return torment(seed, lambda _: time.monotonic() < end)


def observed(seed: int, count: int) -> Report:
    """The same so many operations under the agent's eyes.

    Raises:
        AssertionError: the agent did not survive, or did not count exactly.
    """
    # At the lowest priority: an emulated machine has no CPU to spare, as hosts have.
    unhurried = ["chrt", "--idle", "0"]
    with ground() as lab, AgentProcess(prefix=unhurried).ready() as agent:
        asked = time.monotonic()

        def go_on(report: Report) -> bool:
            nonlocal asked
            if time.monotonic() > asked + _SCRAPES:
                agent.get("/metrics")
                asked = time.monotonic()
            return report.operations < count

        with traffic(lab, lambda: traced(agent, "decide_drop")) as sent:
            report = torment(seed, go_on)

        def counted() -> float | None:
            return agent.value("xdp_packets_total", program="decide_drop", verdict="drop")

        wait_for(lambda: counted() == sent())
        print(f"counted exactly: {sent():,} packets", flush=True)
        complaints = [entry for entry in agent.log if entry.get("level") not in ("info", "debug")]
        print(f"the agent's warnings: {len(complaints)} {complaints[:5]}", flush=True)
        assert agent.process.poll() is None, "the agent has ended"
        assert agent.stop() == 0
        return report


def compare(before: Report, after: Report) -> list[str]:
    """Prints both; what is wrong."""
    print(f"{'':22}{'times':>6}{'without':>11}{'with':>11}{'ratio':>8}")
    for kind, seconds in sorted(before.seconds.items()):
        one, other = before.mean(kind), after.mean(kind)
        print(
            f"{kind:22}{len(seconds):6}{one * 1e3:8.1f} ms{other * 1e3:8.1f} ms{other / one:8.2f}"
        )
    ratio = after.total / before.total
    print(f"{'all':22}{before.operations:6}{'':22}{ratio:8.2f}")
    wrong = [f"failed without the agent: {failure}" for failure in before.failures[:5]]
    wrong += [f"failed with the agent: {failure}" for failure in after.failures[:5]]
    if ratio > SLOWER:
        wrong.append(f"operations take {ratio:.2f} times as long with the agent")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.torture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    subprocess.run(["modprobe", "-a", "veth"], check=False)
    before_all = kernel_objects()
    alone = without(options.seed, options.seconds)
    left = kernel_objects()
    watched = observed(options.seed, alone.operations)
    wrong = compare(alone, watched)
    wait = time.monotonic() + 30
    while (now := kernel_objects()) != left and time.monotonic() < wait:
        time.sleep(0.5)
    print("kernel objects before, without, with:", before_all, left, now)
    if now != left:
        wrong.append(f"left behind: {now} instead of {left}")
    if options.json:
        options.json.write_text(json.dumps({"wrong": wrong, "operations": alone.operations}))
    for each in wrong:
        print(f"torture: {each}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
