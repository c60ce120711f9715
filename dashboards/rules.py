# SPDX-License-Identifier: Apache-2.0
"""Check rules for dashboards on their JSON, regardless of the tool that created it."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Final

from dashboards import promql
from dashboards.boards import WIDTH
from dashboards.panels import (
    BAD,
    BITS,
    FLOWS_RATE,
    GOOD,
    PACKETS,
    PACKETS_RATE,
    PER_MINUTE,
    VERDICT_COLOURS,
)
from dashboards.promql import Metric
from dashboards.queries import RANGE, TARGET

Board = dict[str, Any]
Panel = dict[str, Any]

_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_UNITS: Final = frozenset(
    (
        *(PACKETS_RATE, PACKETS, FLOWS_RATE, PER_MINUTE, BITS),
        *("bytes", "percentunit", "s", "none", "locale"),
    )
)
"""The units that panels may use. "pps" and "cps" are excluded: below 1, they show thousandths."""

_OF_PACKETS: Final = ("_packets", "_missed", "_exceptions", "_redirect_errors")
"""The endings of the names of packet counters."""

_KINDS: Final = frozenset(("bargauge", "heatmap", "stat", "table", "timeseries"))
_GIVEN: Final = frozenset(
    ("__rate_interval", "__range", "__from", "__url_time_range", "__value", "__data")
)
"""The variables that Grafana itself defines."""

EVENTS: Final = frozenset(
    ("Alert firing", "Program loaded", "Program replaced", "Program detached", "Agent restarted")
)
"""The events that every dashboard marks in its graphs."""

_ALERT_RULES: Final = "/alerting/list?search="
"""The URL at which Grafana lists alert rules, its own and those of data sources."""

_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)[^}]*\}|(\w*[A-Za-z_]\w*))")
_LEGEND_LABEL: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_LABEL_VALUES: Final = re.compile(r"label_values\((.+), (\w+)\)", re.DOTALL)


def findings(boards: Mapping[str, Board], metrics: Mapping[str, Metric]) -> list[str]:
    """Return a text for each broken rule; ``metrics`` are the metrics that exist."""
    found = [
        f"{name}: {finding}"
        for name, board in boards.items()
        for check in (_about_board, _about_grid, _about_use_of_variables, _about_rows)
        for finding in check(board)
    ]
    for name, board in boards.items():
        for about in (_about_variables, _about_filters, _about_events):
            found += [f"{name}: {finding}" for finding in about(board, metrics)]
        for panel in panels(board):
            title = panel.get("title") or f"panel {panel.get('id')}"
            found += [f"{name}: {title}: {said}" for said in _about_panel(panel, metrics)]
            found += [f"{name}: {title}: {said}" for said in _about_variables_in(panel, board)]
        others = [other for key, other in boards.items() if key != name]
        found += [f"{name}: {finding}" for finding in _about_links(board, others)]
    shared = {
        uid: many
        for uid, many in Counter(board.get("uid") for board in boards.values()).items()
        if many > 1
    }
    return found + [f"uid {uid} is that of {many} dashboards" for uid, many in shared.items()]


def panels(board: Board) -> list[Panel]:
    """Return the panels that show something, which excludes rows."""
    return [panel for panel in board.get("panels", ()) if panel.get("type") != "row"]


def variables(board: Board) -> dict[str, dict[str, Any]]:
    """Return the variables by their names."""
    return {each["name"]: each for each in board.get("templating", {}).get("list", ())}


def _about_board(board: Board) -> Iterator[str]:
    if not re.fullmatch(r"xdpscope-[a-z]+", board.get("uid") or ""):
        yield "has no uid of ours"
    if board.get("id") is not None:
        yield "has an id, which is one server's affair"
    if board.get("editable") is not False:
        yield "is editable: what is changed by hand is lost"
    for key in ("title", "description"):
        if not board.get(key):
            yield f"has no {key}"
    if "xdpscope" not in board.get("tags", ()):
        yield "has not the tag xdpscope"
    for kind, count in _counted(board, "id").items():
        if count > 1:
            yield f"has {count} panels with the id {kind}"
    for title, count in Counter(panel.get("title") for panel in panels(board)).items():
        if count > 1:
            yield f"has {count} panels with the title {title}"
    for row in board.get("panels", ()):
        if row.get("type") == "row" and not row.get("title"):
            yield "has a row without a title"


def _counted(board: Board, key: str) -> Counter[object]:
    return Counter(panel.get(key) for panel in board.get("panels", ()))


def _about_grid(board: Board) -> Iterator[str]:
    """Check that no panel is outside the grid, no panels overlap, and the grid has no holes."""
    locations = [(panel.get("title"), panel["gridPos"]) for panel in board.get("panels", ())]
    for title, at in locations:
        if at["x"] < 0 or at["w"] < 1 or at["x"] + at["w"] > WIDTH:
            yield f"{title} is outside the grid"
    for (one, a), (other, b) in combinations(locations, 2):
        across = a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
        if across and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]:
            yield f"{one} and {other} overlap"
    height = max((at["y"] + at["h"] for _, at in locations), default=0)
    if sum(at["w"] * at["h"] for _, at in locations) != WIDTH * height:
        yield "has holes in its grid"


def _about_variables(board: Board, metrics: Mapping[str, Metric]) -> Iterator[str]:
    found = variables(board)
    first = next(iter(found.values()), {})
    if (first.get("name"), first.get("type"), first.get("query")) != (
        *("datasource", "datasource"),
        "prometheus",
    ):
        yield "does not begin with a variable for the data source"
    for name in TARGET:
        if not found.get(name, {}).get("multi"):
            yield f"has no variable {name} for any number of them"
    for name, variable in found.items():
        if variable.get("type") != "query":
            continue
        if not variable.get("label"):
            yield f"variable {name} has no label"
        if variable.get("datasource") != _DATASOURCE:
            yield f"variable {name} does not use the data source that is chosen"
        if variable.get("refresh") != 2:
            yield f"variable {name} is not refreshed with the time range"
        if bool(variable.get("multi")) != (variable.get("includeAll") is True):
            yield f"variable {name} is for many but not for all, or the other way round"
        if variable.get("multi"):
            # A cluster is optional, so All must also match agents without a cluster.
            everything = ".*" if name == "cluster" else ".+"
            if variable.get("allValue") != everything:
                yield f"variable {name} means by All something else than {everything}"
            if variable.get("current", {}).get("value") != ["$__all"]:
                yield f"variable {name} does not begin with All"
        yield from _about_variable_query(name, variable.get("query"), found, metrics)


def _about_variable_query(
    name: str, query: object, known: Mapping[str, Any], metrics: Mapping[str, Metric]
) -> Iterator[str]:
    match = _LABEL_VALUES.fullmatch(query) if isinstance(query, str) else None
    if not match or match[2] != name:
        yield f"variable {name} does not ask for the values of its label"
        return
    [selector] = promql.selectors(promql.parse(match[1]))
    metric = metrics.get(str(selector.name))
    if metric is None or name not in metric.labels | {*TARGET}:
        yield f"variable {name} asks {selector.name} for a label that it does not have"
    before = list(known)[: list(known).index(name)]
    for variable in TARGET:
        if variable in before and f'{variable}=~"${variable}"' not in match[1]:
            yield f"variable {name} has values of any {variable}"
    for variable in _mentioned(match[1]) - set(before):
        yield f"variable {name} depends on {variable}, which comes later or never"


_WITH_LOCATION: Final = ("program_id", "map_id")
"""Labels of series that belong to a program, and through it to locations."""


def _about_filters(board: Board, metrics: Mapping[str, Metric]) -> Iterator[str]:
    """Check that each variable filters each query whose metrics have matching labels.

    ``up`` and other metrics of an agent have no program and no location.
    """
    chosen = {"netns", "interface", "program"} & set(variables(board))
    asked = [(panel.get("title"), target) for panel in panels(board) for target in panel["targets"]]
    events = board.get("annotations", {}).get("list", ())
    asked += [(event["name"], event["target"]) for event in events]
    for title, target in asked:
        try:
            names = {str(each.name) for each in promql.selectors(promql.parse(target["expr"]))}
        except ValueError:
            continue  # another rule reports it
        labels = set().union(*(metrics[name].labels for name in names & set(metrics)))
        for name in chosen - _mentioned(target["expr"]):
            if labels & {name, *_WITH_LOCATION}:
                yield f"{title}: query {target.get('refId')} is not filtered by {name}"


_WITHOUT: Final = ("ALERTS",)
"""Metrics that are absent by default: without alerts."""


def _about_rows(board: Board) -> Iterator[str]:
    """Check that each row is open and has a panel with data by default."""
    below: dict[str, list[Panel]] = {}
    title = ""
    for panel in board.get("panels", ()):
        if panel.get("type") == "row":
            title = panel.get("title") or ""
            below[title] = []
            if panel.get("collapsed") or panel.get("panels"):
                yield f"row {title} is closed"
        else:
            below.setdefault(title, []).append(panel)
    for row, shown in below.items():
        texts = [json.dumps(panel.get("targets")) for panel in shown]
        if not any(all(name not in text for name in _WITHOUT) for text in texts):
            yield f"row {row} is empty by default"


def _about_events(board: Board, metrics: Mapping[str, Metric]) -> Iterator[str]:
    events = board.get("annotations", {}).get("list", ())
    if missing := EVENTS - {event.get("name") for event in events}:
        yield f"does not mark {', '.join(sorted(missing))}"
    for event in events:
        name, target = event.get("name"), event.get("target") or {}
        if not event.get("enable") or event.get("hide") or "placement" in event:
            yield f"{name} is not on at first, or cannot be switched off"
        if event.get("datasource") != _DATASOURCE or target.get("datasource") != _DATASOURCE:
            yield f"{name} does not use the data source that is chosen"
        examined = promql.examine(target.get("expr", ""), metrics, instant=False)
        for complaint in examined.complaints:
            yield f"{name} {complaint}"
        words = event.get("titleFormat", "") + event.get("textFormat", "")
        if unknown := set(_LEGEND_LABEL.findall(words)) - examined.labels:
            yield f"{name} tells {', '.join(sorted(unknown))}, which its query does not have"
        if event.get("iconColor") in VERDICT_COLOURS.values():
            yield f"{name} has the colour of a verdict"


def _about_use_of_variables(board: Board) -> Iterator[str]:
    used = set().union(*(_mentioned(panel) for panel in panels(board)))
    for name in variables(board):
        if name not in used:
            yield f"variable {name} has no effect"


def _about_variables_in(panel: Panel, board: Board) -> Iterator[str]:
    known = variables(board)
    for name in _mentioned(panel) - set(known) - _GIVEN:
        yield f"uses the variable {name}, which is not there"
    for target in panel.get("targets", ()):
        for operator, name in re.findall(r'(=~|!~|!=|=)\s*"\$(\w+)"', target.get("expr", "")):
            if name in known and (operator == "=~") != bool(known[name].get("multi")):
                yield f"compares by {operator} with the variable {name}"


def _mentioned(thing: object) -> set[str]:
    return {one or other for one, other in _VARIABLE.findall(json.dumps(thing))}


def _about_panel(panel: Panel, metrics: Mapping[str, Metric]) -> Iterator[str]:
    if panel.get("type") not in _KINDS:
        yield f"is of the kind {panel.get('type')}, which has no rules yet"
    if not panel.get("title"):
        yield "has no title"
    if len(panel.get("description") or "") < 20 or not panel["description"].endswith("."):
        yield "has no description in sentences"
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    if len(defaults.get("noValue") or "") < 10:
        yield "does not say why it may be empty"
    if panel.get("datasource") != _DATASOURCE:
        yield "does not use the data source that is chosen"
    if defaults.get("unit") not in _UNITS:
        yield f"has the unit {defaults.get('unit')}, which is none of ours"
    targets = panel.get("targets") or []
    if not targets:
        yield "asks for nothing"
    references = [target.get("refId") for target in targets]
    if len(set(references)) < len(targets) or not all(references):
        yield "has queries without a refId of their own"
    yield from _about_colours(panel)
    for target in targets:
        if target.get("datasource") != _DATASOURCE:
            yield "has a query that does not use the data source that is chosen"
        instant = target.get("instant") is True and not target.get("range")
        query = target.get("expr", "")
        examined = promql.examine(query, metrics, instant=instant)
        for complaint in examined.complaints:
            yield f"query {target.get('refId')} {complaint}"
        yield from _about_unit(defaults.get("unit"), query, panel)
        if panel.get("type") in ("timeseries", "bargauge"):
            yield from _about_legend(target, examined.labels)
    if panel.get("type") == "table":
        yield from _about_table(panel, metrics)
    if panel.get("type") == "stat":
        yield from _about_tile(panel)


def _about_tile(panel: Panel) -> Iterator[str]:
    """Check that a tile has a link to an explanation.

    Check also that a number that should be 0 covers the time that is shown.
    """
    defaults = panel["fieldConfig"]["defaults"]
    if not defaults.get("links"):
        yield "leads to nothing that explains it"
    if defaults.get("color", {}).get("mode") != "thresholds":
        return
    if any(f"[{RANGE}]" not in target.get("expr", "") for target in panel.get("targets", ())):
        yield "should be 0 and does not cover the time that is shown"
    colours = [step.get("color") for step in defaults.get("thresholds", {}).get("steps", ())]
    if colours != [GOOD, BAD]:
        yield "is not green at 0 and red otherwise"


def _about_unit(unit: object, query: str, panel: Panel) -> Iterator[str]:
    """Check that the panel's unit is the unit of its counters."""
    if panel["type"] == "table":
        return  # each column of a table has its own unit
    if query.startswith("60 * "):
        wanted = {PER_MINUTE}
    elif promql.is_ratio(query):
        wanted = {"percentunit", "s"}
    elif any(f"{ending}_total{{" in query for ending in _OF_PACKETS):
        wanted = {PACKETS if f"[{RANGE}])" in query else PACKETS_RATE}
    elif "_evictions_total{" in query:
        wanted = {FLOWS_RATE}
    elif "_bytes_total{" in query:
        wanted = {BITS}
        if not query.startswith("8 * "):
            yield "shows bytes and calls them bits"
    elif "_memory_bytes{" in query:
        wanted = {"bytes"}
    elif "_ratio{" in query:
        wanted = {"percentunit"}
    elif "_duration_seconds{" in query or query.startswith("(time() - "):
        wanted = {"s"}
    elif "_seconds_total{" in query:
        wanted = {"percentunit"}
    elif "_seconds_bucket{" in query:
        wanted = {"s"} if "histogram_quantile(" in query else {PACKETS_RATE}
    elif "rate(" in query:
        wanted = {"count:/s"}
    else:
        wanted = {"none"}
    if unit not in wanted:
        yield f"has the unit {unit}, not {' or '.join(sorted(wanted))}"
    if unit == "percentunit":
        options = panel.get("options", {})
        calculated = [
            *options.get("reduceOptions", {}).get("calcs", ()),
            *options.get("legend", {}).get("calcs", ()),
        ]
        if set(calculated) - {"lastNotNull", "max", "min"}:
            yield "makes an average or a sum of ratios"


def _about_legend(target: dict[str, Any], found: frozenset[str]) -> Iterator[str]:
    legend = target.get("legendFormat") or ""
    if not legend or legend == "__auto":
        yield f"query {target.get('refId')} has no legend"
    named = set(_LEGEND_LABEL.findall(legend))
    if named - found:
        yield f"has {', '.join(sorted(named - found))} in its legend, which is not in its series"
    if missing := found - named - {"job"}:
        yield f"has series that differ by {', '.join(sorted(missing))}, which is not in its legend"


def _about_table(panel: Panel, metrics: Mapping[str, Metric]) -> Iterator[str]:
    targets = panel.get("targets") or []
    fields: set[str] = set()
    if panel["fieldConfig"]["defaults"].get("custom", {}).get("filterable") is not True:
        yield "has columns that cannot be filtered"
    for target in targets:
        if target.get("format") != "table" or target.get("instant") is not True:
            yield f"query {target.get('refId')} is not for a table of what is now"
        fields |= promql.examine(target.get("expr", ""), metrics, instant=True).labels
        fields.add("Value" if len(targets) == 1 else f"Value #{target.get('refId')}")
    steps = {step.get("id"): step.get("options") for step in panel.get("transformations", ())}
    if len(targets) > 1 and "merge" not in steps:
        yield "does not make one row of several queries"
    shown = steps.get("filterFieldsByName", {}).get("include", {}).get("names", [])
    names = steps.get("organize", {}).get("renameByName", {})
    if not shown or set(shown) != set(names):
        yield "shows fields that have no name for people"
    for name in set(shown) - fields:
        yield f"shows the field {name}, which no query has"
    links = [
        link["url"]
        for override in panel["fieldConfig"].get("overrides", ())
        for each in override["properties"]
        if each["id"] == "links"
        for link in each["value"]
        if link["url"].startswith("/d/")
    ]
    kept = {"instance": "node", "netns": "namespace", "interface": "interface"}
    own = {variable: column for variable, column in kept.items() if column in names.values()}
    if own and not links:
        yield "has rows that lead nowhere"
    for url in links:
        to_program = url.startswith("/d/xdpscope-program")
        for variable, column in own.items() if to_program else ():
            if f"var-{variable}=${{__data.fields.{column}:percentencode}}" not in url:
                yield f"does not keep a row's {column} in {url}"
    empty = set()
    for override in panel["fieldConfig"].get("overrides", ()):
        name = override["matcher"]["options"]
        if name not in names.values():
            yield f"has an override for {name}, which is no column"
        empty |= {name for each in override["properties"] if each["id"] == "noValue"}
    for name in set(names.values()) - empty:
        yield f"says in empty cells of {name} why the panel is empty"
    columns = set(names.values())
    if {"drop", "pass"} <= columns and not {"packets", "drop %"} <= columns:
        yield "has verdicts without the total and the share that is dropped"
    by = [sort["displayName"] for sort in panel.get("options", {}).get("sortBy", ())]
    if columns & {"packets", "drop %"} and not set(by) <= {"packets", "drop %", "place"}:
        yield "is sorted neither by a rate nor by the share that is dropped"
    for sort in panel.get("options", {}).get("sortBy", ()):
        if sort["displayName"] not in names.values():
            yield f"is sorted by {sort['displayName']}, which is no column"


def _about_colours(panel: Panel) -> Iterator[str]:
    config = panel.get("fieldConfig", {})
    defaults = config.get("defaults", {})
    mode = defaults.get("color", {}).get("mode")
    steps = defaults.get("thresholds", {}).get("steps", [])
    if mode is None:
        yield "leaves its colours to Grafana, whose default is red from 80 on"
    if mode == "thresholds":
        if len(steps) < 2 or steps[0].get("value") is not None:
            yield "is coloured by thresholds and has none"
    elif steps:
        yield "has thresholds without a meaning"
    expected = dict(VERDICT_COLOURS)
    legends = [target.get("legendFormat") or "" for target in panel.get("targets", ())]
    by_verdict = any("{{verdict}}" in legend for legend in legends)
    found: dict[str, object] = {}
    for override in config.get("overrides", ()):
        pattern = str(override["matcher"]["options"])
        name = re.sub(r"^/\(\^\| \)(\w+)\$/$", r"\1", pattern)
        for each in override["properties"]:
            if each["id"] == "color":
                found[name] = each["value"].get("fixedColor")
    for verdict in set(found) & set(expected):
        if found[verdict] != expected[verdict]:
            yield f"has another colour for {verdict} than all else"
    columns = {target.get("refId") for target in panel.get("targets", ())}
    needed = set(expected) if by_verdict else columns & set(expected)
    if needed - set(found):
        yield "has verdicts without their colours"


def _about_links(board: Board, others: list[Board]) -> Iterator[str]:
    uids = {str(other.get("uid")): other for other in others}
    named = {}
    for link in board.get("links") or []:
        named[link.get("url", "").partition("?")[0].removeprefix("/d/")] = link
        if not link.get("keepTime"):
            yield f"link {link.get('title')} does not keep the time"
        if link.get("includeVars") or "placement" in link:
            yield f"link {link.get('title')} is not as ours are"
    if set(named) != set(uids):
        yield "does not link to each of the other dashboards, and to them alone"
    uids[str(board.get("uid"))] = board
    addresses = [link.get("url", "") for link in named.values()]
    addresses += [
        link["url"]
        for panel in panels(board)
        for link in panel["fieldConfig"]["defaults"].get("links", ())
    ]
    addresses += [
        link["url"]
        for panel in panels(board)
        for override in panel.get("fieldConfig", {}).get("overrides", ())
        for each in override["properties"]
        if each["id"] == "links"
        for link in each["value"]
    ]
    for address in addresses:
        if address.startswith(_ALERT_RULES):
            continue
        uid, _, rest = address.removeprefix("/d/").partition("?")
        if uid not in uids:
            yield f"leads to {uid}, which is not there"
            continue
        shown = re.search(r"viewPanel=([^&]*)", rest)
        if shown and shown[1] not in {str(panel["id"]) for panel in panels(uids[uid])}:
            yield f"leads to the panel {shown[1]} of {uid}, which is not there"
        carried = set(re.findall(r"\$\{(\w+):queryparam\}", rest))
        if missing := carried - set(variables(board)):
            yield f"carries {', '.join(sorted(missing))}, which it does not have"
        carried |= set(re.findall(r"var-(\w+)=", rest))
        if missing := carried - set(variables(uids[uid])):
            yield f"carries {', '.join(sorted(missing))} to {uid}, which has no use for it"
        shared = set(variables(board)) & set(variables(uids[uid])) - {"program"}
        if missing := shared - carried:
            yield f"does not carry {', '.join(sorted(missing))} to {uid}"
