# SPDX-License-Identifier: Apache-2.0
"""Build PromQL from parts. Every selector has the matchers of the selected agents."""

from typing import Final

VERDICTS: Final = ("pass", "drop", "tx", "redirect", "aborted", "unknown")

TARGET: Final = ("cluster", "job", "instance")
"""The labels of an agent, which every join has. ``cluster`` is empty if nobody sets it."""

AGENTS: Final = tuple(f'{label}=~"${label}"' for label in TARGET)
"""The matchers of the selected agents."""

SAME_PROGRAM: Final = "on (cluster, job, instance, program_id)"

NODE: Final = ("cluster", "instance")
"""The labels by which people know an agent. Legends show them: see NODE_LEGEND."""

NODE_LEGEND: Final = "{{instance}} {{cluster}}"

LOCATION: Final = ('netns=~"$netns"', 'interface=~"$interface"')
"""The matchers of counts at the selected locations."""

NEAR: Final = ('netns=~"$netns|"', 'interface=~"$interface|"')
"""The matchers of alerts at the selected locations. Alerts without a location concern all."""

SAME_PLACE: Final = "on (cluster, job, instance, netns, interface)"

RANGE: Final = "$__range"
"""The time range that the dashboard shows. ``RATE_INTERVAL`` is for each point of a graph."""

RATE_INTERVAL: Final = "$__rate_interval"

TOP: Final = 10
"""The number of nodes or interfaces in a graph, because nobody can read 200 lines."""

AGENT_UP: Final = "xdpscope_build_info"
"""A metric with one series for each agent that answers."""

FLOW: Final = ("protocol", "source", "source_port", "destination", "destination_port")


def series(metric: str, *matchers: str) -> str:
    """Return a selector."""
    return f"{metric}{{{', '.join((*AGENTS, *matchers))}}}"


def rate(metric: str, *matchers: str) -> str:
    """Return the growth of a counter per second."""
    return f"rate({series(metric, *matchers)}[$__rate_interval])"


def grown(metric: str, *matchers: str) -> str:
    """Return the growth of a counter in the time that is shown, for an instant query."""
    return f"increase({series(metric, *matchers)}[{RANGE}])"


def lasting(metric: str, *matchers: str) -> str:
    """Return the series that existed at some moment of the time that is shown."""
    return f"last_over_time({series(metric, *matchers)}[{RANGE}])"


def extreme(function: str, metric: str, *matchers: str) -> str:
    """Return a function over the time shown. Its value is the same at each point of a graph."""
    return f"{function}({series(metric, *matchers)}[{RANGE}] @ end())"


def busiest(query: str, ranking: str, *labels: str) -> str:
    """Return ``query`` for the ``TOP`` values of the labels that ``ranking`` puts first.

    The ranking must be the same at each point (see ``extreme``). Otherwise each point of the
    graph has another ten.
    """
    return f"{query} and on ({', '.join(labels)}) topk({TOP}, {ranking})"


def here(query: str) -> str:
    """Return a query about programs, without programs that are attached elsewhere only.

    Such a program is attached, but at none of the selected locations. Programs that are attached
    nowhere stay, because the kernel does not report where they run.
    """
    attached, chosen = (series("xdp_program_attachment_info", *at) for at in ((), LOCATION))
    return f"({query} unless {SAME_PROGRAM} ({attached} unless {SAME_PROGRAM} {chosen}))"


def once_in_range(metric: str, *matchers: str) -> str:
    """Return the series of ``once`` with their growth in the time shown.

    The result includes programs that are gone since. If a dispatcher's first component changes
    in that time, the sum has one of the two components.
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
    """Return the rates of series that together have each packet once, so that they can be summed.

    docs/prometheus.md, "Sums", explains the expression. docs/decisions/0008 has more.
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
    """Return the sum of rates, by labels."""
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} {_enclosed(rates)}"


def share(part: str, whole: str, *labels: str) -> str:
    """Return one sum divided by another, without series whose divisor is 0 or absent."""
    return f"{total(part, *labels)} / ({total(whole, *labels)} > 0)"


def unsampled(flow_rates: str) -> str:
    """Return the rates of flows as they would be without sampling."""
    factor = series("xdpscope_flow_sample_rate")
    return f"({_enclosed(flow_rates)} * on (cluster, job, instance) group_left () {factor})"


def or_zero(query: str) -> str:
    """Return the query, with 0 instead of no result if at least one agent answers."""
    return f"{query} or 0 * count({series(AGENT_UP)})"


def whole(query: str) -> str:
    """Return the sum, rounded up to a whole number, so that a sum above 0 is at least 1."""
    return f"ceil({query})"


def described(left: str, info: str, *labels: str) -> str:
    """Return values with additional labels from the info series of the same program."""
    return f"{left} * {SAME_PROGRAM} group_left ({', '.join(labels)}) {info}"


def _enclosed(query: str) -> str:
    return query if query.startswith("(") else f"({query})"
