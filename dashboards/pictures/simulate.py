# SPDX-License-Identifier: Apache-2.0
"""Writes the data that the pictures of the dashboards show: six nodes, and an incident.

    python -m dashboards.pictures.simulate build/simulated

Names and labels are the agent's, which a test compares. Recorded series and alerts are what
Prometheus makes of config/prometheus. The data is simulated, because hosts in an emulator have 20
packets a second.
"""

import argparse
import json
import math
import random
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import yaml
from dashboards.pictures.outcomes import (
    Redirecting,
    Socket,
    of_interface,
    of_redirects,
    of_socket,
)

from xdpscope.probes.latency.times import BOUNDS
from xdpscope.probes.outcomes.tracepoints import Outcome

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "config" / "prometheus"
STEP: Final = 30
START: Final = 1795000200
END: Final = START + 3 * 3600
SHOWN: Final = END - 3600
"""The pictures show the last hour. Before it is what alerts compare with."""

RELOAD: Final = SHOWN + 22 * 60
RESTART: Final = SHOWN + 9 * 60
DETACH: Final = SHOWN + 48 * 60
VERDICTS: Final = ("aborted", "drop", "pass", "tx", "redirect", "unknown")
FLOW: Final = ("protocol", "source", "source_port", "destination", "destination_port")

_TRACER: Final = 71e-9
"""Seconds of a packet in a tracer."""
_PROGRAM: Final = 64e-9
"""The same in the program."""
_SPREAD: Final = 0.45
"""The standard deviation of the logarithm of a packet's time in a program."""
_TIMED: Final = 0.01
"""The share of the packets whose time is measured: latency.sample_rate is 100."""
_MEASURED: Final = 0.01
"""The share of the time in which the agent measures."""

Labels = dict[str, str]
Course = Callable[[float], float]


@dataclass
class Series:
    """One series: its value at a moment, or None if it is not there."""

    name: str
    labels: Labels
    values: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Program:
    """A program at a place; ``decides`` has the shares of its verdicts at a moment."""

    id: int
    name: str
    role: str
    interface: str
    rate: Course
    decides: Callable[[float], Mapping[str, float]]
    netns: str = "host"
    mode: str = "native"
    size: float = 700
    begin: int = START
    end: int = END + 1
    loaded: int = START - 90_000
    chain: tuple[int, int] | None = None
    flows: tuple[tuple[str, ...], ...] = ()
    takes: Course = lambda at: 2.4e-7
    """The median of the seconds that packets spend in it."""


@dataclass
class Node:
    """A host with its agent."""

    name: str
    cluster: str
    kernel: str
    programs: list[Program]
    maps: list[tuple[int, str, str, int, int, Course, int]] = field(default_factory=list)
    restart: int = 0
    redirecting: list[Redirecting] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    unreported: tuple[Outcome, ...] = ()
    """What the drivers of this node do not report."""


def wave(mean: float, swing: float, minutes: float, phase: float) -> Course:
    """Return a rate that swings, with some noise that is the same in each run."""
    noise = random.Random(f"{mean}{swing}{phase}")
    table = [1 + noise.gauss(0, 0.025) for _ in range(512)]
    return lambda at: (
        mean
        * (1 + swing * math.sin(2 * math.pi * (at / 60 / minutes + phase)))
        * table[int(at / STEP) % 512]
    )


def _rounded(value: Course) -> Course:
    return lambda at: float(round(value(at)))


def _constant(number: float) -> Course:
    return lambda at: number


def shares(**parts: float) -> Callable[[float], Mapping[str, float]]:
    """Return shares of verdicts that stay; what is left passes."""
    rest = {"pass": 1 - sum(parts.values())}
    return lambda at: parts | rest


def attack(base: float, height: float, begin: float, minutes: float) -> Callable[[float], Any]:
    """Return shares of a filter that drops more during an attack."""

    def decides(at: float) -> Mapping[str, float]:
        dropped = base + height * math.exp(-(((at - begin) / (60 * minutes)) ** 2))
        return {"drop": dropped, "pass": 1 - dropped}

    return decides


def broken(at: float) -> Mapping[str, float]:
    """The new version of the filter drops what it should let pass."""
    dropped = 0.41 + 0.04 * math.sin(at / 200)
    return {"drop": dropped, "pass": 1 - dropped}


def aborts(at: float) -> Mapping[str, float]:
    """Half a minute of packets that the program cannot parse."""
    aborted = 0.002 if 31 * 60 <= at - SHOWN < 31 * 60 + 60 else 0.0
    return {"aborted": aborted, "drop": 0.012, "pass": 0.988 - aborted}


WEB: Final = (
    ("tcp", "198.51.100.7", "40112", "192.0.2.10", "443"),
    ("tcp", "198.51.100.21", "51344", "192.0.2.10", "443"),
    ("tcp", "2001:db8:12::7", "39822", "2001:db8::10", "443"),
    ("udp", "198.51.100.40", "50000", "192.0.2.53", "53"),
)
SCAN: Final = (
    ("udp", "203.0.113.66", "123", "192.0.2.10", "9999"),
    ("udp", "203.0.113.71", "123", "192.0.2.10", "9999"),
    ("tcp", "203.0.113.9", "61000", "192.0.2.10", "22"),
)


def chained(node: int, rate: float, first: list[Program], swing: float) -> list[Program]:
    """Return a dispatcher with a filter, which another may follow in time, and a limiter."""
    course = wave(rate, swing, 47 + 5 * node, node / 7)

    def by_filter(at: float) -> Mapping[str, float]:
        (now,) = (each for each in first if each.begin <= at < each.end)
        return now.decides(at)

    def passed(at: float) -> float:
        return course(at) * by_filter(at)["pass"]

    def both(at: float) -> Mapping[str, float]:
        left = by_filter(at)["pass"]
        return {"pass": left * 0.985, "drop": 1 - left * 0.985}

    dispatcher = 20 + node
    for each in first:
        each.rate, each.chain = course, (dispatcher, 0)
    limiter = Program(
        40 + node, "rate_limit_per_source", "component", "wan0", passed, shares(drop=0.015)
    )
    limiter.chain, limiter.flows = (dispatcher, 1), WEB
    whole = Program(dispatcher, "xdp_dispatcher", "dispatcher", "wan0", course, both)
    whole.flows = WEB + SCAN
    return [whole, *first, limiter]


def fleet() -> list[Node]:
    """Return the nodes: two filters, two load balancers, two of Kubernetes."""
    quiet = wave(1, 0, 60, 0)

    def ddos(number: int, decides: Any, **more: Any) -> Program:
        made = Program(number, "ddos_filter", "component", "wan0", quiet, decides, **more)
        made.flows = WEB + SCAN
        return made

    def balancer(number: int, rate: float, phase: float) -> list[Program]:
        decides = shares(tx=0.93, drop=0.008)
        root = Program(
            number, "balance_to_backends", "root", "eth0", wave(rate, 0.18, 70, phase), decides
        )
        root.size, root.flows, root.takes = 260, WEB, wave(3.1e-7, 0.1, 60, phase)
        return [root]

    def pods(number: int, rate: float, phase: float) -> list[Program]:
        ingress = Program(
            number, "pod_ingress", "root", "eth0", wave(rate, 0.3, 38, phase), aborts, size=880
        )
        ingress.flows = WEB
        policy = Program(
            number + 1, "pod_policy", "root", "veth4", wave(rate / 4, 0.4, 25, phase),
            shares(drop=0.05, redirect=0.3), netns="cni-7f2a", mode="generic",
        )  # fmt: skip
        return [ingress, policy]

    def redirects(policy: Program, down: Course, dropped: Course) -> list[Redirecting]:
        def rate(at: float) -> float:
            return policy.rate(at) * policy.decides(at)["redirect"]

        def failing(at: float) -> float:
            return rate(at) * down(at)

        place = policy.netns, policy.interface
        return [Redirecting(policy.id, policy.name, *place, "eth0", rate, failing, dropped)]

    def during(begin: int, minutes: float, value: float) -> Course:
        return lambda at: value if begin <= at < begin + 60 * minutes else 0.0

    seventh, eighth = pods(60, 58_000, 0.3), pods(60, 47_000, 0.8)
    starving = during(SHOWN + 39 * 60, 4, 640.0)
    entries = wave(61_000, 0.06, 90, 0.2)
    old = ddos(52, attack(0.06, 0, SHOWN, 1), end=RELOAD, takes=wave(1.6e-7, 0.05, 50, 0.4))
    new = ddos(77, broken, begin=RELOAD, loaded=RELOAD - 4, takes=wave(7.4e-7, 0.12, 20, 0.7))
    experiment = Program(
        91, "experiment", "root", "eth1", wave(900, 0.2, 15, 0), shares(), end=DETACH
    )
    allowed: Course = lambda at: min(64_900, 55_900 + (at - START) * 0.39)  # noqa: E731
    return [
        Node(
            "edge-1", "berlin", "6.12.57",
            programs=chained(1, 412_000, [ddos(51, attack(0.07, 0.31, SHOWN + 11 * 60, 4))], 0.2),
            maps=[
                (210, "blocklist_v4", "lpm_trie", 100_000, 51, entries, 9_600_000),
                (211, "source_rates", "lru_hash", 262_144, 41, lambda at: 262_144, 33_000_000),
            ],
        ),
        Node(
            "edge-2", "berlin", "6.12.57",
            programs=chained(2, 358_000, [old, new], 0.15),
            maps=[
                (305, "blocklist_v4", "lpm_trie", 100_000, 52, entries, 9_600_000),
                (306, "allowed_ports", "hash", 65_536, 42, allowed, 5_200_000),
            ],
        ),
        Node(
            "lb-1", "berlin", "6.6.63", programs=balancer(14, 1_240_000, 0.1),
            maps=[(118, "connections", "lru_hash", 1 << 20, 14, lambda at: 1 << 20, 140_000_000)],
        ),
        Node(
            "lb-2", "oslo", "6.6.63", restart=RESTART, programs=balancer(14, 910_000, 0.6),
            unreported=(Outcome.TX,),
            maps=[(119, "connections", "lru_hash", 1_048_576, 14, lambda at: 910_000, 140_000_000)],
        ),
        Node(
            "worker-7", "oslo", "6.1.119", programs=[*seventh, experiment],
            redirecting=redirects(
                seventh[1], during(SHOWN + 17 * 60, 3, 0.2), during(SHOWN + 20 * 60, 2, 90)
            ),
        ),
        Node(
            "worker-8", "oslo", "6.1.119", programs=eighth,
            redirecting=redirects(eighth[1], _constant(0), _constant(0)),
            sockets=[
                Socket(48_211 + queue, "eth0", queue, 2207, "packetd", starved)
                for queue, starved in enumerate((starving, _constant(0)))
            ],
        ),
    ]  # fmt: skip


def times(begin: int = START, end: int = END + 1) -> range:
    """Return the scrapes of a time."""
    return range(begin + (START - begin) % STEP, end, STEP)


def series_of(node: Node) -> Iterator[Series]:
    """Yield all series of a node, as Prometheus has them."""
    target = {"cluster": node.cluster, "job": "xdpscope", "instance": node.name}

    def silent(at: int) -> bool:
        return bool(node.restart) and node.restart <= at < node.restart + 75

    def made(name: str, labels: Labels, value: Course, at: Iterable[int] = times()) -> Series:
        found = Series(name, target | labels)
        found.values = [(when, value(when)) for when in at if not silent(when)]
        return found

    def counted(name: str, labels: Labels, rate: Course, at: Iterable[int]) -> Series:
        found, total = Series(name, target | labels), 0.0
        for when in at:
            if not silent(when):
                found.values.append((when, math.floor(total)))
            total += rate(when) * STEP
        return found

    def one(name: str, labels: Labels, at: Iterable[int] = times()) -> Series:
        return made(name, labels, lambda _: 1, at)

    for program in node.programs:
        yield from _of_program(node, program, one, made, counted)
    for number, name, kind, most, user, entries, memory in node.maps:
        labels = {"map_id": str(number), "map": name}
        yield one("xdp_map_info", labels | {"type": kind})
        user_name = next(each.name for each in node.programs if each.id == user)
        used = {"program_id": str(user), "program": user_name, "map_id": str(number)}
        yield one("xdp_program_map_info", used)
        for what, of in (("entries", entries), ("max_entries", most), ("memory_bytes", memory)):
            value = of if callable(of) else _constant(of)
            yield made(f"xdp_map_{what}", labels, _rounded(value))
    for each in node.redirecting:
        yield from of_redirects(each, counted, times())
    for socket in node.sockets:
        yield from of_socket(socket, counted, one, times())
    for netns, interface in sorted({(each.netns, each.interface) for each in node.programs}):
        yield from of_interface(netns, interface, node.unreported, made)
    yield from _of_agent(node, target, silent, one, made, counted)


def _of_program(
    node: Node, program: Program, one: Any, made: Any, counted: Any
) -> Iterator[Series]:
    of = {"program_id": str(program.id), "program": program.name}
    at = times(program.begin, program.end)
    location = of | {"netns": program.netns, "interface": program.interface}
    attach = "freplace" if program.role == "component" else "xdp"
    info = {
        "tag": sha256(program.name.encode()).hexdigest()[:16],
        "role": program.role,
        "attach_type": attach,
    }
    yield one("xdp_program_info", of | info, at)
    yield one("xdp_program_attachment_info", location | {"mode": program.mode, "via": ""}, at)
    yield one("xdp_program_traced", of | {"reason": ""}, at)
    yield made("xdp_program_loaded_timestamp_seconds", of, lambda _: program.loaded, at)
    yield made("xdpscope_tracer_missed_total", of, lambda _: 0, at)
    if program.chain:
        dispatcher, position = program.chain
        chain = {"dispatcher_id": str(dispatcher), "position": str(position)}
        yield one("xdp_program_component_info", of | chain, at)
    yield from _costs(made, of, program, at)
    yield from _times(of, program, counted, at)
    for verdict in VERDICTS:

        def rate(t: float, verdict: str = verdict) -> float:
            return program.rate(t) * program.decides(t).get(verdict, 0)

        labels = location | {"verdict": verdict}
        yield counted("xdp_packets_total", labels, rate, at)
        yield counted("xdp_bytes_total", labels, lambda t, r=rate: r(t) * program.size, at)
        if not any(rate(t) for t in at):
            continue
        mine = [each for each in program.flows if (each in SCAN) == (verdict == "drop")]
        left = 0.97
        for number, flow in enumerate(mine):
            part = 0.19 / (number + 1)
            left -= part
            own = labels | dict(zip(FLOW, flow, strict=True))
            yield counted("xdp_flow_packets_total", own, lambda t, r=rate, p=part: r(t) * p, at)
        others = labels | dict.fromkeys(FLOW, "other")
        yield counted("xdp_flow_packets_total", others, lambda t, r=rate, p=left: r(t) * p, at)
        yield counted(
            "xdp_flow_unaccounted_packets_total",
            labels | {"reason": "not_ip"},
            lambda t, r=rate: r(t) * 0.03,
            at,
        )


def _costs(made: Any, of: Labels, program: Program, at: Iterable[int]) -> Iterator[Series]:
    def counter(each: float) -> Course:
        total = 0.0

        def value(t: float) -> float:
            nonlocal total
            total += program.rate(t) * each * STEP * _MEASURED
            return total

        return value

    yield made("xdpscope_tracer_run_seconds_total", of, counter(_TRACER), at)
    yield made("xdpscope_tracer_runs_total", of, counter(1), at)
    yield made("xdpscope_tracer_cpu_ratio", of, lambda t: program.rate(t) * _TRACER, at)
    if not program.chain:
        both = _TRACER + _PROGRAM
        yield made("xdp_program_cpu_ratio", of, lambda t: program.rate(t) * both, at)


def _times(of: Labels, program: Program, counted: Any, at: Iterable[int]) -> Iterator[Series]:
    """Yield a histogram of times with a logarithmic normal distribution."""
    name = "xdp_program_run_seconds"

    def timed(t: float) -> float:
        return program.rate(t) * _TIMED

    def below(bound: float) -> Course:
        def rate(t: float) -> float:
            deviation = math.log(bound / program.takes(t)) / _SPREAD
            return timed(t) * (1 + math.erf(deviation / math.sqrt(2))) / 2

        return rate

    for bound in BOUNDS:
        yield counted(f"{name}_bucket", of | {"le": repr(bound)}, below(bound), at)
    yield counted(f"{name}_bucket", of | {"le": "+Inf"}, timed, at)


def _of_agent(
    node: Node, target: Labels, silent: Any, one: Any, made: Any, counted: Any
) -> Iterator[Series]:
    up = Series("up", dict(target))
    up.values = [(at, 0.0 if silent(at) else 1.0) for at in times()]
    yield up
    build = {"libbpf_version": "1.5.0", "python_version": "3.12.7", "kernel": node.kernel}
    before, after = (times(START, node.restart or END + 1), times(node.restart or END + 1, END + 1))
    yield one("xdpscope_build_info", build | {"version": "0.1.0" if after else "0.2.0"}, before)
    if after:
        yield one("xdpscope_build_info", build | {"version": "0.2.0"}, after)
    seed = wave(1, 0.25, 33, len(node.name) / 9 + len(node.programs) / 5)
    born = START - 400_000

    def started(at: float) -> float:
        return node.restart + 38 if node.restart and at >= node.restart else born

    gauges: dict[str, Course] = {
        "process_start_time_seconds": started,
        "process_resident_memory_bytes": lambda at: (
            (71 + 2.2 * len(node.programs) + seed(at)) * 2**20
        ),
        "process_open_fds": lambda at: 38 + 9 * len(node.programs),
        "process_max_fds": lambda at: 524_288,
        "xdp_flow_table_entries": lambda at: round(14_000 * len(node.programs) * seed(at) / 2),
        "xdp_flow_table_max_entries": lambda at: 65_536,
        "xdpscope_flow_sample_rate": lambda at: 1,
        "xdpscope_map_memory_bytes": lambda at: (9 + 0.1 * len(node.programs)) * 2**20,
        "xdpscope_budget_level": lambda at: 0,
        "xdpscope_scan_last_success_timestamp_seconds": lambda at: at - (at * 7 % 5),
        "xdpscope_scan_duration_seconds": lambda at: 0.011 * len(node.programs) * seed(at),
        "xdpscope_scan_interval_seconds": lambda at: 5,
        "xdpscope_scan_failures_total": lambda at: 0,
        "scrape_duration_seconds": lambda at: 0.009 * (1 + len(node.programs)) * seed(at),
        "scrape_samples_scraped": lambda at: 210 + 96 * len(node.programs),
    }
    for name, value in gauges.items():
        yield made(name, {}, value)
    rates = [program.rate for program in node.programs]
    yield made(
        "xdpscope_cpu_ratio", {"part": "agent"}, lambda at: 0.006 * (1 + len(rates)) * seed(at)
    )
    yield made(
        "xdpscope_cpu_ratio", {"part": "tracers"}, lambda at: _TRACER * sum(r(at) for r in rates)
    )
    total = 0.0
    cpu: list[tuple[int, float]] = []
    for at in times():
        total = 0.0 if node.restart and at == times(node.restart)[0] else total
        total += 0.006 * (1 + len(node.programs)) * seed(at) * STEP
        cpu.append((at, total))
    yield Series(
        "process_cpu_seconds_total", dict(target), [each for each in cpu if not silent(each[0])]
    )
    for reason, rate in (("idle", 90.0), ("pressure", 0.0)):
        yield counted(
            "xdp_flow_evictions_total", {"reason": reason}, lambda t, r=rate: r * seed(t), times()
        )
    for number, collector in enumerate(("maps", "programs", "verdicts", "flows")):
        yield one("xdpscope_collector_success", {"collector": collector})
        yield made(
            "xdpscope_collector_duration_seconds",
            {"collector": collector},
            lambda at, n=number: 0.004 * (n + 1) * seed(at),
        )
    yield made("xdpscope_attach_failures_total", {"reason": "busy"}, lambda _: 0)


def text_of(series: Iterable[Series]) -> Iterator[str]:
    """Yield the lines of OpenMetrics, with times."""
    for each in series:
        labels = ",".join(f'{name}="{value}"' for name, value in each.labels.items())
        for at, value in each.values:
            yield f"{each.name}{{{labels}}} {value} {at}\n"
    yield "# EOF\n"


def blocks(series: Iterable[Series], directory: Path) -> None:
    """Add series to a database of Prometheus."""
    with tempfile.NamedTemporaryFile("w", suffix=".om") as file:
        file.writelines(text_of(series))
        file.flush()
        run = ["promtool", "tsdb", "create-blocks-from", "openmetrics", file.name, str(directory)]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def prometheus(directory: Path, port: int = 19090) -> Iterator[str]:
    """Run a Prometheus that reads the database. Series that ended are gone after 45 s."""
    config = directory / "prometheus.yml"
    config.write_text("global: {}\n")
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory}",
            "--storage.tsdb.retention.time=100y",
            "--query.lookback-delta=45s",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with suppress(OSError), urllib.request.urlopen(f"{address}/-/ready", timeout=5):
                break
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def ask(address: str, query: str) -> list[dict[str, Any]]:
    """Return the series of a query over the whole time."""
    parameters = {"query": query, "start": START, "end": END, "step": STEP}
    url = f"{address}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=300) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def rules() -> list[dict[str, Any]]:
    """Return recording rules and alerts of config/prometheus."""
    return [
        rule
        for file in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((RULES / file).read_text())["groups"]
        for rule in group["rules"]
    ]


def record(directory: Path) -> None:
    """Add what the recording rules make of the data, those first that others need."""
    left = [rule for rule in rules() if "record" in rule]
    while left:
        names = {rule["record"] for rule in left}
        ready = [
            rule
            for rule in left
            if not names & set(re.findall(r"[a-z_0-9]+(?::[a-z_0-9]+)+", rule["expr"]))
        ]
        with prometheus(directory) as address:
            made = [
                Series(
                    rule["record"],
                    {
                        name: value
                        for name, value in {**found["metric"], **rule.get("labels", {})}.items()
                        if name != "__name__"
                    },
                    [(int(at), float(value)) for at, value in found["values"]],
                )
                for rule in ready
                for found in ask(address, rule["expr"])
            ]
        blocks(made, directory)
        left = [rule for rule in left if rule not in ready]


def seconds(duration: str) -> int:
    """Return a duration such as 5m in seconds."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def alert(directory: Path) -> None:
    """Add the alerts that fire: their expression was true for long enough."""
    made = []
    with prometheus(directory) as address:
        for rule in (rule for rule in rules() if "alert" in rule):
            for found in ask(address, rule["expr"]):
                labels = {**found["metric"], **rule.get("labels", {})}
                labels.pop("__name__", None)
                labels |= {"alertname": rule["alert"], "alertstate": "firing"}
                firing, since, last = [], 0, 0
                for at, _ in found["values"]:
                    since = int(at) if int(at) > last + STEP else since
                    last = int(at)
                    if last - since >= seconds(rule["for"]):
                        firing.append((last, 1.0))
                if firing:
                    print(f"{rule['alert']} fires on {labels['instance']}, {len(firing)} scrapes")
                    made.append(Series("ALERTS", labels, firing))
    blocks(made, directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path, help="for the database; it is replaced")
    directory = parser.parse_args().directory.resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    blocks((series for node in fleet() for series in series_of(node)), directory)
    record(directory)
    alert(directory)
    print(f"shown: --from {SHOWN} --to {END} --scrape {STEP}")


if __name__ == "__main__":
    main()
