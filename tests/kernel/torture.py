# SPDX-License-Identifier: Apache-2.0
"""What hosts do to their XDP programs all day, at full speed: with an agent there, and without.

    python -m tests.vm.run --kernel 6.1 --parallel --timeout 3000 -- python -m tests.kernel.torture

First it does all kinds of things at random for five minutes; then the very same again with
the agent running, configured as it comes, and once more without, because computers are faster in
one minute than in the next. Nothing may fail, nor take longer by more than a tenth; what goes
through programs that stay where they are must be counted to the packet; and in the end nothing is
left.

Two CPUs that really run at once, as hosts have them: the agent takes its time from the other one,
and what it does in the kernel happens while something else is done there. On one CPU, whose clock
is that of its instructions, it would be the emulator that is measured: what waits for the host's
files waits as long however slow that CPU is made, and the agent then gets in the way of nothing or
of everything.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pyroute2.netns import popns, pushns

from tests.kernel.agent import AgentProcess, traced
from tests.kernel.event_log import EventLog
from tests.kernel.lab import Drizzle, Lab, Veth, addressed, frame, kernel_objects, sender_on
from tests.kernel.programs import compiled
from tests.kernel.test_chains import DROP, LINKS, PASS, chain
from tests.waiting import wait_for

SLOWER = 1.1
"""Operations take less than so many times as long with the agent."""

_PINNED = Path("/sys/fs/bpf/torture")
_LONGEST_CHAIN = 10
_NAMESPACES = [f"torture{number}" for number in range(4)]
_SCRAPES = 5.0  # seconds between two
_WARMING = 60  # operations, until what they read is in memory
_BPFTOOL = "bpftool", "net"
_INNER = "steady"
_USUAL = "info", "debug"

Counts = dict[tuple[str, str, str], int]
"""(program, interface, verdict) to packets."""
_PROGRAM = str(compiled("single"))


@dataclass
class Report:
    """How one round went: seconds, by kind of operation; what failed."""

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


Operation = tuple[str, list[Sequence[str]]]
"""Of which kind it is, and the commands that it takes."""


def operations(seed: int) -> Iterator[Operation]:
    """Endless. Each can be done whatever came before, but for others of its kind."""
    choose = random.Random(seed)
    program = _PROGRAM
    chained = attached = False
    namespaces: set[str] = set()
    while True:
        kind = choose.choice(["chain", "replace", "attach", "namespace"])
        if kind == "chain":
            if chained:
                yield "xdp-loader unload", [("xdp-loader", "unload", "chain0", "--all")]
            else:
                components = [program] * choose.randint(1, _LONGEST_CHAIN)
                yield "xdp-loader load", [("xdp-loader", "load", "chain0", *components)]
            chained = not chained
        elif kind == "replace":
            mode = choose.choice(["xdpdrv", "xdpgeneric"])
            link = "ip", "-force", "link", "set", "dev", f"{mode}0", mode
            yield "ip link replace", [(*link, "obj", program, "sec", "xdp")]
        elif kind == "attach":
            if attached:
                yield "bpftool net detach", [(*_BPFTOOL, "detach", "xdp", "dev", "attach0")]
            else:
                what = "pinned", str(_PINNED / "single"), "dev", "attach0"
                yield "bpftool net attach", [(*_BPFTOOL, "attach", "xdp", *what)]
            attached = not attached
        else:
            name = choose.choice(_NAMESPACES)
            if name in namespaces:
                namespaces.remove(name)
                yield "namespace deleted", [("ip", "netns", "delete", name)]
            else:
                namespaces.add(name)
                yield "namespace made", _namespace(name)


def _namespace(name: str, interface: str = "eth0") -> list[Sequence[str]]:
    peer, link = f"{interface}p", ("ip", "-netns", name, "link")
    return [
        ("ip", "netns", "add", name),
        (*link, "add", interface, "type", "veth", "peer", "name", peer),
        (*link, "set", "dev", interface, "up"),
        (*link, "set", "dev", peer, "up"),
        (*link, "set", "dev", interface, "xdpdrv", "obj", _PROGRAM, "sec", "xdp"),
    ]


def torment(
    seed: int,
    go_on: Callable[[Report], bool],
    done: Callable[[Operation], object] = bool,
) -> Report:
    """Do them one after the other as long as ``go_on`` says so, and call ``done`` after each."""
    report = Report()
    for kind, commands in operations(seed):
        if not go_on(report):
            break
        began = time.monotonic()
        for command in commands:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if ended.returncode:
                said = (ended.stderr or ended.stdout).strip()
                report.failures.append(f"{' '.join(command)}: {said}")
        report.seconds[kind].append(time.monotonic() - began)
        done((kind, commands))
    return report


class ExpectedEvents:
    """Checks after each operation that the agent has exactly its events."""

    def __init__(self, agent: AgentProcess) -> None:
        self._log = EventLog(agent)
        self._replaced: set[str] = set()  # interfaces that have a program already
        self._chained = 0  # programs of the chain, with the dispatcher

    def check(self, operation: Operation) -> None:
        """Wait for the events of the operation that was done last."""
        kind, commands = operation
        expect = self._log.expect
        if kind == "xdp-loader load":
            self._chained = 1 + commands[0].count(_PROGRAM)
            expect(("host", "chain0"), self._chained, attached=self._chained)
        elif kind == "xdp-loader unload":
            expect(("host", "chain0"), 0, detached=self._chained)
        elif kind == "ip link replace":
            interface = commands[0][5]
            event = "replaced" if interface in self._replaced else "attached"
            self._replaced.add(interface)
            expect(("host", interface), 1, **{event: 1})
        elif kind == "bpftool net attach":
            expect(("host", "attach0"), 1, attached=1)
        elif kind == "bpftool net detach":
            expect(("host", "attach0"), 0, detached=1)
        elif kind == "namespace made":
            expect((commands[0][-1], "eth0"), 1, attached=1)
        else:
            expect((commands[0][-1], "eth0"), 0, detached=1)

    def check_unloads(self) -> None:
        """Wait until all programs that were given up are unloaded."""
        self._log.expect_unloaded()


@dataclass
class Ground:
    """Interfaces that are tormented, and three with traffic, whose programs stay."""

    lab: Lab
    traffic: Drizzle

    def expected(self) -> Counts:
        """Return what has been counted where, once the traffic has ended."""
        sent = self.traffic.sent
        return {
            ("decide_drop", "root0", "drop"): sent,
            ("come_and_go", "inner0", "drop"): sent,
            ("xdp_dispatcher", "steady0", "drop"): sent,
            ("xdp_dispatcher", "steady0", "pass"): sent,
            ("pass_on", "steady0", "pass"): 2 * sent,
            ("drop_some", "steady0", "drop"): sent,
            ("drop_some", "steady0", "pass"): sent,
            ("send_back_some", "steady0", "pass"): sent,
        }


@contextmanager
def ground() -> Iterator[Ground]:
    """Make it, and take it away again."""
    with ExitStack() as stack:
        lab = Lab()
        stack.callback(lab.close)
        stack.callback(_clear)
        for name in ("chain0", "xdpdrv0", "xdpgeneric0", "attach0"):
            lab.veth(name)
        _PINNED.mkdir()
        stack.callback(_PINNED.rmdir)
        pinned = _PINNED / "single"
        _do("bpftool", "prog", "load", _PROGRAM, str(pinned), "type", "xdp")
        stack.callback(pinned.unlink)

        root, steady = lab.veth("root0"), lab.veth("steady0")
        lab.attach(lab.load("decide_drop"), root)
        stack.enter_context(chain(steady, *LINKS))
        add, *rest = _namespace(_INNER, "inner0")
        _do(*add)
        with _within(_INNER):
            # Else the kernel itself would send something.
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
            for command in rest:
                _do(*command)
            inner = sender_on("inner0p")
        traffic = Drizzle(
            [
                (root.sender(), frame(60)),
                (inner, frame(60)),
                (steady.sender(), addressed(frame(60), what=DROP)),
                (steady.sender(), addressed(frame(60), what=PASS)),
            ]
        )
        stack.callback(traffic.stop)
        yield Ground(lab, traffic)
        assert root.lost == steady.lost == 0, "packets were lost on their way"


@contextmanager
def _within(namespace: str) -> Iterator[None]:
    pushns(namespace)
    try:
        yield
    finally:
        popns()


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _clear() -> None:
    subprocess.run(["xdp-loader", "unload", "chain0", "--all"], capture_output=True)
    for name in (*_NAMESPACES, _INNER):
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def without(seed: int, go_on: Callable[[Report], bool]) -> Report:
    """Return how it goes without the agent."""
    with ground() as place:
        place.traffic.start()
        return torment(seed, go_on)


def for_seconds(seconds: float) -> Callable[[Report], bool]:
    """Return whether they are not over yet."""
    end = time.monotonic() + seconds
    return lambda _: time.monotonic() < end


def for_operations(count: int) -> Callable[[Report], bool]:
    """Return whether there were not so many yet."""
    return lambda report: report.operations < count


def observed(seed: int, count: int, config: str = "", *, events: bool = False) -> Report:
    """Return the same so many operations under the agent's eyes.

    Args:
        seed: Of the operations.
        count: How many there are.
        config: The agent's configuration.
        events: Wait for the agent's events after each operation, and compare them.

    Raises:
        AssertionError: the agent did not survive, did not count exactly, or says of a
            program that stayed that it lost sight of it.
    """
    with ground() as place, AgentProcess(config).ready() as agent:
        wait_for(lambda: all(traced(agent, program) for program, _, _ in place.expected()))
        asked = time.monotonic()

        def go_on(report: Report) -> bool:
            nonlocal asked
            if time.monotonic() > asked + _SCRAPES:
                agent.get("/metrics")
                asked = time.monotonic()
            return report.operations < count

        place.traffic.start()
        descriptors, busy, began = agent.descriptors(), agent.cpu_seconds(), time.monotonic()
        expected = ExpectedEvents(agent) if events else None
        report = torment(seed, go_on, expected.check if expected else bool)
        if expected:
            expected.check_unloads()
        busy, took = agent.cpu_seconds() - busy, time.monotonic() - began
        print(f"the agent's time: {busy / took:.0%} of a CPU", flush=True)
        place.traffic.stop()
        expect(agent, place.expected())
        print(f"counted exactly: {place.traffic.sent:,} packets of each kind", flush=True)
        expect_of_the_last(agent, place.lab)
        warnings = Counter(each["event"] for each in agent.log if each["level"] not in _USUAL)
        print(f"the agent's warnings: {dict(warnings)}", flush=True)
        print(f"its memory: {agent.memory() >> 20} MiB, descriptors: {descriptors} before,"
              f" {agent.descriptors()} now", flush=True)  # fmt: skip
        assert agent.process.poll() is None, "the agent has ended"
        assert agent.stop() == 0
        return report


def expect(agent: AgentProcess, counts: Counts) -> None:
    """Fail unless the page has these numbers, soon, and no others of them later."""

    def found() -> Counts:
        sums: Counter[tuple[str, str, str]] = Counter()
        for labels, value in agent.samples("xdp_packets_total"):
            sums[labels["program"], labels["interface"], labels["verdict"]] += int(value)
        return {key: sums[key] for key in counts}

    end = time.monotonic() + 60
    while found() != counts and time.monotonic() < end:
        time.sleep(0.5)
    assert found() == counts


def expect_of_the_last(agent: AgentProcess, lab: Lab) -> None:
    """Fail unless what the torment has left behind is counted, to the packet."""
    places = {}
    for name in ("xdpdrv0", "xdpgeneric0", "attach0"):
        veth = Veth(name, f"{name}p", lab.index(name))
        program = lab.attached_program(veth)
        if program is not None:
            places[program, name] = veth

    def attached() -> set[tuple[int, str]]:
        return {
            (program["id"], at["interface"])
            for program in json.loads(agent.get("/api/v1/programs"))["programs"]
            if program["traceable"]
            for at in program["attachments"]
        }

    def totals() -> Counter[tuple[int, str]]:
        found: Counter[tuple[int, str]] = Counter()
        for labels, value in agent.samples("xdp_packets_total"):
            key = int(labels["program_id"]), labels["interface"]
            found[key] += int(value) if key in places else 0
        return +found

    wait_for(lambda: places.keys() <= attached())
    before = totals()
    for veth in places.values():
        veth.send(frame(60), times=50)
    wait_for(lambda: totals() == before + Counter(dict.fromkeys(places, 50)))
    print(f"counted exactly: 50 more by each of {len(places)} programs that stayed", flush=True)


def compare(before: Report, watched: Report, after: Report) -> float:
    """Print them; how many times as long it took with the agent as without."""
    print(f"{'':20}{'times':>6}{'without':>12}{'with':>12}{'without':>12}{'ratio':>7}")
    for kind, seconds in sorted(before.seconds.items()):
        means = [report.mean(kind) for report in (before, watched, after)]
        times = "".join(f"{mean * 1e3:9.1f} ms" for mean in means)
        print(f"{kind:20}{len(seconds):6}{times}{_ratio(*means):7.2f}")
    ratio = _ratio(before.total, watched.total, after.total)
    print(f"{'all':20}{before.operations:6}{'':36}{ratio:7.2f}")
    return ratio


def _ratio(before: float, watched: float, after: float) -> float:
    return 2 * watched / (before + after)


def leftovers() -> dict[str, int]:
    """Return what the kernel holds that could have been forgotten."""
    slabs = Path("/proc/slabinfo").read_text().splitlines()
    spaces = [int(line.split()[1]) for line in slabs if line.startswith("net_namespace ")]
    return {**kernel_objects(), **({"namespaces": spaces[0]} if spaces else {})}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernel.torture")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    without(options.seed, for_operations(_WARMING))
    before = without(options.seed, for_seconds(options.seconds))
    left = leftovers()
    watched = observed(options.seed, before.operations)
    wait_until = time.monotonic() + 30
    while (now := leftovers()) != left and time.monotonic() < wait_until:
        time.sleep(0.5)
    print(f"held by the kernel, without: {left}; with: {now}")
    after = without(options.seed, for_operations(before.operations))
    ratio = compare(before, watched, after)
    alone = before.failures + after.failures
    wrong = [f"failed without the agent: {failure}" for failure in alone]
    wrong += [f"failed with the agent: {failure}" for failure in watched.failures]
    if ratio >= SLOWER:
        wrong.append(f"operations take {ratio:.2f} times as long with the agent")
    if now != left:
        wrong.append("something is left behind")
    for each in wrong:
        print(f"torture: {each}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
