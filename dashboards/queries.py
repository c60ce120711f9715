# SPDX-License-Identifier: Apache-2.0
"""PromQL, put together from parts. Selectors always name the agents that are chosen."""

from typing import Final

VERDICTS: Final = ("pass", "drop", "tx", "redirect", "aborted", "unknown")

TARGET: Final = ("cluster", "job", "instance")
"""The labels of an agent, which every join has; ``cluster`` is empty where nobody sets it."""

AGENTS: Final = tuple(f'{label}=~"${label}"' for label in TARGET)
"""The matchers of the agents that are chosen."""

SAME_PROGRAM: Final = "on (cluster, job, instance, program_id)"

NODE: Final = ("cluster", "instance")
"""The labels by which people know an agent, and legends show it: see NODE_LEGEND."""

NODE_LEGEND: Final = "{{instance}} {{cluster}}"

LOCATION: Final = ('netns=~"$netns"', 'interface=~"$interface"')
"""The matchers of counts at the places that are chosen."""

NEAR: Final = ('netns=~"$netns|"', 'interface=~"$interface|"')
"""The same for alerts, of which those without a place concern every place."""

SAME_PLACE: Final = "on (cluster, job, instance, netns, interface)"

RANGE: Final = "$__range"
"""The time that is shown. ``RATE_INTERVAL`` is for each point of a graph."""

RATE_INTERVAL: Final = "$__rate_interval"

TOP: Final = 10
"""How many nodes or interfaces a graph shows: 200 lines say nothing."""

AGENT_UP: Final = "xdpscope_build_info"
"""There is one of these for each agent that answers."""

FLOW: Final = ("protocol", "source", "source_port", "destination", "destination_port")


def series(metric: str, *matchers: str) -> str:
    """A selector."""
    return f"{metric}{{{', '.join((*AGENTS, *matchers))}}}"


def rate(metric: str, *matchers: str) -> str:
    """What a counter grows by in a second."""
    return f"rate({series(metric, *matchers)}[$__rate_interval])"


def grown(metric: str, *matchers: str) -> str:
    """Return what a counter grew by in the time that is shown, for an instant query."""
    return f"increase({series(metric, *matchers)}[{RANGE}])"


def lasting(metric: str, *matchers: str) -> str:
    """Return the series that existed at some moment of the time that is shown."""
    return f"last_over_time({series(metric, *matchers)}[{RANGE}])"


def extreme(function: str, metric: str, *matchers: str) -> str:
    """Return a function over the time shown, the same at each point of a graph."""
    return f"{function}({series(metric, *matchers)}[{RANGE}] @ end())"


def busiest(query: str, ranking: str, *labels: str) -> str:
    """Return ``query`` for those ``TOP`` values of the labels that ``ranking`` puts first.

    The ranking must be the same at each point (``extreme``): else each point has another ten.
    """
    return f"{query} and on ({', '.join(labels)}) topk({TOP}, {ranking})"


def here(query: str) -> str:
    """Return ``query``, whose series are of programs, without programs that are elsewhere.

    Elsewhere is a program that is attached, but at none of the places that are chosen. Programs
    that are attached nowhere stay: the kernel does not tell where they run.
    """
    attached, chosen = (series("xdp_program_attachment_info", *at) for at in ((), LOCATION))
    return f"({query} unless {SAME_PROGRAM} ({attached} unless {SAME_PROGRAM} {chosen}))"


def once_in_range(metric: str, *matchers: str) -> str:
    """Return the series of ``once`` with what they grew by in the time shown.

    Programs that are gone since are included. If a dispatcher's first component changes in that
    time, the sum has one of the two.
    """
    return f"""(
    {grown(metric, *matchers)} and {SAME_PROGRAM}
      {lasting("xdp_program_info", 'role=~"root|dispatcher"')}
  or
    {grown(metric, *matchers)} and on (cluster, job, instance, program_id, netns, interface) (
      label_replace(
        {lasting("xdp_program_attachment_info")}
          and {SAME_PROGRAM} {lasting("xdp_program_traced", 'reason="busy"')},
        "dispatcher_id", "$1", "program_id", "(.*)"
      )
      * on (cluster, job, instance, dispatcher_id) group_left (program_id)
        topk by (cluster, job, instance, dispatcher_id)
          (1, {lasting("xdp_program_component_info", 'position="0"')})
    )
)"""


def once(metric: str, *matchers: str) -> str:
    """Rates of those series that together have each packet once, to be summed.

    The expression of docs/prometheus.md, "Sums", which explains it; docs/decisions/0008 has more.
    """
    counted = rate(metric, *matchers)
    return f"""(
    {counted} and {SAME_PROGRAM}
      {series("xdp_program_info", 'role=~"root|dispatcher"')}
  or
    {counted} and on (cluster, job, instance, program_id, netns, interface) (
      label_replace(
        {series("xdp_program_attachment_info")}
          and {SAME_PROGRAM} {series("xdp_program_traced", 'reason="busy"')},
        "dispatcher_id", "$1", "program_id", "(.*)"
      )
      * on (cluster, job, instance, dispatcher_id) group_left (program_id)
        {series("xdp_program_component_info", 'position="0"')}
    )
)"""


def total(rates: str, *labels: str) -> str:
    """The sum of rates, by labels."""
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} {_enclosed(rates)}"


def share(part: str, whole: str, *labels: str) -> str:
    """One sum divided by another; nothing where there is nothing to divide by."""
    return f"{total(part, *labels)} / ({total(whole, *labels)} > 0)"


def unsampled(flow_rates: str) -> str:
    """Rates of flows as they would be if each packet had been taken for them."""
    factor = series("xdpscope_flow_sample_rate")
    return f"({_enclosed(flow_rates)} * on (cluster, job, instance) group_left () {factor})"


def or_nought(query: str) -> str:
    """Nought where there is nothing to sum up, but only if there is an agent to say so."""
    return f"{query} or 0 * count({series(AGENT_UP)})"


def whole(query: str) -> str:
    """Return the sum as a whole number: what is more than 0 is at least 1."""
    return f"ceil({query})"


def described(left: str, info: str, *labels: str) -> str:
    """Values with labels from the info series of the same program."""
    return f"{left} * {SAME_PROGRAM} group_left ({', '.join(labels)}) {info}"


def _enclosed(query: str) -> str:
    return query if query.startswith("(") else f"({query})"
