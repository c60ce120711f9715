# SPDX-License-Identifier: Apache-2.0
"""Strict reading of YAML into frozen dataclasses.

A dataclass declares its keys with `setting`; a `Kind` says what a value may be and reads it. YAML
never guesses a type: the kind at hand decides, so a program called ``no`` or a tag such as
``0123`` stays text. Problems are collected, not raised one by one, and know their line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar, cast

import yaml

from xdpscope.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

S = TypeVar("S", bound=str)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Far above any configuration one writes by hand, far below what makes the composer recurse deeply.
_DEPTH = 16
# A generous bound, so that a path such as /dev/zero ends in an error and not in all of memory.
_MAX_BYTES = 256 * 1024
_MAX_SHOWN = 50

# YAML 1.2's core schema, less octal and hexadecimal: what a plain scalar looks like to a reader.
_LOOKS = {
    "null": re.compile(r"(null|Null|NULL|~|)"),
    "boolean": re.compile(r"(true|True|TRUE|false|False|FALSE)"),
    "integer": re.compile(r"[-+]?[0-9]+"),
    "number": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
}


class Problem(NamedTuple):
    """One thing wrong: its line (from 1), the dotted path of its key, what is allowed."""

    line: int
    path: str
    message: str


class Invalid(Exception):
    """A value, or several below it, is not what its kind allows."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    def under(self, prefix: str) -> Iterator[Problem]:
        """The same problems as seen from one level up."""
        for line, path, message in self.problems:
            dot = "." if path and not path.startswith("[") else ""
            yield Problem(line, f"{prefix}{dot}{path}", message)


class Kind(Protocol[T_co]):
    """What a value may be; ``allowed`` completes the sentence "must be …"."""

    @property
    def allowed(self) -> str: ...

    def read(self, node: yaml.Node) -> T_co:
        """The value of a node. Raises `Invalid`."""
        ...


def read_text(path: Path) -> str:
    """A file's text. Raises `ConfigError`: unreadable, larger than 256 KiB or not UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_BYTES // 1024} KiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = Problem(line, "", f"not UTF-8: {error.reason}")
        raise config_error(str(path), Invalid(problem)) from None


def config_error(name: str, invalid: Invalid, hint: str | None = None) -> ConfigError:
    """One line ``NAME:LINE: KEY: …`` for each problem."""
    problems = sorted(invalid.problems, key=lambda problem: problem.line)
    lines = [": ".join(filter(None, (f"{name}:{p.line}", p.path, p.message))) for p in problems]
    if len(lines) > _MAX_SHOWN:
        lines[_MAX_SHOWN:] = [f"{name}: … and {len(lines) - _MAX_SHOWN} more problems"]
    return ConfigError("\n".join(lines), hint=hint)


class _Composer(yaml.BaseLoader):
    """Composes nodes without typing them, and refuses what a configuration has no use for.

    An alias makes a small file arbitrarily large, a tag names a type to construct, and deep nesting
    exhausts the stack of a composer that recurses.
    """

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, "aliases are not supported")
        if (
            isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
            and event.tag is not None
        ):
            self._refuse(event, f"tags such as {event.tag!r:.60} are not supported")
        self._depth += 1
        if self._depth > _DEPTH:
            self._refuse(event, f"nested more than {_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    @staticmethod
    def _refuse(event: yaml.Event, problem: str) -> NoReturn:
        mark = cast("yaml.Mark", event.start_mark)
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def compose(text: str) -> yaml.Node | None:
    """The one document's root node, or None where there is none. Raises `Invalid`."""
    try:
        loader = _Composer(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        message = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        raise Invalid(Problem(mark.line + 1 if mark else 1, "", message)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Invalid(Problem(line, "", f"{error.reason}: {error.character!r}")) from None
    except (ValueError, OverflowError) as error:
        # PyYAML lets int() and chr() speak for an absurd %YAML version or "\U" escape.
        raise Invalid(Problem(1, "", "an escape or a %YAML version is out of range")) from error


def looks_like(node: yaml.Node) -> str:
    """The type a reader would take a node for; a quoted scalar is always text."""
    if isinstance(node, yaml.MappingNode):
        return "mapping"
    if isinstance(node, yaml.SequenceNode):
        return "list"
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        for name, pattern in _LOOKS.items():
            if pattern.fullmatch(node.value):
                return name
    return "text"


def line_of(node: yaml.Node) -> int:
    """The line on which a node starts, from 1."""
    return cast("int", node.start_mark.line) + 1


def line_at(root: yaml.Node | None, *keys: str) -> int:
    """The line of the key that this path leads to, or of the nearest above it that there is."""
    line = 1 if root is None else line_of(root)
    for wanted in keys:
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        for key, value in pairs:
            if isinstance(key, yaml.ScalarNode) and key.value == wanted:
                line, root = line_of(key), value
                break
        else:
            break
    return line


def _shown(node: yaml.Node) -> str:
    looks = looks_like(node)
    if looks in ("mapping", "list"):
        return f"a {looks}"
    if looks == "null":
        return "empty"
    text = repr(node.value) if looks == "text" else str(node.value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def refuse(node: yaml.Node, allowed: str, reason: str = "") -> Invalid:
    """The error for a node that is not what is allowed."""
    why = f" ({reason})" if reason else ""
    return Invalid(Problem(line_of(node), "", f"must be {allowed}, not {_shown(node)}{why}"))


def closest(word: str, known: list[str]) -> str:
    """A suggestion where a known word is near, nothing otherwise."""
    near = get_close_matches(word.lower()[:40], known, n=1)
    return f"did you mean {near[0]}?" if near else ""


@dataclass(frozen=True)
class Scalar(Generic[T]):
    """A single value. ``convert`` raises ValueError, whose text is shown as the reason."""

    allowed: str
    convert: Callable[[str], T]
    looks: tuple[str, ...] = ("text",)

    def read(self, node: yaml.Node) -> T:
        if looks_like(node) not in self.looks:
            raise refuse(node, self.allowed)
        try:
            return self.convert(node.value)
        except ValueError as error:
            raise refuse(node, self.allowed, str(error)) from None


def choice(*names: S) -> Kind[S]:
    """One of these words."""

    def convert(text: str) -> S:
        for name in names:
            if text == name:
                return name
        raise ValueError(closest(text, list(names)))

    return Scalar(f"one of {', '.join(names)}", convert)


def printable_text(text: str) -> str:
    """The text itself. Raises ValueError: it is empty, or not all of it would show."""
    if not text or not text.isprintable():
        raise ValueError("empty, or with unprintable characters")
    return text


SWITCH: Kind[bool] = Scalar("true or false", lambda text: text.lower() == "true", ("boolean",))


@dataclass(frozen=True)
class OrNull(Generic[T]):
    """A value that may be null."""

    kind: Kind[T]

    @property
    def allowed(self) -> str:
        return f"{self.kind.allowed}, or null"

    def read(self, node: yaml.Node) -> T | None:
        if looks_like(node) == "null":
            return None
        try:
            return self.kind.read(node)
        except Invalid:
            raise refuse(node, self.allowed) from None


@dataclass(frozen=True)
class ListOf(Generic[T]):
    """A list whose items are all of one kind."""

    allowed: str
    item: Kind[T]

    def read(self, node: yaml.Node) -> tuple[T, ...]:
        if not isinstance(node, yaml.SequenceNode):
            raise refuse(node, self.allowed)
        values: list[T] = []
        problems: list[Problem] = []
        for index, item in enumerate(node.value):
            try:
                values.append(self.item.read(item))
            except Invalid as invalid:
                problems += invalid.under(f"[{index}]")
        if problems:
            raise Invalid(*problems)
        return tuple(values)


@dataclass(frozen=True)
class Section(Generic[T]):
    """A mapping whose keys are the fields of a dataclass declared with `setting`."""

    type: type[T]

    @property
    def kinds(self) -> dict[str, Kind[Any]]:
        return {each.name: each.metadata["kind"] for each in fields(cast("Any", self.type))}

    @property
    def allowed(self) -> str:
        return f"a mapping with keys among {', '.join(self.kinds)}"

    def read(self, node: yaml.Node) -> T:
        # A section whose every line is commented out is null, and as good as absent.
        if looks_like(node) == "null":
            return self.type()
        if not isinstance(node, yaml.MappingNode):
            raise refuse(node, self.allowed)
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, shown = _named(key)
            try:
                if name in seen:
                    twice = f"is given twice, first on line {seen[name]}"
                    raise Invalid(Problem(line_of(key), "", twice))
                seen[name] = line_of(key)
                if name not in self.kinds:
                    raise Invalid(Problem(line_of(key), "", self._unknown(name)))
                values[name] = self.kinds[name].read(value)
            except Invalid as invalid:
                problems += invalid.under(shown)
        if problems:
            raise Invalid(*problems)
        return self.type(**values)

    def _unknown(self, name: str) -> str:
        parts = ("unknown key", closest(name, list(self.kinds)))
        return f"{', '.join(filter(None, parts))} (allowed: {', '.join(self.kinds)})"


@dataclass(frozen=True)
class MappingOf(Generic[T]):
    """A mapping with keys of the user's choice, read as pairs.

    ``kind_of`` has the kind of a key's value, and raises ValueError, which says what a key may be.
    """

    allowed: str
    kind_of: Callable[[str], Kind[T]]

    def read(self, node: yaml.Node) -> tuple[tuple[str, T], ...]:
        if looks_like(node) == "null":
            return ()
        if not isinstance(node, yaml.MappingNode):
            raise refuse(node, self.allowed)
        values: dict[str, T] = {}
        problems: list[Problem] = []
        for key, value in node.value:
            name, shown = _named(key)
            try:
                if name in values:
                    raise Invalid(Problem(line_of(key), "", "is given twice"))
                values[name] = self.kind_of(name).read(value)
            except Invalid as invalid:
                problems += invalid.under(shown)
            except ValueError as error:
                problems.append(Problem(line_of(key), shown, str(error)))
        if problems:
            raise Invalid(*problems)
        return tuple(values.items())


def _named(key: yaml.Node) -> tuple[str, str]:
    """A key's name, and how a message shows it."""
    name = key.value if isinstance(key, yaml.ScalarNode) else f"({looks_like(key)} as key)"
    return name, name if re.fullmatch(r"[\w-]{1,60}", name) else f"{name!r:.60}"


def setting(kind: Kind[T], default: str, doc: str) -> T:
    """A dataclass field: its kind, its default as one would write it in YAML, what it is for.

    All three stay in the field's metadata, from which the reference is generated; and as the
    default is read by its own kind, it cannot be one that a user may not write.
    """
    node = compose(default)
    assert node is not None, "a default is never empty"  # noqa: S101 - ours, at import
    metadata = {"kind": kind, "default": default, "doc": doc}
    return field(default=kind.read(node), metadata=metadata)
