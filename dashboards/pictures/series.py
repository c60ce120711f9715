# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads from the agent of a simulated host."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from dashboards.pictures.fleet import END, SCAN, START, STEP, Course, Node, Program, constant, wave
from dashboards.pictures.outcomes import of_interface, of_redirects, of_socket

from xdpscope.probes.latency.times import BOUNDS

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


@dataclass
class Series:
    """One series: its value at a moment, or None if it is not there."""

    name: str
    labels: Labels
    values: list[tuple[int, float]] = field(default_factory=list)


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
            value = of if callable(of) else constant(of)
            yield made(f"xdp_map_{what}", labels, _rounded(value))
    for each in node.redirecting:
        yield from of_redirects(each, counted, times())
    for socket in node.sockets:
        yield from of_socket(socket, counted, one, times())
    for netns, interface in sorted({(each.netns, each.interface) for each in node.programs}):
        yield from of_interface(netns, interface, node.unreported, made)
    yield from _of_agent(node, target, silent, one, made, counted)


def _rounded(value: Course) -> Course:
    return lambda at: float(round(value(at)))


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
