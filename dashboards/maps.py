# SPDX-License-Identifier: Apache-2.0
"""Define panels on the maps of XDP programs: how full they are, and how much memory they use."""

from dashboards.boards import NODE_OF_ROW, Line, to_agent, to_program_of_row
from dashboards.panels import VERDICT_COLOURS, Column, Words, bars, lines, rows
from dashboards.queries import (
    NODE,
    NODE_LEGEND,
    TARGET,
    busiest,
    extreme,
    here,
    series,
    share,
    total,
)

_MAP = (*TARGET, "map_id", "map")
_SAME_MAP = "on (cluster, job, instance, map_id)"
_NO_ENTRIES = "No XDP program here uses a map whose entries the kernel counts."
_NO_MAPS = "No XDP program here uses a map."


def maps(*programs: str) -> list[Line]:
    """Return panels on the maps of the programs that these matchers select, at these locations."""
    used = here(series("xdp_program_map_info", *programs))

    def of(metric: str) -> str:
        return f"({series(metric)} and {_SAME_MAP} {used})"

    entries, most, memory = (
        of(f"xdp_map_{what}") for what in ("entries", "max_entries", "memory_bytes")
    )
    fullness = share(entries, most, *_MAP)
    fullest = bars(
        Words(
            "Fullest maps",
            "The ten maps with the largest share of their entries in use. A full hash or LPM map"
            " refuses new entries; a full LRU map replaces old ones.",
            _NO_ENTRIES,
        ),
        f"topk(10, {share(entries, most, *NODE, 'map_id', 'map')})",
        f"{{{{map}}}} {{{{map_id}}}} {NODE_LEGEND}",
        "percentunit",
        VERDICT_COLOURS["redirect"],
    )
    most_memory = f"sum by (cluster, instance) ({extreme('max_over_time', 'xdp_map_memory_bytes')})"
    memories = lines(
        Words(
            "Memory of maps",
            "Memory of all maps that XDP programs use, as the kernel reports it, of the ten nodes"
            " with most. Before Linux 6.4 it is an estimate for full maps.",
            _NO_MAPS,
        ),
        {NODE_LEGEND: busiest(total(memory, *NODE), most_memory, *NODE)},
        "bytes",
    )
    kind = f"group by ({', '.join((*_MAP, 'type'))}) {of('xdp_map_info')}"
    table = rows(
        Words(
            "Maps",
            "Each map that XDP programs use, with one of them. Entries are missing where the kernel"
            " does not count them: in arrays, and before Linux 6.6 in preallocated hash maps.",
            _NO_MAPS,
        ),
        {
            "type": f"{kind} * {_SAME_MAP} group_left (program)"
            f" topk by (cluster, job, instance, map_id) (1, {used})",
            "entries": total(entries, *_MAP),
            "size": total(most, *_MAP),
            "fullness": fullness,
            "memory": total(memory, *_MAP),
        },
        {
            "map": Column(
                "map", link=to_program_of_row("cluster", "job", "netns", "interface", **NODE_OF_ROW)
            ),
            "type": Column("type", width=150),
            "map_id": Column("id", width=80),
            "program": Column("program"),
            "instance": Column("node", width=200, link=to_agent()),
            "cluster": Column("cluster", width=120),
            "Value #entries": Column("entries", width=110),
            "Value #size": Column("max. entries", width=120),
            "Value #fullness": Column("in use", width=90, unit="percentunit"),
            "Value #memory": Column("memory", width=110, unit="bytes"),
        },
        sort="in use",
        descending=True,
    )
    return [Line(10, [(12, fullest), (12, memories)]), Line(10, [(24, table)])]
