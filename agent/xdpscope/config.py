# SPDX-License-Identifier: Apache-2.0
"""The configuration: YAML read into frozen dataclasses, or an error that lists every problem.

The type of a field defines the values of its key. Its metadata describes the key, and says whether
a change needs a restart.

Durations are float seconds. They are written as a number and a unit (``500ms``, ``5s``, ``1m``,
``1h``). A bare number is refused, because its unit is not obvious.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from xdpscope._globs import doubt
from xdpscope._schema import Container, Scalar, key, printable_text, structure
from xdpscope._yaml import compose, read_text

__all__ = [
    "Budget",
    "Config",
    "ConfigWarning",
    "Discovery",
    "Flows",
    "GlobFilter",
    "Latency",
    "Listen",
    "Log",
    "Outcomes",
    "Programs",
    "State",
    "load",
    "needing_restart",
    "parse",
    "warnings",
]

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


def _duration(least: str, most: str) -> Scalar:
    low, high = _seconds(least), _seconds(most)

    def convert(text: str) -> float:
        seconds = _seconds(text)
        if not low <= seconds <= high:
            raise ValueError
        return seconds

    return Scalar(f"a duration from {least} to {most}, such as 500ms, 5s or 1m", convert)


def _whole(least: int, most: int) -> Scalar:
    def convert(text: str) -> int:
        # Python itself refuses to convert thousands of digits, with a message of its own.
        if len(text) > 20 or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return Scalar(f"a whole number from {least} to {most}", convert, looks=("integer",))


def _percent(least: float, most: int) -> Scalar:
    def convert(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
            raise ValueError
        if not least <= float(text) <= most:
            raise ValueError
        return float(text)

    return Scalar(f"a number from {least} to {most}", convert, looks=("integer", "number"))


def _absolute(text: str) -> Path:
    if not printable_text(text).startswith("/"):
        raise ValueError
    return Path(text)


_Glob = Annotated[
    str, Scalar("a shell glob, a number or a tag", printable_text, ("text", "integer", "number"))
]
_Globs = Annotated[tuple[_Glob, ...], Container('a list of shell globs, such as ["xdp_*"]')]
_File = Annotated[Path, Scalar("a path", lambda text: Path(printable_text(text)))]
_Directory = Annotated[Path, Scalar("an absolute path", _absolute)]


@dataclass(frozen=True)
class Listen:
    """The address to listen on. An empty host means every address, IPv4 and IPv6; port 0 means any
    free port.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
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


_Address = Annotated[
    Listen, Scalar("HOST:PORT, such as 127.0.0.1:10091 or '[::1]:10091'", Listen.parse)
]


@dataclass(frozen=True)
class GlobFilter:
    """Names to observe: those that match ``include``, less those that match ``exclude``."""

    include: _Globs = field(
        default=("*",), metadata=key("Observe what matches one of these.", restart=False)
    )
    exclude: _Globs = field(
        default=(), metadata=key("Of those, leave out what matches one.", restart=False)
    )

    def admits(self, *names: str) -> bool:
        """Return whether a thing known by all these names (entry function, id, tag) is observed."""

        return _any_matches(self.include, names) and not _any_matches(self.exclude, names)


@dataclass(frozen=True)
class Programs(GlobFilter):
    """Programs to observe, and when."""

    arm: bool = field(
        default=True,
        metadata=key(
            "Attach to a program as soon as it is loaded, so that no packet is missed.",
            restart=False,
        ),
    )
    expected: _Globs = field(
        default=(),
        metadata=key(
            "Programs that this host should have; an alert reports others. Empty: any.",
            restart=False,
        ),
    )

    def expects(self, *names: str) -> bool | None:
        """Return whether a program known by all these names is expected; None: no list is set."""
        return _any_matches(self.expected, names) if self.expected else None


# Called for every interface and program, at each scan and each scrape.
@lru_cache(maxsize=8192)
def _any_matches(globs: tuple[str, ...], names: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs for name in names)


@dataclass(frozen=True)
class Discovery:
    """The section ``discovery``: how programs are found."""

    interval: Annotated[float, _duration("100ms", "1h")] = field(
        default=5.0,
        metadata=key("Time between two full scans of the host, beside events.", restart=False),
    )
    netns: Literal["all", "host"] = field(
        default="all",
        metadata=key("Every network namespace, or only the agent's own.", restart=False),
    )


@dataclass(frozen=True)
class Flows:
    """Counts by flow."""

    enabled: bool = field(
        default=True, metadata=key("Count packets and bytes by flow.", restart=True)
    )
    max_entries: Annotated[int, _whole(1, 2**24)] = field(
        default=65536,
        metadata=key("Flows held at once; beyond it the idlest join `other`.", restart=True),
    )
    top: Annotated[int, _whole(0, 100_000)] = field(
        default=500,
        metadata=key("Flows with a series of their own, over the whole agent.", restart=False),
    )
    sample_rate: Annotated[int, _whole(1, 1_000_000)] = field(
        default=1,
        metadata=key("Account one packet in this many to its flow; 1 means each.", restart=True),
    )
    idle_timeout: Annotated[float, _duration("1s", "24h")] = field(
        default=60.0,
        metadata=key("A flow without packets for this long joins `other`.", restart=False),
    )


@dataclass(frozen=True)
class Latency:
    """The time that packets spend inside a program."""

    enabled: bool = field(
        default=False,
        metadata=key("Count packets by the time that they spend in a program.", restart=False),
    )
    sample_rate: Annotated[int, _whole(1, 1_000_000)] = field(
        default=1,
        metadata=key("Measure one packet in this many; 1 means each.", restart=False),
    )


@dataclass(frozen=True)
class Outcomes:
    """What happened to packets after the verdict."""

    enabled: bool = field(
        default=True,
        metadata=key(
            "Count exceptions, failed redirects and drops from the kernel's xdp:* tracepoints,"
            " report AF_XDP sockets with the packets that they drop, and the maps that XDP programs"
            " use.",
            restart=False,
        ),
    )


@dataclass(frozen=True)
class Budget:
    """A limit for what observing costs."""

    cpu_percent: Annotated[float, _percent(0.1, 100_000)] | None = field(
        default=None,
        metadata=key(
            "CPU time of the agent and its tracers, in percent of one CPU. Above it, flows are"
            " sampled harder, then off. Verdicts stay exact.",
            restart=False,
        ),
    )


@dataclass(frozen=True)
class State:
    """The section ``state``: data that outlives the agent."""

    pin_path: _Directory | None = field(
        default=None,
        metadata=key("A directory on a bpffs; with it counts survive a restart.", restart=True),
    )


@dataclass(frozen=True)
class Log:
    """The agent's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata=key("The least severe level to write.", restart=False)
    )
    format: Literal["auto", "console", "json"] = field(
        default="auto",
        metadata=key("auto is console on a terminal, else json.", restart=True),
    )


@dataclass(frozen=True)
class Config:
    """The whole configuration; ``Config()`` is the default one."""

    listen: _Address = field(
        default=Listen("127.0.0.1", 10091),
        metadata=key("The address of metrics and page; :PORT means all addresses.", restart=True),
    )
    web_config: _File | None = field(
        default=None,
        metadata=key(
            "exporter-toolkit's web-config.yml: TLS, client certificates, basic auth.", restart=True
        ),
    )
    programs: Programs = field(
        default_factory=Programs,
        metadata={"doc": "Which programs, by entry function name, id or tag."},
    )
    interfaces: GlobFilter = field(
        default_factory=GlobFilter, metadata={"doc": "Which interfaces, by name."}
    )
    discovery: Discovery = field(
        default_factory=Discovery, metadata={"doc": "How programs are found."}
    )
    flows: Flows = field(default_factory=Flows, metadata={"doc": "Counts by flow."})
    latency: Latency = field(
        default_factory=Latency,
        metadata={"doc": "The time that packets spend inside a program."},
    )
    outcomes: Outcomes = field(
        default_factory=Outcomes,
        metadata={"doc": "What happened to packets after the verdict."},
    )
    budget: Budget = field(
        default_factory=Budget, metadata={"doc": "A limit for what observing costs."}
    )
    state: State = field(default_factory=State, metadata={"doc": "What outlives the agent."})
    log: Log = field(
        default_factory=Log, metadata={"doc": "The agent's own log, on standard error."}
    )


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


def _warnings(key: str, selection: GlobFilter, of_interfaces: bool) -> Iterator[ConfigWarning]:
    if not selection.include:
        yield ConfigWarning(f"{key}.include", "is empty: nothing is observed")
    if "*" in selection.exclude:
        yield ConfigWarning(f"{key}.exclude", "'*' matches all: nothing is observed")
    for name in ("include", "exclude", *(() if of_interfaces else ("expected",))):
        for index, glob in enumerate(getattr(selection, name)):
            problem = doubt(glob, of_interfaces)
            if problem:
                yield ConfigWarning(f"{key}.{name}[{index}]", f"'{glob}' {problem}")


def needing_restart(old: object, new: object, path: str = "") -> Iterator[str]:
    """Yield the paths of the keys that differ and take effect only after a restart."""
    assert is_dataclass(old)  # noqa: S101 - a configuration or a section of it
    for each in fields(old):
        before, after = getattr(old, each.name), getattr(new, each.name)
        if "restart" not in each.metadata:
            yield from needing_restart(before, after, f"{path}{each.name}.")
        elif each.metadata["restart"] and before != after:
            yield f"{path}{each.name}"


def parse(text: str, name: str) -> Config:
    """Read a configuration from YAML; ``name`` is what errors call it.

    Raises `ConfigError` with a line ``NAME:LINE: KEY: …`` for each problem.
    """
    return structure(compose(text, name), Config, name)


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
