# SPDX-License-Identifier: Apache-2.0
"""Costs as Prometheus metrics."""

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from xdpscope.probes.cost.report import CostReport

_PROGRAM = ["program_id", "program"]


def families(report: CostReport) -> list[Metric]:
    """Return the metrics of a report."""
    return [*_of_programs(report), *_of_agent(report)]


def _of_programs(report: CostReport) -> list[Metric]:
    runs = CounterMetricFamily(
        "xdp_program_kernel_runs",
        "Runs of an XDP program that the kernel counted while its statistics of BPF programs were"
        " on. The agent switches them on for 1 % of the time.",
        labels=_PROGRAM,
    )
    seconds = CounterMetricFamily(
        "xdp_program_kernel_run_seconds",
        "Time of these runs, with the tracers in them.",
        labels=_PROGRAM,
    )
    program_cpu = GaugeMetricFamily(
        "xdp_program_cpu_ratio",
        "Share of one CPU that an XDP program took in the last measurement, its tracers included.",
        labels=_PROGRAM,
    )
    tracer_cpu = GaugeMetricFamily(
        "xdpscope_tracer_cpu_ratio",
        "Share of one CPU that the tracers of a program took in the last measurement.",
        labels=_PROGRAM,
    )
    packet = GaugeMetricFamily(
        "xdpscope_tracer_seconds_per_packet",
        "Time in the tracers of a program for each packet, in the last measurement with packets.",
        labels=_PROGRAM,
    )
    for cost in report.programs:
        labels = [str(cost.program_id), cost.program]
        runs.add_metric(labels, cost.runs)
        seconds.add_metric(labels, cost.run_seconds)
        if cost.cpu is not None:
            program_cpu.add_metric(labels, cost.cpu)
    for cost in report.tracers:
        labels = [str(cost.program_id), cost.program]
        if cost.cpu is not None:
            tracer_cpu.add_metric(labels, cost.cpu)
        if cost.seconds_per_run is not None:
            packet.add_metric(labels, cost.seconds_per_run)
    return [runs, seconds, program_cpu, tracer_cpu, packet]


def _of_agent(report: CostReport) -> list[Metric]:
    own = GaugeMetricFamily(
        "xdpscope_cpu_ratio",
        "Own cost as a share of one CPU, recently: of the agent's process, and of all tracers. The"
        " budget limits the sum.",
        labels=["part"],
    )
    memory = GaugeMetricFamily(
        "xdpscope_map_memory_bytes",
        "Kernel memory of the maps that the agent holds, as the kernel reports it.",
    )
    budget = GaugeMetricFamily(
        "xdpscope_budget_cpu_ratio",
        "The budget, budget.cpu_percent, as a share of one CPU. No series without a budget.",
    )
    level = GaugeMetricFamily(
        "xdpscope_budget_level",
        "What the budget has done: 0 nothing, 1 flows are sampled four times harder, 2 no packet is"
        " taken for flows.",
    )
    for part, value in (("agent", report.agent_cpu), ("tracers", report.tracers_cpu)):
        if value is not None:
            own.add_metric([part], value)
    if report.map_memory is not None:
        memory.add_metric([], report.map_memory)
    if report.budget is not None:
        budget.add_metric([], report.budget)
    level.add_metric([], report.level)
    return [own, memory, budget, level]
