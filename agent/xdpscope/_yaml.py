# SPDX-License-Identifier: Apache-2.0
"""Read YAML without guessing types, and remember where each value is.

A `Document` consists of mappings, lists and `Text`. A scalar stays text: the key it belongs to
decides its type, so a program called ``no`` or a tag such as ``0123`` stays as it is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeAlias, TypeVar, cast

import yaml

from xdpscope.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Document", "Items", "Keys", "Problem", "Text", "Value", "below", "read_text"]

# Far above any configuration one writes by hand, far below what makes the composer recurse deeply.
_DEPTH = 16
# A generous bound, so that a path such as /dev/zero ends in an error and not in all of memory.
_MAX_BYTES = 256 * 1024
_MAX_SHOWN = 50

_QUOTING = 'quote a value that begins with one of * [ { & ! % @ `, as in "*" or "[::1]:10091"'

# YAML 1.2's core schema, less octal and hexadecimal: what a plain scalar looks like to a reader.
_LOOKS = {
    "null": re.compile(r"(null|Null|NULL|~|)"),
    "boolean": re.compile(r"(true|True|TRUE|false|False|FALSE)"),
    "integer": re.compile(r"[-+]?[0-9]+"),
    "number": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
}


class _Located:
    """Where a value starts (line from 1, column from 0), and the type a reader takes it for."""

    line = 1
    column = 0
    looks = "null"


class Text(_Located, str):
    """A scalar, or a key of a mapping. A quoted scalar always looks like text."""


class Items(_Located, list["Value"]):
    """A list."""


class Keys(_Located, dict[str, "Value"]):
    """A mapping. Each of its keys is a `Text`."""


Value: TypeAlias = Text | Items | Keys
_V = TypeVar("_V", bound=_Located)


class Problem(NamedTuple):
    """One error: where it is, the dotted path of its key, and what is allowed."""

    line: int
    column: int
    path: str
    message: str

    @classmethod
    def at(cls, value: _Located, path: str, message: str) -> Problem:
        """Return a problem with a value."""
        return cls(value.line, value.column, path, message)


@dataclass(frozen=True)
class Document:
    """A file's content, and a problem for each key that is given again."""

    name: str
    root: Value
    repeated: list[Problem]

    @classmethod
    def parse(cls, text: str, name: str) -> Document:
        """Read a text; ``name`` is what errors call it.

        Raises `ConfigError`: the text is not YAML, or uses aliases, tags or several documents.
        """
        node = _compose(text, name)
        repeated: list[Problem] = []
        return cls(name, Text() if node is None else _value(node, "", repeated), repeated)

    def error(self, problems: list[Problem]) -> ConfigError:
        """Return the error that lists these problems."""
        return _error(self.name, problems)

    def error_at(self, keys: tuple[str, ...], message: str) -> ConfigError:
        """Return the error about a key. Without that key, its line is that of a key above it."""
        here: _Located = self.root
        value: Value | None = self.root
        for wanted in keys:
            if not isinstance(value, Keys) or wanted not in value:
                break
            here = next(key for key in value if isinstance(key, Text) and key == wanted)
            value = value[wanted]
        return _error(self.name, [Problem.at(here, ".".join(keys), message)])


def read_text(path: Path) -> str:
    """Return a file's text. Raises `ConfigError`: unreadable, larger than 256 KiB or not UTF-8."""
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
        problem = Problem(line, 0, "", f"not UTF-8: {error.reason}")
        raise _error(str(path), [problem]) from None


def below(path: str, key: str | int) -> str:
    """Return the path of a key or an item that is below another path."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    shown = str(key) if re.fullmatch(r"[\w-]{1,60}", key) else f"{str(key)!r:.60}"
    return f"{path}.{shown}" if path else shown


def _error(name: str, problems: list[Problem], hint: str | None = None) -> ConfigError:
    """Return an error with one line ``NAME:LINE: KEY: …`` for each problem, in the file's order."""
    lines = [
        ": ".join(filter(None, (f"{name}:{line}", path, message)))
        for line, _, path, message in sorted(problems)
    ]
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


def _compose(text: str, name: str) -> yaml.Node | None:
    """Return the root node of the only document, or None if there is none."""
    try:
        loader = _Composer(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        message = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
    except yaml.reader.ReaderError as error:
        message = f"{error.reason}: {error.character!r}"
        line = text.count("\n", 0, error.position) + 1
    except (ValueError, OverflowError):
        # PyYAML lets int() and chr() speak for an absurd %YAML version or "\U" escape.
        message, line = "an escape or a %YAML version is out of range", 1
    hint = "use spaces: YAML allows no tab there" if r"'\t'" in message else _QUOTING
    raise _error(name, [Problem(line, 0, "", message)], hint=hint)


def _value(node: yaml.Node, path: str, repeated: list[Problem]) -> Value:
    """Return a node's value. A key that is given twice becomes a problem; its first value stays."""
    value: Value
    if isinstance(node, yaml.MappingNode):
        value, looks = Keys(), "mapping"
        first: dict[str, Text] = {}
        for key_node, value_node in node.value:
            key = _text(key_node)
            where = below(path, key)
            if key in first:
                twice = f"is given twice, first on line {first[key].line}"
                repeated.append(Problem.at(key, where, twice))
                continue
            first[key] = key
            value[key] = _value(value_node, where, repeated)
    elif isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        value, looks = Items(_value(item, below(path, n), repeated) for n, item in items), "list"
    else:
        return _text(node)
    value.looks = looks
    return _located(value, node)


def _text(node: yaml.Node) -> Text:
    """Return the text of a scalar. A key that is no scalar becomes a text that no key is named."""
    if not isinstance(node, yaml.ScalarNode):
        looks = "mapping" if isinstance(node, yaml.MappingNode) else "list"
        text = Text(f"({looks} as key)")
        text.looks = looks
        return _located(text, node)
    text = Text(node.value)
    matching = (name for name, pattern in _LOOKS.items() if pattern.fullmatch(text))
    text.looks = "text" if node.style is not None else next(matching, "text")
    return _located(text, node)


def _located(value: _V, node: yaml.Node) -> _V:
    value.line, value.column = node.start_mark.line + 1, node.start_mark.column
    return value
