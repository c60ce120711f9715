# SPDX-License-Identifier: Apache-2.0
"""Create panels in one style. This module holds everything that panels have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import heatmap as heat
from grafana_foundation_sdk.cog import builder as cogbuilder
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.queries import RANGE

DATASOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

# People with any kind of colour vision can distinguish these colours. The contrast is 3:1 or more
# in both of Grafana's themes. The colours of pass, drop and redirect are from Okabe and Ito. Their
# other colours are too light on white.
VERDICT_COLOURS: Final[Mapping[str, str]] = {
    "pass": "#009E73",
    "drop": "#D55E00",
    "tx": "#7A8BB7",
    "redirect": "#0072B2",
    "aborted": "#A94A83",
    "unknown": "#95793E",
}
GOOD: Final = VERDICT_COLOURS["pass"]
BAD: Final = "#D72057"
"""The red colour of a problem. No verdict has it, because a drop is no problem by itself."""

# Not Grafana's own "pps", because that shows two packets in three seconds as "667 mp/s".
PACKETS_RATE: Final = "count:pkt/s"
PACKETS: Final = "count:pkt"
FLOWS_RATE: Final = "count:flows/s"
PER_MINUTE: Final = "count:/min"
BITS: Final = "bps"
PLAIN: Final = "text"
"""Grafana's text colour, for numbers that are neither good nor bad."""
PALE: Final = "#808080"

REASONS: Final[Mapping[str, str]] = {
    "no_btf": "no_btf: loaded without BTF",
    "not_jited": "not_jited: interpreted",
    "busy": "busy: replaced, or too many tracers",
    "tailcall_only": "tailcall_only: its caller counts",
    "not_attached": "not_attached: receives nothing",
    "excluded": "excluded by the configuration",
    "no_verdict": "no_verdict: an extension",
    "unsupported_entry": "unsupported_entry: its prototype",
    "offloaded": "offloaded to the card",
    "unreadable": "unreadable: see the agent's log",
    "kernel_refused": "kernel_refused: see the agent's log",
    "vanished": "vanished: no longer there",
}
"""The reasons why a program is not traced, in a few words. docs/metrics.md explains them."""

_AnyPanel = TypeVar(
    "_AnyPanel", bargauge.Panel, heat.Panel, stat.Panel, table.Panel, timeseries.Panel
)
Panel = bargauge.Panel | heat.Panel | stat.Panel | table.Panel | timeseries.Panel


@dataclass(frozen=True)
class Words:
    """The texts of a panel."""

    title: str
    about: str
    empty: str
    """The text instead of "No data", which explains why there may be none."""


@dataclass(frozen=True)
class Column:
    """A column of a table, for one field. The table hides a field without a name."""

    name: str = ""
    width: int | None = None
    unit: str | None = None
    link: Mapping[str, str] | None = None
    """The title and the URL of a link."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The texts that the column shows instead of values."""
    colour: str | None = None
    """The colour of the text. A 0 is paler."""
    colours: Mapping[str, str] = field(default_factory=dict)
    """The colour of the text, by the value."""


def number(
    words: Words,
    query: str,
    unit: str,
    *,
    bad_from: float | None = None,
    colour: str = PLAIN,
    links: Sequence[Mapping[str, str]] = (),
) -> stat.Panel:
    """Return a tile with one number, and its history unless the query covers the time shown.

    ``bad_from`` is for a number that should be 0. ``links`` lead to explanations of the number.
    """
    whole = RANGE in query
    target = _target("A", query)
    plain = models.BigValueGraphMode.NONE
    panel = (
        _said(stat.Panel(), words, unit)
        .targets([target.instant() if whole else target])
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(plain if whole or unit == "none" else models.BigValueGraphMode.AREA)
        .data_links([_Link(link) for link in links])
        .color_mode(models.BigValueColorMode.VALUE)
        .min(0)
    )
    if bad_from is None:
        return panel.color_scheme(_fixed(colour))
    steps = [model.Threshold(color=GOOD), model.Threshold(value=bad_from, color=BAD)]
    return panel.color_scheme(
        build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)
    ).thresholds(build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))


def lines(
    words: Words,
    queries: Mapping[str, str],
    unit: str,
    *,
    stacked: bool = False,
    narrow: bool = False,
) -> timeseries.Panel:
    """Return a graph; ``queries`` are by their legends. A narrow panel has its legend below."""
    legend = common.VizLegendOptions().show_legend(True)
    if narrow:
        legend.display_mode(models.LegendDisplayMode.LIST).placement(models.LegendPlacement.BOTTOM)
    else:
        legend.display_mode(models.LegendDisplayMode.TABLE).placement(models.LegendPlacement.RIGHT)
        legend.calcs(["lastNotNull", "max"]).sort_by("Last *").sort_desc(True)
    panel = (
        _said(timeseries.Panel(), words, unit)
        .targets(
            [
                _target(reference, query).legend_format(legend)
                for reference, (legend, query) in zip("ABCDEF", queries.items(), strict=False)
            ]
        )
        .min(0)
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        .draw_style(models.GraphDrawStyle.LINE)
        # In a stacked graph, the line of a series at 0 would lie on top of all other lines.
        .line_width(0 if stacked else 1)
        .fill_opacity(70 if stacked else 0)
        .show_points(models.VisibilityMode.NEVER)
        .legend(legend)
        .tooltip(
            common.VizTooltipOptions()
            .mode(models.TooltipDisplayMode.MULTI)
            .sort(models.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(models.StackingMode.NORMAL).group("A"))
    return panel


def by_verdict(panel: timeseries.Panel) -> timeseries.Panel:
    """Return the panel with the colours of verdicts. Its legends must end with the verdict."""
    for verdict, colour in VERDICT_COLOURS.items():
        panel.override_by_regexp(
            f"/(^| ){verdict}$/",
            [model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})],
        )
    return panel


def bars(words: Words, query: str, legend: str, unit: str, colour: str) -> bargauge.Panel:
    """Return a panel with a bar for the current value of each series."""
    return (
        _said(bargauge.Panel(), words, unit)
        .targets([_target("A", query).legend_format(legend).instant()])
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(models.VizOrientation.HORIZONTAL)
        .display_mode(models.BarGaugeDisplayMode.BASIC)
        .value_mode(models.BarGaugeValueMode.TEXT)
        .sizing(models.BarGaugeSizing.MANUAL)
        .max_viz_height(26)
        .text(common.VizTextDisplayOptions().title_size(12).value_size(14))
        .show_unfilled(False)
        .min(0)
        .color_scheme(_fixed(colour))
    )


def heatmap(words: Words, query: str, unit: str) -> heat.Panel:
    """Return a map of a classic histogram over time. The query has the label ``le`` only.

    ``unit`` is that of the cells. The buckets are in seconds.
    """
    return (
        _said(heat.Panel(), words, unit)
        .targets([_target("A", query).legend_format("{{le}}").format(PromQueryFormat.HEATMAP)])
        .calculate(False)
        .cell_gap(1)
        .cell_values(heat.CellValues().unit(unit))
        .y_axis(heat.YAxisConfig().unit("s").axis_placement(models.AxisPlacement.LEFT))
        .color(
            heat.HeatmapColorOptions()
            .mode(heat_model.HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .steps(64)
        )
        .filter_values(heat.FilterValueRange().le(1e-9))
        .color_scheme(_fixed(PLAIN))
        .show_legend()
    )


def rows(
    words: Words,
    queries: Mapping[str, str],
    columns: Mapping[str, Column],
    *,
    unit: str = "none",
    sort: str,
    descending: bool = False,
) -> table.Panel:
    """Return a table of current values. Rows of several queries with equal labels become one row.

    The labels of a query become fields of the same names. The field of its value is "Value". With
    several queries, that field is "Value #" and the query's name.
    """
    shown = {name: column for name, column in columns.items() if column.name}
    order = {name: location for location, name in enumerate(shown)}
    panel = (
        _said(table.Panel(), words, unit)
        .targets(
            [
                _target(reference, query).format(PromQueryFormat.TABLE).instant()
                for reference, query in queries.items()
            ]
        )
        .color_scheme(_fixed(PLAIN))
        .filterable(True)
        .cell_height(models.TableCellHeight.SM)
        .sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])
    )
    if len(queries) > 1:
        panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    # Show only fields with a name, so that the table hides labels that a Prometheus adds.
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="filterFieldsByName", options={"include": {"names": list(shown)}}
        )
    )
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {},
                "indexByName": order,
                "renameByName": {name: column.name for name, column in shown.items()},
            },
        )
    )
    for column in shown.values():
        panel.override_by_name(column.name, _properties(column))
    return panel


def verdict_columns(prefix: str = "Value #") -> dict[str, Column]:
    """Return a column of packets per second for each verdict. Its cells do not show the unit."""
    return {
        f"{prefix}{verdict}": Column(verdict, width=78, unit="short", colour=colour)
        for verdict, colour in VERDICT_COLOURS.items()
    }


def total_columns() -> dict[str, Column]:
    """Return the columns of the queries that ``totals`` makes."""
    return {
        "Value #total": Column("packets", width=108, unit=PACKETS_RATE),
        "Value #share": Column("drop %", width=75, unit="percentunit"),
        "Value #bits": Column("traffic", width=92, unit=BITS),
    }


def verdict_column(name: str = "verdict") -> Column:
    """Return a column whose cells are verdicts."""
    return Column(name, width=78, colours=VERDICT_COLOURS)


class _Link(cogbuilder.Builder[model.DashboardLink]):
    """A link of a value. The SDK has only links of dashboards, with more fields."""

    def __init__(self, link: Mapping[str, str]) -> None:
        self._link = link

    def build(self) -> model.DashboardLink:
        """Return the link as it is in the JSON."""
        return self._link  # type: ignore[return-value]


def _properties(column: Column) -> list[model.DynamicConfigValue]:
    # Without this, an empty cell would explain why the panel is empty.
    found: dict[str, Any] = {"noValue": "-"}
    if column.width:
        found["custom.width"] = column.width
    if column.unit:
        found["unit"] = column.unit
    if column.link:
        found["links"] = [column.link]
    texts: dict[str, dict[str, str]] = {
        value: {"text": text} for value, text in column.texts.items()
    }
    if column.colour:
        texts["0"] = {"text": "0", "color": PALE}
        found["color"] = {"mode": "fixed", "fixedColor": column.colour}
        found["custom.cellOptions"] = {"type": "color-text"}
    if column.colours:
        for value, shade in column.colours.items():
            texts[value] = {"text": column.texts.get(value, value), "color": shade}
        found["custom.cellOptions"] = {"type": "color-text"}
    if texts:
        found["mappings"] = [{"type": "value", "options": texts}]
    return [model.DynamicConfigValue(key, value) for key, value in found.items()]


def _target(reference: str, query: str) -> prometheus.Dataquery:
    """Return a query. The SDK does not choose its reference letter."""
    return prometheus.Dataquery().ref_id(reference).expr(query).datasource(DATASOURCE).range()


def _said(panel: _AnyPanel, words: Words, unit: str) -> _AnyPanel:
    return (
        panel.title(words.title)
        .description(words.about)
        .no_value(words.empty)
        .unit(unit)
        .datasource(DATASOURCE)
    )


def _fixed(colour: str) -> build.FieldColor:
    return build.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color(colour)
