# SPDX-License-Identifier: Apache-2.0
"""What it costs to count flows: ours, the kernel's own table, and xdpdump."""

from contextlib import closing
from dataclasses import dataclass, replace

from tests.bench.peers import lru, xdpdump
from tests.bench.rig import check_counts, check_times, floor, packet4, packet6
from tests.bench.turns import FLOWS, FlowBench
from xdpscope.attach.engine import Engine
from xdpscope.attach.spec import Spec
from xdpscope.attach.tracer import Tracer
from xdpscope.attach.variants import FlowSizes
from xdpscope.libbpf import Object, typed

# Names of what is measured, as tables show them.
EMPTY_PAIR4 = "empty fentry and fexit, IPv4"
STEADY4 = "xdpscope, 10,000 flows of IPv4"
READ_ONLY_SAMPLED4 = "xdpscope, 10,000 flows of IPv4, one packet of 100, without an entry"
READ_ONLY4 = "xdpscope, 10,000 flows of IPv4, without an entry"
SAMPLED4 = "xdpscope, 10,000 flows of IPv4, one packet of 100"
HARDER4 = "xdpscope, 10,000 flows of IPv4, one packet of 4 by the budget"
READ_ONLY_HARDER4 = f"{HARDER4}, without an entry"
OFF4 = "xdpscope, 10,000 flows of IPv4, off by the budget"
FLOOD4 = "xdpscope, a flood of IPv4"
TIMED4 = "xdpscope, 10,000 flows of IPv4, with times"
TIMED_SAMPLED4 = "xdpscope, 10,000 flows of IPv4, with times of one packet of 100"
EMPTY_PAIR6 = "empty fentry and fexit, IPv6"
STEADY6 = "xdpscope, 10,000 flows of IPv6"
READ_ONLY6 = "xdpscope, 10,000 flows of IPv6, without an entry"
FLOOD6 = "xdpscope, a flood of IPv6"
LRU = "LRU_PERCPU_HASH, 10,000 flows of IPv4"
XDPDUMP_ENTRY = "xdpdump, entry"
XDPDUMP_BOTH = "xdpdump, entry and exit"

SAMPLE_RATE = 100
_PATIENCE = 100
SETS = 16_384  # the agent's choice for one CPU


@dataclass(frozen=True)
class Table:
    """What the flow tables hold."""

    packets: int  # in flows that are there
    flows: int
    put: int  # flows ever put in

    @classmethod
    def of(cls, engine: Engine, name: str) -> "Table":
        """Read the table of one family, ``flows4`` or ``flows6``."""
        with engine.templates.map(name) as table:
            _, values = table.items()
        sets = typed(values, engine.templates.btf.struct(name.replace("flows", "flow_set")))
        flows = sets["flows"]
        return cls(
            int(flows["packets"].sum()), int((flows["target"] != 0).sum()), int(sets["done"].sum())
        )


@dataclass(frozen=True)
class Measured:
    """A cost, and what it was the cost of."""

    cost: int
    settling: int  # runs before those that were measured
    runs: int  # and of these
    settled: Table  # before what was measured
    table: Table  # after it


def ours(
    bench: FlowBench,
    family: str,
    *,
    sample_rate: int = 1,
    read_only: bool = False,
    budget: int | None = None,
    times: int = 0,
) -> Measured:
    """Return the cost of a run under the product's tracer.

    Args:
        bench: its target alters packets, from run to run.
        family: ``flows4`` or ``flows6``.
        sample_rate: one packet of this many is in a flow.
        read_only: traced as if the target altered none.
        budget: the sample rate that a budget sets after the tracers are attached; with 0, other
            tracers replace them.
        times: the time of one packet of this many is measured; 0: of none.

    Raises:
        AssertionError: verdicts were not counted exactly, or a packet is neither in its flow nor
            counted as sampled out.
    """
    sizes = FlowSizes(SETS, sample_rate)
    with Engine(sizes) as engine, closing(Tracer(engine, bench.description)) as tracer:
        if times:
            engine.prepare_times(times)
        tracer.attach()
        tracer.follow_up(Spec.TIMES if times else Spec.FLOWS, lambda _: not read_only)
        if budget is not None:
            engine.sample_flows(budget)
        if budget == 0:
            engine.prepare(Spec.SAMPLED_OUT)
            tracer.follow_up(Spec.SAMPLED_OUT, lambda _: not read_only)
            engine.end_handover()
        before = bench.runs
        settled = _settled(bench, engine, family)
        settling = bench.runs - before
        cost = bench.instructions()
        runs = bench.runs - before
        table = Table.of(engine, family)
        sampled_out = runs - table.packets if sample_rate > 1 or budget is not None else 0
        check_counts(tracer, engine, [runs], sampled_out)
        if times:
            check_times(tracer, runs, times)
        return Measured(cost, settling, runs - settling, settled, table)


def _settled(bench: FlowBench, engine: Engine, family: str) -> Table:
    """Run until hardly a packet finds a free place any more.

    How soon depends on the hash's secrets: with a few, addresses that follow each other meet
    in some sets and leave others out.
    """
    bench.settle()
    table = Table.of(engine, family)
    for _ in range(_PATIENCE):
        before, ran = table, bench.runs
        bench.series()
        table = Table.of(engine, family)
        if (table.flows - before.flows) * 100 <= bench.runs - ran:
            break
    return table


def steady(bench: FlowBench, family: str, read_only: bool = False, times: int = 0) -> int:
    """Return the cost of a run among flows that are known; each packet is found in its flow."""
    bench.take_turns()
    found = ours(bench, family, read_only=read_only, times=times)
    settled = found.settled
    if found.table != replace(settled, packets=settled.packets + found.runs):
        raise AssertionError(f"not all packets are in flows that were known: {found}")
    # One that was put in twice has been displaced meanwhile, with what it had counted.
    if settled.flows != FLOWS or (settled.put == FLOWS and settled.packets != found.settling):
        raise AssertionError(f"not all packets are in {FLOWS} flows: {found}")
    return found.cost


def sampled(bench: FlowBench, family: str, read_only: bool = False) -> int:
    """Return the same of sampled packets: one of each SAMPLE_RATE is found in its flow."""
    bench.take_turns()
    found = ours(bench, family, sample_rate=SAMPLE_RATE, read_only=read_only)
    missing = found.settling + found.runs - found.table.packets * SAMPLE_RATE
    if abs(missing) > SAMPLE_RATE:
        raise AssertionError(f"not one packet of {SAMPLE_RATE} is in a flow: {found}")
    return found.cost


def reduced(bench: FlowBench, rate: int, read_only: bool = False) -> int:
    """Return the same with a rate that the budget sets. 0 takes no packet."""
    bench.take_turns()
    found = ours(bench, "flows4", budget=rate, read_only=read_only)
    missing = found.settling + found.runs - found.table.packets * rate
    if abs(missing) > rate if rate else found.table.packets:
        raise AssertionError(f"not one packet of {rate} is in a flow: {found}")
    return found.cost


def flood(bench: FlowBench, family: str) -> int:
    """Return the cost of a packet whose flow is new and takes the place of another."""
    bench.flood()
    found = ours(bench, family)
    if found.table.put != found.settling + found.runs:
        raise AssertionError(f"not each packet was put into the table: {found}")
    if (found.table.flows - found.settled.flows) * 100 > found.table.put - found.settled.put:
        raise AssertionError(f"there were free places left for new flows: {found}")
    return found.cost


def measure(loaded: Object) -> dict[str, int | None]:
    """Return every variant on this kernel: added instructions by name; None where it does not
    run.
    """
    added: dict[str, int | None] = {}
    with closing(FlowBench(loaded, "bench_flows4", packet4(), 26)) as bench:
        untraced = bench.instructions()
        costs: dict[str, int | None] = {
            EMPTY_PAIR4: floor(bench, "empty_entry", "empty_exit"),
            STEADY4: steady(bench, "flows4"),
            READ_ONLY4: steady(bench, "flows4", read_only=True),
            TIMED4: steady(bench, "flows4", times=1),
            TIMED_SAMPLED4: steady(bench, "flows4", times=SAMPLE_RATE),
            SAMPLED4: sampled(bench, "flows4"),
            READ_ONLY_SAMPLED4: sampled(bench, "flows4", read_only=True),
            HARDER4: reduced(bench, 4),
            READ_ONLY_HARDER4: reduced(bench, 4, read_only=True),
            OFF4: reduced(bench, 0),
            FLOOD4: flood(bench, "flows4"),
        }
        bench.take_turns()
        costs[LRU] = lru(bench, FLOWS)
        costs[XDPDUMP_ENTRY] = xdpdump(bench, "entry")
        costs[XDPDUMP_BOTH] = xdpdump(bench, "entry,exit")
    added |= {name: None if cost is None else cost - untraced for name, cost in costs.items()}
    with closing(FlowBench(loaded, "bench_flows6", packet6(), 34)) as bench:
        untraced = bench.instructions()
        costs = {
            EMPTY_PAIR6: floor(bench, "empty_entry", "empty_exit"),
            STEADY6: steady(bench, "flows6"),
            READ_ONLY6: steady(bench, "flows6", read_only=True),
            FLOOD6: flood(bench, "flows6"),
        }
    return added | {name: cost - untraced for name, cost in costs.items() if cost is not None}
