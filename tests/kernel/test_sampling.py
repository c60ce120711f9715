# SPDX-License-Identifier: Apache-2.0
"""The sample rate of flows changes under traffic: no packet is lost, and none counts twice."""

import time
from contextlib import closing

import pytest

from tests.kernel.conftest import expect
from tests.kernel.flows import check_sums, held, observing, on_one_cpu, sum_of, unaccounted
from tests.kernel.lab import Drizzle, Lab
from tests.kernel.pinned import udp
from tests.kernel.test_flows import PROGRAM, WRITING, udp4
from tests.waiting import wait_for
from xdpscope.attach.engine import Engine
from xdpscope.attach.spec import Spec
from xdpscope.attach.tracer import Tracer
from xdpscope.attach.variants import FlowSizes
from xdpscope.counters.records import REASONS, of_target
from xdpscope.discovery.inventory import Inventory
from xdpscope.libbpf import typed

pytestmark = pytest.mark.every_kernel

SAMPLED_OUT = REASONS.index("sampled_out")


@pytest.mark.parametrize("program", [PROGRAM, WRITING])
@pytest.mark.parametrize("usual", [1, 10], ids=["each", "sampled"])
def test_each_rate_takes_exactly_its_share(lab: Lab, program: str, usual: int) -> None:
    """Without an entry and with one. Rate 0 takes no packet, except the first of a CPU."""
    target = lab.load(program, "flows")
    lab.attach(target, lab.veth("xst0"))
    runs, sampled, seen = 600, 0, 0
    with (
        Engine(FlowSizes(sets=64, sample_rate=usual)) as engine,
        observing(engine) as observer,
        on_one_cpu(),
    ):
        observer.scan(0)
        for rate in (usual, 4, 0, 40, usual, 0, 4):
            engine.sample_flows(rate)
            assert (observer.sample_rate, engine.usual_sample_rate) == (rate, usual)
            for number in range(3):
                target.test_run(udp4(number), repeat=runs // 3)
            check_sums(observer)
            taken = sum(packets for packets, _ in held(observer).values()) - sampled
            sampled, seen = sampled + taken, seen + runs
            # The rate before decides when the next packet is taken: at most 80 packets later.
            assert abs(taken - (runs / rate if rate else 0)) <= (80 / rate if rate > 1 else 0) + 1
            left = unaccounted(observer)
            assert {key[3] for key in left} <= {"sampled_out"}
            assert sum(packets for packets, _ in left.values()) == seen - sampled


@pytest.mark.first_kernel
@pytest.mark.parametrize("alters", [True, False])
def test_the_rate_changes_under_traffic(lab: Lab, alters: bool) -> None:
    """While no packet is taken, programs that count flows replace the first one."""
    veth = lab.veth("xst0")
    program = lab.load("decide_drop", "verdicts")
    lab.attach(program, veth)
    with (
        Engine(FlowSizes(sets=64, sample_rate=1)) as engine,
        Inventory() as inventory,
        closing(Tracer(engine, inventory.take().programs[program.info().id])) as tracer,
    ):
        tracer.attach()
        lost = veth.lost
        engine.sample_flows(0)
        with veth.sending(udp4(1)) as first:
            tracer.follow_up(Spec.FLOWS, lambda _: alters)
            time.sleep(0.1)
        sent = first.sent - (veth.lost - lost)
        early = _dropped(engine, tracer, sent)
        assert sum(early) < sent, "packets before the follow-up are in no flow"
        with veth.sending(udp4(1)) as traffic:
            for rate in (4, 1, 0, 1, 16) * 20:
                engine.sample_flows(rate)
                time.sleep(0.01)
        total = first.sent + traffic.sent - (veth.lost - lost)
        found = _dropped(engine, tracer, total)
        assert min(now - before for now, before in zip(found, early, strict=True)) > 0
        assert sum(found) - sum(early) == total - sent


@pytest.mark.matrix
@pytest.mark.parametrize("usual", [1, 10], ids=["each", "sampled"])
def test_tracers_that_take_no_packet_replace_others_under_traffic(lab: Lab, usual: int) -> None:
    """Each packet counts once, also if the first tracer of a target took none."""
    veths = {name: lab.veth(f"xst{n}") for n, name in enumerate((PROGRAM, WRITING))}
    programs = {name: lab.load(name, "flows") for name in veths}
    for name, veth in veths.items():
        lab.attach(programs[name], veth)
    without = {program.info().id for program in programs.values()}
    data = udp(1)
    traffic = Drizzle((veth.sender(), data) for veth in veths.values())
    with Engine(FlowSizes(sets=64, sample_rate=usual)) as engine, observing(engine) as observer:

        def use(rate: int) -> None:
            observer.sample_flows(rate, without if rate == 0 else set())
            wait_for(lambda: observer.scan(0) or not observer._targets.incomplete())
            kind = Spec.FLOWS if rate else Spec.SAMPLED_OUT
            # Other tests may have left programs, which are not attached.
            mine = [each.tracer for each in observer._targets if each.program.id in without]
            assert [tracer is not None and tracer.does(kind) for tracer in mine] == [True, True]

        observer.sample_flows(0, without)
        observer.scan(0, follow_up=0)  # one of the tracers still counts verdicts only
        traffic.start()
        try:
            for _ in range(4):
                use(0)
                before, sent = sum_of(observer.held_flows().flows), traffic.sent
                wait_for(lambda sent=sent: traffic.sent > sent + 40)
                assert sum_of(observer.held_flows().flows) == before
                use(usual)
                wait_for(lambda before=before: sum_of(observer.held_flows().flows) > before + 4)
        finally:
            traffic.stop()
        sums = {name: traffic.sent - veth.lost for name, veth in veths.items()}
        size = len(data)
        expect(observer, {(n, veths[n].name, "drop"): (s, s * size) for n, s in sums.items()})
        check_sums(observer)
        assert {key[3] for key in unaccounted(observer)} == {"sampled_out"}


def _dropped(engine: Engine, tracer: Tracer, sent: int) -> tuple[int, int]:
    """Return the packets in flows, and those sampled out, once as many are counted as sent."""
    end = time.monotonic() + 5
    while _counted(tracer)[0] < sent and time.monotonic() < end:
        time.sleep(0.02)  # the kernel may put off the work for a packet
    time.sleep(0.02)
    found = _counted(tracer)
    assert found[0] == sent
    sets = engine.templates.btf.struct("flow_set4")
    with engine.templates.map("flows4") as table:
        in_flows = int(typed(table.items()[1], sets)["flows"]["packets"].sum())
    return in_flows, found[1]


def _counted(tracer: Tracer) -> tuple[int, int]:
    """Return the packets dropped, and those of them that were sampled out."""
    found = of_target(tracer.records()).values()
    assert not any(each.counts[1:, [0, 2, 3, 4, 5]].any() for each in found)
    dropped, sampled_out = (
        sum(int(each.counts[row, 1, 0]) for each in found) for row in (0, 1 + SAMPLED_OUT)
    )
    return dropped, sampled_out
