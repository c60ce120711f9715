# SPDX-License-Identifier: Apache-2.0
"""Maps of XDP programs: how full they are, and how much memory they take."""

from dashboards.boards import Line
from dashboards.panels import VERDICT_COLOURS, Column, Words, bars, lines, rows
from dashboards.queries import NODE, NODE_LEGEND, series, share, total

_MAP = (*NODE, "map_id", "map")
_NO_ENTRIES = "No XDP program here uses a map whose entries the kernel counts."
_NO_MAPS = "No XDP program here uses a map."


def maps() -> list[Line]:
    """Panels on the maps of all chosen nodes."""
    entries, most = series("xdp_map_entries"), series("xdp_map_max_entries")
    memory = series("xdp_map_memory_bytes")
    fullness = share(entries, most, *_MAP)
    fullest = bars(
        Words(
            "Fullest maps",
            "The ten maps with the largest share of their entries in use. A full hash or LPM map"
            " refuses new entries; a full LRU map replaces old ones.",
            _NO_ENTRIES,
        ),
        f"topk(10, {fullness})",
        f"{{{{map}}}} {{{{map_id}}}} {NODE_LEGEND}",
        "percentunit",
        VERDICT_COLOURS["redirect"],
    )
    used = lines(
        Words(
            "Memory of maps",
            "Memory of all maps that XDP programs use, as the kernel reports it. Before Linux 6.4"
            " it is an estimate for full maps.",
            _NO_MAPS,
        ),
        {NODE_LEGEND: total(memory, *NODE)},
        "bytes",
    )
    table = rows(
        Words(
            "Maps",
            "Each map that XDP programs use. Entries are missing where the kernel does not count"
            " them: in arrays, and before Linux 6.6 in preallocated hash maps.",
            _NO_MAPS,
        ),
        {
            "type": f"group by ({', '.join((*_MAP, 'type'))}) ({series('xdp_map_info')})",
            "entries": total(entries, *_MAP),
            "size": total(most, *_MAP),
            "fullness": fullness,
            "memory": total(memory, *_MAP),
        },
        {
            "map": Column("map"),
            "type": Column("type", width=150),
            "map_id": Column("id", width=80),
            "instance": Column("node", width=200),
            "cluster": Column("cluster", width=120),
            "Value #entries": Column("entries", width=110),
            "Value #size": Column("max. entries", width=120),
            "Value #fullness": Column("in use", width=90, unit="percentunit"),
            "Value #memory": Column("memory", width=110, unit="bytes"),
        },
        sort="in use",
        descending=True,
    )
    return [Line(10, [(12, fullest), (12, used)]), Line(10, [(24, table)])]
