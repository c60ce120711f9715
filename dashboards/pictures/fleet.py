# SPDX-License-Identifier: Apache-2.0
"""The simulated hosts: six nodes, what their XDP programs decide, and an incident."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dashboards.pictures.outcomes import Redirecting, Socket

from xdpscope.probes.outcomes.tracepoints import Outcome

STEP: Final = 30
"""Seconds between two scrapes."""
START: Final = 1795000200
END: Final = START + 3 * 3600
SHOWN: Final = END - 3600
"""The pictures show the last hour. Before it is what alerts compare with."""

RELOAD: Final = SHOWN + 22 * 60
RESTART: Final = SHOWN + 9 * 60
DETACH: Final = SHOWN + 48 * 60

Course = Callable[[float], float]


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


def constant(number: float) -> Course:
    """Return what does not change."""
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
            redirecting=redirects(eighth[1], constant(0), constant(0)),
            sockets=[
                Socket(48_211 + queue, "eth0", queue, 2207, "packetd", starved)
                for queue, starved in enumerate((starving, constant(0)))
            ],
        ),
    ]  # fmt: skip
