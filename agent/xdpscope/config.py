# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009 - setting() gives a dataclass field, and is a call only for that
"""The configuration: YAML read into frozen dataclasses, or an error that lists every problem.

Durations are held as float seconds. They are written as a number and a unit (``500ms``, ``5s``,
``1m``, ``1h``); a bare number is refused, because readers disagree on what it would count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from xdpscope._globs import doubt
from xdpscope._settings import (
    SWITCH,
    Invalid,
    Kind,
    ListOf,
    OrNull,
    Scalar,
    Section,
    choice,
    compose,
    config_error,
    printable_text,
    read_text,
    setting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Config",
    "ConfigWarning",
    "Discovery",
    "Flows",
    "Listen",
    "Log",
    "Programs",
    "Selection",
    "State",
    "load",
    "parse",
    "warnings",
]

_QUOTING = 'quote a value that begins with one of * [ { & ! % @ `, as in "*" or "[::1]:10091"'
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LABEL = r"\w(?:[\w-]{0,61}\w)?"
_HOSTNAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", text)
    if not match:
        raise ValueError
    number, unit = match.groups()
    # Dividing keeps 100ms the float nearest to 0.1, which multiplying by 0.001 does not promise.
    return float(number) / 1000 if unit == "ms" else float(number) * _UNITS[unit]


def _duration(least: str, most: str) -> Kind[float]:
    low, high = _seconds(least), _seconds(most)

    def convert(text: str) -> float:
        seconds = _seconds(text)
        if not low <= seconds <= high:
            raise ValueError
        return seconds

    return Scalar(f"a duration from {least} to {most}, such as 500ms, 5s or 1m", convert)


def _whole(least: int, most: int) -> Kind[int]:
    def convert(text: str) -> int:
        # Python itself refuses to convert thousands of digits, with a message of its own.
        if len(text) > 20 or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return Scalar(f"a whole number from {least} to {most}", convert, looks=("integer",))


def _absolute(text: str) -> Path:
    if not printable_text(text).startswith("/"):
        raise ValueError
    return Path(text)


_GLOB = Scalar("a shell glob, a number or a tag", printable_text, ("text", "integer", "number"))
_GLOBS = ListOf('a list of shell globs, such as ["xdp_*"]', _GLOB)
_FILE = OrNull(Scalar("a path", lambda text: Path(printable_text(text))))
_DIRECTORY = OrNull(Scalar("an absolute path", _absolute))


@dataclass(frozen=True)
class Listen:
    """Where to listen. An empty host means every address, IPv4 and IPv6; port 0 a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Listen:
        """Read ``HOST:PORT``, ``[IPV6]:PORT`` or ``:PORT``. Raises ValueError, saying why."""
        match = re.fullmatch(r"(?:\[([^\]]*)\]|([^\[\]]*)):([0-9]{1,5})", text)
        if not match:
            raise ValueError("no port" if ":" not in text else "")
        bracketed, host, port = match.group(1), match.group(2) or "", int(match.group(3))
        if port > 65535:
            raise ValueError("the port is above 65535")
        if bracketed is not None:
            if ":" not in bracketed:
                raise ValueError("only an IPv6 address has brackets")
            host = str(ip_address(bracketed))
        elif ":" in host:
            raise ValueError("an IPv6 address needs brackets")
        elif re.fullmatch(r"[0-9.]+", host):
            ip_address(host)
        elif host and not _HOSTNAME.fullmatch(host):
            raise ValueError("not a host name")
        return cls(host, port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_LISTEN = Scalar("HOST:PORT, such as 127.0.0.1:10091 or '[::1]:10091'", Listen.parse)


@dataclass(frozen=True)
class Selection:
    """Names to observe: those that match ``include``, less those that match ``exclude``."""

    include: tuple[str, ...] = setting(_GLOBS, '["*"]', "Observe what matches one of these.")
    exclude: tuple[str, ...] = setting(_GLOBS, "[]", "Of those, leave out what matches one.")

    def admits(self, *names: str) -> bool:
        """Whether a thing known by all these names (entry function, id, tag) is observed."""

        return _any_matches(self.include, names) and not _any_matches(self.exclude, names)


@dataclass(frozen=True)
class Programs(Selection):
    """Programs to observe, and when."""

    arm: bool = setting(
        SWITCH, "true", "Attach to a program as soon as it is loaded, so that no packet is missed."
    )


# Of every interface and program, at each look and each scrape.
@lru_cache(maxsize=8192)
def _any_matches(globs: tuple[str, ...], names: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs for name in names)


@dataclass(frozen=True)
class Discovery:
    """How programs are found."""

    interval: float = setting(
        _duration("100ms", "1h"), "5s", "Time between two full looks at the host, beside events."
    )
    netns: Literal["all", "host"] = setting(
        choice("all", "host"), "all", "Every network namespace, or only the agent's own."
    )


@dataclass(frozen=True)
class Flows:
    """Counts by flow."""

    enabled: bool = setting(SWITCH, "true", "Count packets and bytes by flow.")
    max_entries: int = setting(
        _whole(1, 2**24), "65536", "Flows held at once; beyond it the idlest join `other`."
    )
    top: int = setting(
        _whole(0, 100_000), "500", "Flows with a series of their own, over the whole agent."
    )
    sample_rate: int = setting(
        _whole(1, 1_000_000), "1", "Account one packet in this many to its flow; 1 means each."
    )
    idle_timeout: float = setting(
        _duration("1s", "24h"), "60s", "A flow without packets for this long joins `other`."
    )


@dataclass(frozen=True)
class State:
    """What outlives the agent."""

    pin_path: Path | None = setting(
        _DIRECTORY, "null", "A directory on a bpffs; with it counts survive a restart."
    )


@dataclass(frozen=True)
class Log:
    """The agent's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        choice("debug", "info", "warning", "error"), "info", "The least severe level to write."
    )
    format: Literal["auto", "console", "json"] = setting(
        choice("auto", "console", "json"), "auto", "auto is console on a terminal, else json."
    )


@dataclass(frozen=True)
class Config:
    """The whole configuration; ``Config()`` is the default one."""

    listen: Listen = setting(
        _LISTEN, "127.0.0.1:10091", "The address of metrics and page; :PORT means all addresses."
    )
    web_config: Path | None = setting(
        _FILE, "null", "exporter-toolkit's web-config.yml: TLS, client certificates, basic auth."
    )
    programs: Programs = setting(
        Section(Programs), "{}", "Which programs, by entry function name, id or tag."
    )
    interfaces: Selection = setting(Section(Selection), "{}", "Which interfaces, by name.")
    discovery: Discovery = setting(Section(Discovery), "{}", "How programs are found.")
    flows: Flows = setting(Section(Flows), "{}", "Counts by flow.")
    state: State = setting(Section(State), "{}", "What outlives the agent.")
    log: Log = setting(Section(Log), "{}", "The agent's own log, on standard error.")


class ConfigWarning(NamedTuple):
    """A setting that is allowed, but hardly meant: the path of its key, and why."""

    key: str
    problem: str

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}"


def warnings(config: Config) -> list[ConfigWarning]:
    """Return the settings that are allowed, but hardly meant."""
    return [
        *_warnings("programs", config.programs, of_interfaces=False),
        *_warnings("interfaces", config.interfaces, of_interfaces=True),
    ]


def _warnings(key: str, selection: Selection, of_interfaces: bool) -> Iterator[ConfigWarning]:
    if not selection.include:
        yield ConfigWarning(f"{key}.include", "is empty: nothing is observed")
    if "*" in selection.exclude:
        yield ConfigWarning(f"{key}.exclude", "'*' matches all: nothing is observed")
    for name in ("include", "exclude"):
        for index, glob in enumerate(getattr(selection, name)):
            problem = doubt(glob, of_interfaces)
            if problem:
                yield ConfigWarning(f"{key}.{name}[{index}]", f"'{glob}' {problem}")


def parse(text: str, name: str) -> Config:
    """Read a configuration from YAML; ``name`` is what errors call it.

    Raises `ConfigError` with a line ``NAME:LINE: KEY: …`` for each problem there is.
    """
    try:
        node = compose(text)
    except Invalid as invalid:
        raise config_error(name, invalid, hint=_hint(invalid)) from None
    try:
        return Config() if node is None else Section(Config).read(node)
    except Invalid as invalid:
        raise config_error(name, invalid) from None


def _hint(invalid: Invalid) -> str:
    """Return what helps most often against text that is not YAML."""
    if any(r"'\t'" in problem.message for problem in invalid.problems):
        return "use spaces: YAML allows no tab there"
    return _QUOTING


def load(path: Path | None) -> Config:
    """Read a configuration file; None gives the defaults. ``web_config`` is seen from the file.

    Raises `ConfigError` as `parse` does, and for a file that cannot be read, is larger than
    256 KiB or is not UTF-8.
    """
    if path is None:
        return Config()
    config = parse(read_text(path), str(path))
    if config.web_config is None:
        return config
    return replace(config, web_config=path.parent / config.web_config)
