# SPDX-License-Identifier: Apache-2.0
"""Examine the syntax tree of a query for the checker."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import promql_parser as syntax

from dashboards.queries import AGENT_UP, RANGE, RATE_INTERVAL, TARGET, once, once_in_range

_STAND_INS = {RATE_INTERVAL: "58h58m58s", RANGE: "57h57m57s", "${__from}": "1"}
"""Values that replace Grafana's variables for the parser. Nobody would write these durations."""
_POINT, _WHOLE = (syntax.parse_duration(_STAND_INS[name]) for name in (RATE_INTERVAL, RANGE))

_OVER_TIME = frozenset(
    ("last_over_time", "max_over_time", "min_over_time", "changes", "rate", "increase")
)

_AGENT = TARGET

COUNTS = frozenset(
    f"xdp_{of}{what}_total"
    for of in ("", "flow_", "flow_unaccounted_")
    for what in ("packets", "bytes")
)
"""Metrics in which a packet counts once for each program that it passes through."""


@dataclass(frozen=True)
class Metric:
    """A metric that queries can ask for."""

    counter: bool
    labels: frozenset[str]


@cache
def parse(query: str) -> syntax.Expr:
    """Return the syntax tree of a query.

    Raises:
        ValueError: The query is not PromQL.
    """
    for variable, stand_in in _STAND_INS.items():
        query = query.replace(variable, stand_in)
    return syntax.parse(query)


@dataclass(frozen=True)
class Examined:
    """The result of examining a query, independent of its panel."""

    complaints: tuple[str, ...]
    labels: frozenset[str]
    """The labels of the query's result."""


def examine(query: str, metrics: Mapping[str, Metric], *, instant: bool) -> Examined:
    """Examine a query; ``instant`` means that it asks for one moment only."""
    return _examine(query, frozenset(metrics.items()), instant)


@cache
def _examine(query: str, items: frozenset[tuple[str, Metric]], instant: bool) -> Examined:
    metrics = dict(items)
    found = tuple(_complaints(query, metrics, instant=instant))
    try:
        return Examined(found, frozenset(labels(parse(query), metrics)))
    except ValueError:
        return Examined(found, frozenset())


def _complaints(query: str, metrics: Mapping[str, Metric], *, instant: bool) -> Iterator[str]:
    try:
        tree = parse(query)
    except ValueError as error:
        yield f"is no PromQL: {error}"
        return
    for selector in selectors(tree):
        yield from _about_selector(selector, metrics)
    yield from _about_rates(tree, metrics, instant=instant)
    yield from _about_sums(tree)
    yield from _about_labels(tree, metrics)
    for node in _walk(tree):
        if isinstance(node, syntax.AggregateExpr):
            operation = str(node.op)
            if operation == "avg":
                yield "averages; an average of ratios, or of unlike things, tells nothing"
            if operation in ("topk", "bottomk") and not instant and not _is_ranking(node):
                yield f"{operation} over time shows more than it says"
        if isinstance(node, syntax.Call) and node.func.name.startswith(("avg_", "histogram_avg")):
            yield "averages; an average of ratios, or of unlike things, tells nothing"
        if isinstance(node, syntax.BinaryExpr) and str(node.op) == "/":
            for side in (node.lhs, node.rhs):
                if not _is_sum(side):
                    yield "divides what has not been summed up first"


def is_ratio(query: str) -> bool:
    """Return whether a query is one value divided by another, or the largest of such ratios."""
    try:
        tree = parse(query)
    except ValueError:
        return False
    if isinstance(tree, syntax.AggregateExpr) and str(tree.op) == "topk":
        tree = _bare(tree.expr)
    if isinstance(tree, syntax.BinaryExpr) and str(tree.op) == "and":
        tree = _bare(tree.lhs)
    return isinstance(tree, syntax.BinaryExpr) and str(tree.op) == "/"


def selectors(tree: syntax.Expr) -> list[syntax.VectorSelector]:
    """Return all selectors, including selectors with a range."""
    return [node for node in _walk(tree) if isinstance(node, syntax.VectorSelector)]


def labels(tree: syntax.Expr, metrics: Mapping[str, Metric]) -> set[str]:
    """Return the labels of the result."""
    if isinstance(tree, syntax.VectorSelector):
        known = metrics.get(str(tree.name))
        return {*_AGENT, *(known.labels if known else ())}
    if isinstance(tree, syntax.AggregateExpr):
        if str(tree.op) in ("topk", "bottomk"):
            return labels(tree.expr, metrics)
        if tree.modifier is None:
            return set()
        if str(tree.modifier.type) != "AggModifierType.By":
            return labels(tree.expr, metrics) - set(tree.modifier.labels)
        return set(tree.modifier.labels)
    if isinstance(tree, syntax.BinaryExpr):
        return _labels_of_both(tree, metrics)
    if isinstance(tree, syntax.Call) and tree.func.name in ("time", "vector"):
        return set()
    if isinstance(tree, syntax.Call) and tree.func.name == "label_replace":
        return labels(tree.args[0], metrics) | {tree.args[1].val}
    if isinstance(tree, syntax.Call) and tree.func.name == "histogram_quantile":
        return labels(tree.args[1], metrics) - {"le"}
    return set().union(*(labels(child, metrics) for child in _children(tree)))


def _labels_of_both(tree: syntax.BinaryExpr, metrics: Mapping[str, Metric]) -> set[str]:
    left, right = labels(tree.lhs, metrics), labels(tree.rhs, metrics)
    if isinstance(tree.lhs, syntax.NumberLiteral) or str(tree.lhs) == "time()":
        return right
    if isinstance(_bare(tree.rhs), syntax.NumberLiteral) or str(tree.op) in ("and", "unless"):
        return left
    if str(tree.op) == "or":
        return left & right
    modifier = tree.modifier
    if modifier is None or modifier.matching is None:
        return left & right
    if str(modifier.card) == "VectorMatchCardinality.ManyToOne":
        return left | set(modifier.group_labels or ())
    return set(modifier.matching.labels)


def _about_selector(
    selector: syntax.VectorSelector, metrics: Mapping[str, Metric]
) -> Iterator[str]:
    name = str(selector.name)
    if name not in metrics:
        yield f"asks for {name}, which nobody serves"
        return
    found = {(each.name, _operator(each), each.value) for each in selector.matchers.matchers}
    for label in _AGENT:
        if (label, "Re", f"${label}") not in found:
            yield f'has {name} without {label}=~"${label}"'
    for label, _, _ in found:
        if label not in metrics[name].labels | set(_AGENT):
            yield f"has {name} with the label {label}, which it does not have"


def _is_ranking(tree: syntax.AggregateExpr) -> bool:
    """Return whether a topk chooses the same series at each point of a graph as at its end."""
    counted = [each for each in selectors(tree.expr) if str(each.name) != AGENT_UP]
    return bool(counted) and all(str(each.at).strip() == "@ end()" for each in counted)


def _about_rates(
    tree: syntax.Expr, metrics: Mapping[str, Metric], *, instant: bool
) -> Iterator[str]:
    rated = set()
    for node in _walk(tree):
        if isinstance(node, syntax.MatrixSelector):
            if node.range not in (_POINT, _WHOLE):
                yield f"has another range than [{RATE_INTERVAL}] or [{RANGE}]"
            at_end = str(node.vector_selector.at).strip() == "@ end()"
            if node.range == _WHOLE and not instant and not at_end:
                yield f"has [{RANGE}] at each point of a graph"
        ranges = [each for each in _children(node) if isinstance(each, syntax.MatrixSelector)]
        if isinstance(node, syntax.Call) and ranges:
            inner = ranges[0].vector_selector
            rated.add(str(inner))
            counter = (known := metrics.get(str(inner.name))) is not None and known.counter
            if node.func.name in ("rate", "increase") and not counter:
                yield f"takes the rate of {inner.name}, which is no counter"
            if node.func.name not in _OVER_TIME:
                yield f"uses {node.func.name}"
            whole = node.func.name not in ("rate", "last_over_time")
            if whole != (ranges[0].range == _WHOLE) and node.func.name != "last_over_time":
                yield f"uses {node.func.name} over a time that is not for it"
        if isinstance(node, syntax.SubqueryExpr):
            yield "has a subquery"
    for selector in selectors(tree):
        known = metrics.get(str(selector.name))
        # On the right of `and`, only the existence of a series counts, not its value.
        bare = known and known.counter and str(selector) not in rated
        if bare and not _only_there(tree, selector):
            yield f"has the counter {selector.name} without a rate"


def _only_there(tree: syntax.Expr, selector: syntax.VectorSelector) -> bool:
    """Return whether a selector is on the right of `and` or `unless`."""
    return any(
        isinstance(node, syntax.BinaryExpr)
        and str(node.op) in ("and", "unless")
        and str(_bare(node.rhs)) == str(selector)
        for node in _walk(tree)
    )


def _about_sums(tree: syntax.Expr) -> Iterator[str]:
    ranked = [
        inner
        for node in _walk(tree)
        if isinstance(node, syntax.AggregateExpr)
        if str(node.op) == "topk" and _is_ranking(node)
        for inner in _walk(node)
    ]
    for node in _walk(tree):
        if not isinstance(node, syntax.AggregateExpr) or str(node.op) != "sum":
            continue
        if any(str(node) == str(inner) for inner in ranked):
            continue  # the panel does not show it
        grouped = set(node.modifier.labels) if node.modifier else set()
        if grouped & {"program", "program_id"}:
            continue
        for selector in _counted_more_than_once(node.expr):
            yield f"sums up {selector.name} of several programs, which have packets in common"


def _counted_more_than_once(tree: syntax.Expr) -> Iterator[syntax.VectorSelector]:
    tree = _bare(tree)
    if isinstance(tree, syntax.AggregateExpr) or _is_once(tree):
        return  # the check handles an inner sum separately
    if isinstance(tree, syntax.VectorSelector):
        of_one = any(
            matcher.name == "program" and _operator(matcher) == "Equal"
            for matcher in tree.matchers.matchers
        )
        if str(tree.name) in COUNTS and not of_one:
            yield tree
    for child in _children(tree):
        yield from _counted_more_than_once(child)


def _is_once(tree: syntax.Expr) -> bool:
    """Return whether this is the expression of ``once`` or ``once_in_range``, of any metric."""
    if not isinstance(tree, syntax.BinaryExpr) or str(tree.op) != "or":
        return False
    counted = selectors(tree)[0]
    own = [str(each) for each in counted.matchers.matchers if each.name not in _AGENT]
    expected = [_bare(parse(make(str(counted.name), *own))) for make in (once, once_in_range)]
    return tree.prettify() in [each.prettify() for each in expected]


def _about_labels(tree: syntax.Expr, metrics: Mapping[str, Metric]) -> Iterator[str]:
    for node in _walk(tree):
        if isinstance(node, syntax.AggregateExpr) and node.modifier:
            for label in set(node.modifier.labels) - labels(node.expr, metrics):
                yield f"groups by {label}, which is not there"
        if isinstance(node, syntax.BinaryExpr) and node.modifier and node.modifier.matching:
            matched = set(node.modifier.matching.labels)
            missing = set(TARGET) - matched
            ranked = _bare(node.rhs)
            if isinstance(ranked, syntax.AggregateExpr) and _is_ranking(ranked):
                missing = set()  # it ranks nodes by the labels of NODE
            if missing and matched & {"instance", "program_id", "dispatcher_id"}:
                yield f"takes agents for one that differ by {', '.join(sorted(missing))}"
            for side in (node.lhs, node.rhs):
                for label in set(node.modifier.matching.labels) - labels(side, metrics):
                    yield f"matches on {label}, which is not on both sides"


def _is_sum(tree: syntax.Expr) -> bool:
    tree = _bare(tree)
    if isinstance(tree, syntax.BinaryExpr) and isinstance(tree.rhs, syntax.NumberLiteral):
        return _is_sum(tree.lhs)  # a comparison, for a divisor that must not be 0
    return isinstance(tree, syntax.AggregateExpr) and str(tree.op) in ("sum", "count")


def _operator(matcher: syntax.Matcher) -> str:
    return str(matcher.op).rpartition(".")[2]


def _bare(tree: Any) -> Any:
    while isinstance(tree, syntax.ParenExpr):
        tree = tree.expr
    return tree


def _children(node: Any) -> list[syntax.Expr]:
    if isinstance(node, syntax.BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, syntax.Call):
        return list(node.args)
    if isinstance(node, syntax.MatrixSelector):
        return [node.vector_selector]
    if isinstance(
        node, syntax.AggregateExpr | syntax.ParenExpr | syntax.UnaryExpr | syntax.SubqueryExpr
    ):
        return [node.expr]
    return []


def _walk(tree: syntax.Expr) -> Iterator[syntax.Expr]:
    yield tree
    for child in _children(tree):
        yield from _walk(child)
