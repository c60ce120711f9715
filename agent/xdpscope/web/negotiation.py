# SPDX-License-Identifier: Apache-2.0
"""Content negotiation (RFC 9110, section 12): which format and which coding a request prefers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["gzip_accepted", "preferred_format"]

_OPENMETRICS = "application/openmetrics-text"
_TEXT = "text/plain"
# Media types and versions that the agent can produce. The first one is the default.
_FORMATS = ((_TEXT, "0.0.4"), (_TEXT, "1.0.0"), (_OPENMETRICS, "1.0.0"))
_QUALITY = re.compile(r"0(?:\.[0-9]*)?|1(?:\.0*)?")


class _Choice(NamedTuple):
    """One element of an Accept or Accept-Encoding header."""

    name: str
    parameters: dict[str, str]
    quality: float


class _Match(NamedTuple):
    """The quality that a header gives one format. A larger value is the more specific one."""

    specificity: int
    quality: float
    parameters: str


def preferred_format(accept: str) -> str:
    """Return the format to answer with, as one media range that prometheus_client understands.

    The highest quality wins, and 0 excludes. Between equal ones, OpenMetrics wins if the header
    names it, and else text 0.0.4 does. Text 0.0.4 is also the answer if the header accepts none of
    the formats. A scraper can report a page that it cannot read better than a 406.
    """
    choices = list(_choices(accept))
    best, best_rank = _TEXT, (0.0, False)
    for name, version in _FORMATS:
        match = max(_matches(choices, name, version), default=None)
        if match is None:
            continue
        # A browser or curl accepts everything: it wants text.
        rank = (match.quality, name == _OPENMETRICS and match.specificity > 0)
        if match.quality > 0 and rank > best_rank:
            best_rank = rank
            best = f"{name}{match.parameters}"
    return best


def gzip_accepted(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header accepts gzip, and no less than no coding at all."""
    qualities = {choice.name: choice.quality for choice in _choices(accept_encoding)}
    others = qualities.get("*", 0.0)
    gzip = qualities.get("gzip", qualities.get("x-gzip", others))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def _matches(choices: list[_Choice], name: str, version: str) -> Iterator[_Match]:
    ranges = ("*/*", f"{name.partition('/')[0]}/*", name)
    for choice in choices:
        asked = choice.parameters.get("version", "")
        if choice.name in ranges and asked in ("", version):
            escaping = choice.parameters.get("escaping", "")
            parameters = f";version={asked};escaping={escaping}" if asked else ""
            yield _Match(ranges.index(choice.name) + bool(asked), choice.quality, parameters)


def _choices(header: str) -> Iterator[_Choice]:
    """Yield the elements of a header, without those whose quality is not a number from 0 to 1."""
    for element in header.split(","):
        name, *rest = (part.strip() for part in element.split(";"))
        parameters = {}
        for parameter in rest:
            key, _, value = parameter.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"')
        quality = parameters.pop("q", "1")
        if name and _QUALITY.fullmatch(quality):
            yield _Choice(name.lower(), parameters, float(quality))
