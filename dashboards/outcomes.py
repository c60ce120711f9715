# SPDX-License-Identifier: Apache-2.0
"""Define panels on the outcomes of packets after the verdict."""

from dashboards.boards import Line, to_agent
from dashboards.panels import PACKETS_RATE, Column, Words, by_verdict, lines, rows
from dashboards.queries import LOCATION, NODE, NODE_LEGEND, here, rate, series, total

_PROGRAM = (*NODE, "program", "interface")
_DROPPED = 'result="dropped"'
_FROM = 'netns=~"$netns"', 'from_interface=~"$interface"'


def outcomes() -> list[Line]:
    """Return panels on the outcomes at all selected nodes and locations."""
    errors = rate("xdp_redirect_errors_total", *LOCATION)
    exceptions = rate("xdp_exceptions_total", *LOCATION)
    devmap = rate("xdp_devmap_transmit_packets_total", *_FROM, _DROPPED)
    cpumap = (
        f"({rate('xdp_cpumap_packets_total', _DROPPED)}"
        f" and on (cluster, job, instance, map_id) {here(series('xdp_program_map_info'))})"
    )
    back = rate("xdp_tx_packets_total", *LOCATION, _DROPPED)
    failed = lines(
        Words(
            "Failed redirects",
            "Packets that the kernel could not redirect, by errno. The runbook has the cause and"
            " the fix of each.",
            "No redirect has failed.",
        ),
        {
            f"{{{{error}}}} {{{{program}}}} {{{{interface}}}} {NODE_LEGEND}": total(
                errors, *_PROGRAM, "error"
            )
        },
        PACKETS_RATE,
    )
    raised = by_verdict(
        lines(
            Words(
                "Exceptions",
                "Packets lost because a driver could not carry out the verdict, or by an abort.",
                "No driver has reported an exception.",
            ),
            {
                f"{{{{program}}}} {{{{interface}}}} {NODE_LEGEND} {{{{verdict}}}}": total(
                    exceptions, *_PROGRAM, "verdict"
                )
            },
            PACKETS_RATE,
        )
    )
    dropped = lines(
        Words(
            "Dropped after the verdict",
            "Packets that were redirected to an interface or to a CPU, or sent back, and dropped"
            " there. Drops of a devmap's program are among them.",
            "Nothing was redirected or sent back, as far as drivers report it.",
        ),
        {
            f"{{{{from_interface}}}} to {{{{to_interface}}}} {NODE_LEGEND}": total(
                devmap, *NODE, "from_interface", "to_interface"
            ),
            f"cpumap {{{{map_id}}}} {NODE_LEGEND}": total(cpumap, *NODE, "map_id"),
            f"tx {{{{interface}}}} {NODE_LEGEND}": total(back, *NODE, "interface"),
        },
        PACKETS_RATE,
    )
    silent = rows(
        Words(
            "Outcomes that are not reported",
            "For these interfaces, a counter that stays at 0 says nothing about success.",
            "The drivers here report every outcome.",
        ),
        {
            "silent": f"group by ({', '.join((*NODE, 'netns', 'interface', 'outcome'))})"
            f" ({series('xdp_outcome_supported', *LOCATION)} == 0)"
        },
        {
            "interface": Column("interface"),
            "outcome": Column("outcome", width=160),
            "netns": Column("netns", width=120),
            "instance": Column("node", width=200, link=to_agent()),
            "cluster": Column("cluster", width=120),
            "Value": Column(),
        },
        sort="interface",
    )
    return [Line(9, [(12, failed), (12, raised)]), Line(9, [(12, dropped), (12, silent)])]
