# SPDX-License-Identifier: Apache-2.0
"""Declare what configuration keys may be, and read YAML into frozen dataclasses.

cattrs builds the dataclasses and collects all errors. This module adds the declarations (`Scalar`,
`Container`, inside of ``Annotated``) and the messages. cattrs ignores ``Annotated`` in annotations
that are strings: a module with such dataclasses must not import ``annotations`` from the future.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from cattrs import BaseValidationError, Converter
from cattrs.errors import AttributeValidationNote, ClassValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn

from xdpscope._yaml import Problem, config_error, looks_like, position

__all__ = [
    "Container",
    "Scalar",
    "choice",
    "declared",
    "key",
    "known",
    "printable_text",
    "structure",
]

T = TypeVar("T")


class _RefusedError(Exception):
    """A value cannot be used, or a key in it: where it is, the path to it, and the message."""

    def __init__(self, node: yaml.Node, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.at, self.name = position(node), name


@dataclass(frozen=True)
class Scalar:
    """The rule of a single value.

    ``allowed`` completes the sentence "must be …". ``convert`` raises ValueError, and its text is
    shown as the reason. ``looks`` has the types for which a reader may mistake the value. No
    message shows a value that is ``secret``.
    """

    allowed: str
    convert: Callable[[str], object]
    looks: tuple[str, ...] = ("text",)
    secret: bool = False
    null: bool = False

    def read(self, node: yaml.Node) -> object:
        """Return the value of a node."""
        looks = looks_like(node)
        if self.null and looks == "null":
            return None
        reason = ""
        if looks in self.looks:
            try:
                return self.convert(node.value)
            except ValueError as error:
                reason = f" ({error})" if str(error) else ""
        but = "" if self.secret else f", not {_shown(node)}{reason}"
        raise _RefusedError(node, f"must be {self.allowed}{but}")


@dataclass(frozen=True)
class Container:
    """The rule of a list or a mapping; ``allowed`` completes the sentence "must be …".

    ``check`` raises ValueError with a message about a key that the mapping must not have.
    """

    allowed: str
    check: Callable[[str], object] = bool


def key(doc: str, *, restart: bool) -> Mapping[str, object]:
    """Return the metadata of a field: what the key is for, and if a change needs a restart."""
    return {"doc": doc, "restart": restart}


def printable_text(text: str) -> str:
    """Return the text. Raises ValueError: it is empty, or not all of it would show."""
    if not text or not text.isprintable():
        raise ValueError("empty, or with unprintable characters")
    return text


def _closest(word: str, names: tuple[str, ...]) -> str:
    """Return a suggestion if a known word is similar, else an empty text."""
    near = get_close_matches(word.lower()[:40], names, n=1)
    return f"did you mean {near[0]}?" if near else ""


_SWITCH = Scalar("true or false", lambda text: text.lower() == "true", ("boolean",))


def choice(*names: str) -> Scalar:
    """Return the declaration of a value that is one of these words."""

    def convert(text: str) -> str:
        if text not in names:
            raise ValueError(_closest(text, names))
        return text

    return Scalar(f"one of {', '.join(names)}", convert)


def known(names: tuple[str, ...], otherwise: str = "unknown key") -> Callable[[str], object]:
    """Return a check for keys that are among these names."""

    def check(name: str) -> None:
        if name not in names:
            parts = ", ".join(filter(None, (otherwise, _closest(name, names))))
            raise ValueError(f"{parts} (allowed: {', '.join(names)})")

    return check


def declared(form: Any) -> Scalar | Container | None:
    """Return what values of this type may be; None if it is not a type of this module."""
    origin, arguments = get_origin(form), get_args(form)
    if form is bool:
        return _SWITCH
    if origin is Literal:
        return choice(*arguments)
    if origin is Annotated:
        return next((each for each in arguments if isinstance(each, Scalar | Container)), None)
    if origin in (Union, UnionType):
        (inner,) = (declared(each) for each in arguments if each is not NoneType)
        assert isinstance(inner, Scalar)  # noqa: S101 - only a single value may be null
        return replace(inner, allowed=f"{inner.allowed}, or null", null=True)
    if is_dataclass(form):
        names = tuple(each.name for each in fields(form))
        return Container(f"a mapping with keys among {', '.join(names)}", known(names))
    return None


def _make_converter() -> Converter:
    converter = Converter()
    # cattrs prefers its own hooks for classes to hooks with a condition.
    converter.register_structure_hook(bool, lambda node, _: _SWITCH.read(node))

    @converter.register_structure_hook_factory(lambda form: declared(form) is not None)
    def _(form: Any) -> Callable[[yaml.Node, Any], object]:
        rule = declared(form)
        if isinstance(rule, Scalar):
            return lambda node, _: rule.read(node)
        assert rule is not None  # noqa: S101 - by the condition above
        return _list_or_mapping(form, rule, converter)

    return converter


def _list_or_mapping(
    form: Any, rule: Container, converter: Converter
) -> Callable[[yaml.Node, Any], object]:
    """Return a hook that checks a node and its keys, and leaves the values in it to cattrs."""
    cls: Any = form if is_dataclass(form) else get_args(form)[0]
    read: Any = (
        make_dict_structure_fn(cls, converter)
        if is_dataclass(form)
        else converter.get_structure_hook(cls)
    )
    accepted = "list" if get_origin(cls) is tuple else "mapping"

    def hook(node: yaml.Node, _: Any) -> object:
        looks = looks_like(node)
        if looks == "null" and accepted == "mapping":
            return read({}, cls)  # a section in which every line is a comment
        if looks != accepted:
            raise _RefusedError(node, f"must be {rule.allowed}, not {_shown(node)}")
        if accepted == "list":
            return read(node.value, cls)
        values, errors = _checked(node, rule)
        try:
            result = read(values, cls)
        except BaseValidationError as error:
            errors += error.exceptions
        if errors:
            raise ClassValidationError("", errors, cls)
        return result

    return hook


def _checked(node: yaml.Node, rule: Container) -> tuple[dict[str, yaml.Node], list[Exception]]:
    """Return a mapping's values by key, and an error for each key that it must not have."""
    values: dict[str, yaml.Node] = {}
    errors: list[Exception] = []
    lines: dict[str, int] = {}
    for key_node, value in node.value:
        scalar = isinstance(key_node, yaml.ScalarNode)
        name = key_node.value if scalar else f"({looks_like(key_node)} as key)"
        try:
            if name in lines:
                raise ValueError(f"is given twice, first on line {lines[name]}")
            lines[name], _ = position(key_node)
            values[name] = value
            rule.check(name if scalar else "")  # a list or a mapping is never a name
        except ValueError as error:
            errors.append(_RefusedError(key_node, str(error), name))
    return values, errors


_CONVERTER = _make_converter()


def structure(node: yaml.Node, cls: type[T], name: str) -> T:
    """Return the dataclass that a node describes; ``name`` is what errors call the file.

    Raises `ConfigError` with a line ``NAME:LINE: KEY: …`` for each problem.
    """
    try:
        return _CONVERTER.structure(node, cls)
    except (BaseValidationError, _RefusedError) as error:
        raise config_error(name, list(_problems(error, ""))) from None


def _problems(error: Exception, path: str) -> Iterator[Problem]:
    """Yield a problem for each error. cattrs notes on an error in which key or item it is."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            path = _below(path, note.name)
        elif isinstance(note, IterableValidationNote):
            path = _below(path, note.index)
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            yield from _problems(inner, path)
    elif isinstance(error, _RefusedError):
        where = path if error.name is None else _below(path, error.name)
        yield Problem(*error.at, where, str(error))
    else:
        raise error


def _below(path: str, name: str | int) -> str:
    """Return the path of a key or an item that is below another path."""
    if isinstance(name, int):
        return f"{path}[{name}]"
    shown = name if re.fullmatch(r"[\w-]{1,60}", name) else f"{name!r:.60}"
    return f"{path}.{shown}" if path else shown


def _shown(node: yaml.Node) -> str:
    looks = looks_like(node)
    if looks in ("mapping", "list"):
        return f"a {looks}"
    if looks == "null":
        return "empty"
    text = repr(node.value) if looks == "text" else str(node.value)
    return text if len(text) <= 60 else f"{text[:57]}…"
