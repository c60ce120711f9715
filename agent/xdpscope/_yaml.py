# SPDX-License-Identifier: Apache-2.0
"""Read YAML into nodes, which know their lines, and list the errors in it.

A scalar stays text. The key that it belongs to decides its type. So a program called ``no`` or a
tag such as ``0123`` stays as it is written.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

import yaml

from xdpscope.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Problem", "compose", "config_error", "looks_like", "nearest", "position", "read_text"]

# Far above any configuration one writes by hand, far below what makes the composer recurse deeply.
_DEPTH = 16
# A generous bound, so that a path such as /dev/zero ends in an error and not in all of memory.
_MAX_BYTES = 256 * 1024
_MAX_SHOWN = 50
_START = yaml.Mark("", 0, 0, 0, None, 0)

_QUOTING = 'quote a value that begins with one of * [ { & ! % @ `, as in "*" or "[::1]:10091"'

# YAML 1.2's core schema, without octal and hexadecimal: the type that a reader takes a plain
# scalar for.
_LOOKS = {
    "null": re.compile(r"(null|Null|NULL|~|)"),
    "boolean": re.compile(r"(true|True|TRUE|false|False|FALSE)"),
    "integer": re.compile(r"[-+]?[0-9]+"),
    "number": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"),
}


class Problem(NamedTuple):
    """One error: its line from 1 and its column, the dotted path of its key, and the allowed
    values.
    """

    line: int
    column: int
    path: str
    message: str


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
        raise config_error(str(path), [problem]) from None


def config_error(name: str, problems: list[Problem], hint: str | None = None) -> ConfigError:
    """Return an error with one line ``NAME:LINE: KEY: …`` for each problem, in the file's order."""
    lines = [
        ": ".join(filter(None, (f"{name}:{line}", path, message)))
        for line, _, path, message in sorted(problems)
    ]
    if len(lines) > _MAX_SHOWN:
        lines[_MAX_SHOWN:] = [f"{name}: … and {len(lines) - _MAX_SHOWN} more problems"]
    return ConfigError("\n".join(lines), hint=hint)


class _Composer(yaml.BaseLoader):
    """Composes nodes without types, and refuses YAML that no configuration needs.

    An alias makes a small file arbitrarily large. A tag names a type to construct. Deep nesting
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


def compose(text: str, name: str) -> yaml.Node:
    """Return the root node of the only document; ``name`` is what errors call it.

    Raises `ConfigError`: the text is not YAML, or uses aliases, tags or several documents.
    """
    try:
        loader = _Composer(text)
        try:
            return loader.get_single_node() or yaml.ScalarNode("", "", _START)
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
    raise config_error(name, [Problem(line, 0, "", message)], hint=hint)


def looks_like(node: yaml.Node) -> str:
    """Return the type a reader takes a node for; a quoted scalar is always text."""
    if isinstance(node, yaml.MappingNode):
        return "mapping"
    if isinstance(node, yaml.SequenceNode):
        return "list"
    matching = (name for name, pattern in _LOOKS.items() if pattern.fullmatch(node.value))
    return "text" if cast("yaml.ScalarNode", node).style else next(matching, "text")


def position(node: yaml.Node) -> tuple[int, int]:
    """Return the line (from 1) and the column at which a node starts."""
    return node.start_mark.line + 1, node.start_mark.column


def nearest(node: yaml.Node, keys: tuple[str, ...]) -> tuple[int, int]:
    """Return the position of the key with this path, or of the last key on the path to it."""
    here = position(node)
    for wanted in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in pairs if pair[0].value == wanted), None)
        if found is None:
            break
        here, node = position(found[0]), found[1]
    return here
