# SPDX-License-Identifier: Apache-2.0
"""The parameters of a request: an unknown, repeated or malformed one is a 400 that says why."""

from __future__ import annotations

import re
from difflib import get_close_matches
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, NoReturn

from starlette.exceptions import HTTPException

from xdpscope.log import printable
from xdpscope.probes.events import EVENTS_LIMIT
from xdpscope.probes.flows.query import ORDERS, PROTOCOLS, FlowQuery, Network
from xdpscope.program_types.xdp import VERDICTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

__all__ = [
    "FLOW_PARAMETERS",
    "event_query",
    "flow_query",
    "metric_names",
    "parameters_of",
    "switch",
    "verdict",
]

# Flows in an answer to one who does not say how many.
_FLOWS = 100
# The same of events.
_EVENTS = 100
_SHOWN = 60  # characters of a refused value that are repeated to its sender
_PROTOCOL_NAMES = sorted(set(PROTOCOLS.values()))
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def parameters_of(
    request: Request, *allowed: str, repeated: frozenset[str] = frozenset()
) -> Mapping[str, str]:
    """Return the parameters by name.

    Args:
        request: Has them.
        allowed: All names that this page knows.
        repeated: Of these, those that may come more than once.

    Raises:
        HTTPException: a parameter is unknown or repeated.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in allowed:
            _refuse(_unknown(name, allowed))
        if name in found and name not in repeated:
            _refuse(f"parameter {name} is given more than once: only one is allowed")
        found[name] = value
    return found


def _unknown(name: str, allowed: tuple[str, ...]) -> str:
    meant = get_close_matches(name, allowed, 1)
    known = f"allowed are {', '.join(allowed)}" if allowed else "this page has no parameters"
    suggestion = f", did you mean {meant[0]}?" if meant else ""
    return f"unknown parameter {_quoted(name)}{suggestion or ':'} {known}"


def verdict(found: Mapping[str, str]) -> str | None:
    """Return the verdict that is asked for, if any."""
    return _optional(found, "verdict", _verdict)


def switch(found: Mapping[str, str], name: str) -> bool:
    """Return whether a parameter is 1; by default it is 0."""
    value = found.get(name, "0")
    if value not in ("0", "1"):
        _refuse(f"{name} must be 0 or 1, not {_quoted(value)}")
    return value == "1"


def metric_names(request: Request) -> list[str]:
    """Return the metrics that are asked for; none: all."""
    parameters_of(request, "name[]", repeated=frozenset({"name[]"}))
    names = request.query_params.getlist("name[]")
    for name in names:
        if not _METRIC.fullmatch(name):
            _refuse(f"name[] must be a metric, such as xdp_packets_total, not {_quoted(name)}")
    return names


def flow_query(request: Request) -> FlowQuery:
    """Return which flows are asked for."""
    found = parameters_of(request, *FLOW_PARAMETERS)
    values: dict[str, Any] = {
        name: read(name, found[name]) for name, read in FLOW_PARAMETERS.items() if name in found
    }
    return FlowQuery(**{"limit": _FLOWS} | values)


def event_query(request: Request) -> tuple[int, float | None]:
    """Return how many events are asked for, and after which Unix time; None: at any time."""
    found = parameters_of(request, "limit", "since")
    limit = _whole(1, EVENTS_LIMIT)("limit", found["limit"]) if "limit" in found else _EVENTS
    return limit, _unix_time("since", found["since"]) if "since" in found else None


def _unix_time(name: str, value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,9})?", value, re.ASCII):
        _refuse(
            f"{name} must be a Unix time in seconds, such as 1764000000.5, not {_quoted(value)}"
        )
    return float(value)


def _optional(found: Mapping[str, str], name: str, read: Callable[[str, str], str]) -> str | None:
    return read(name, found[name]) if name in found else None


def _refuse(why: str) -> NoReturn:
    raise HTTPException(400, why)


def _quoted(value: str) -> str:
    short = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"
    return f"'{printable(short)}'"


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def read(name: str, value: str) -> str:
        if value not in choices:
            _refuse(f"{name} must be one of {', '.join(choices)}, not {_quoted(value)}")
        return value

    return read


_verdict = _one_of(*VERDICTS)


def _glob(what: str) -> Callable[[str, str], str]:
    def read(name: str, value: str) -> str:
        if not value:
            _refuse(f"{name} is empty: it must be {what}")
        return value

    return read


def _whole(least: int, most: int) -> Callable[[str, str], int]:
    def read(name: str, value: str) -> int:
        # Digits of other scripts are digits to Python, and thousands of them too many.
        short = value.isascii() and value.isdecimal() and len(value) <= len(str(most))
        if not short or not least <= int(value) <= most:
            _refuse(f"{name} must be a whole number from {least} to {most}, not {_quoted(value)}")
        return int(value)

    return read


def _protocol(name: str, value: str) -> str:
    number = value.isascii() and value.isdecimal() and len(value) <= 3 and int(value) <= 255
    if not number and value not in _PROTOCOL_NAMES:
        names = ", ".join(_PROTOCOL_NAMES)
        _refuse(f"{name} must be one of {names}, or a number from 0 to 255, not {_quoted(value)}")
    return value


def _network(name: str, value: str) -> Network:
    try:
        # ip_network() accepts netmasks too. They are refused: 10.0.0.0/0.0.0.255 is easily
        # misread.
        if re.fullmatch(r"[0-9a-fA-F.:]+(/[0-9]{1,3})?", value, re.ASCII):
            return ip_network(value, strict=False)
    except ValueError:
        pass
    _refuse(
        f"{name} must be an address, such as 192.0.2.1, or a network, such as 192.0.2.0/24 or"
        f" 2001:db8::/32, not {_quoted(value)}"
    )


FLOW_PARAMETERS: dict[str, Callable[[str, str], Any]] = {
    "limit": _whole(1, 999_999_999),
    "program": _glob("a program's id, tag or entry function, which may be a shell glob"),
    "verdict": _verdict,
    "source": _network,
    "destination": _network,
    "protocol": _protocol,
    "port": _whole(0, 65535),
    "interface": _glob("an interface's name, which may be a shell glob"),
    "netns": _glob("a network namespace's name, which may be a shell glob"),
    "sort": _one_of(*ORDERS),
}
