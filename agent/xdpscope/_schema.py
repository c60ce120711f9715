# SPDX-License-Identifier: Apache-2.0
"""Declare what configuration keys may be, and read a document into frozen dataclasses.

cattrs builds the dataclasses and collects all errors. This module adds the declarations (`Scalar`,
`Container`, inside of ``Annotated``) and the messages. cattrs ignores ``Annotated`` in annotations
that are strings: a module with such dataclasses must not import ``annotations`` from the future.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cattrs import BaseValidationError, Converter, ForbiddenExtraKeysError
from cattrs.errors import AttributeValidationNote, ClassValidationError, IterableValidationError
from cattrs.gen import make_dict_structure_fn

from xdpscope._yaml import Document, Items, Keys, Problem, Text, Value, below

__all__ = [
    "Container",
    "Name",
    "Scalar",
    "allowed",
    "choice",
    "key",
    "printable_text",
    "structure",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Scalar:
    """What a single value may be.

    ``allowed`` completes the sentence "must be …". ``convert`` raises ValueError, and its text is
    shown as the reason. ``looks`` has the types that a reader may take the value for. No message
    shows a value that is ``secret``.
    """

    allowed: str
    convert: Callable[[str], object]
    looks: tuple[str, ...] = ("text",)
    secret: bool = False
    null: bool = False

    def read(self, value: Value) -> object:
        """Return the converted value. Raises ValueError with the whole message."""
        if self.null and value.looks == "null":
            return None
        if not isinstance(value, Text) or value.looks not in self.looks:
            raise self._refuse(value)
        try:
            return self.convert(str(value))
        except ValueError as error:
            raise self._refuse(value, str(error)) from None

    def _refuse(self, value: Value, reason: str = "") -> ValueError:
        return _refuse(self.allowed) if self.secret else _refuse(self.allowed, value, reason)


@dataclass(frozen=True)
class Name:
    """What a key of the user's choice may be; ``check`` raises ValueError with all of a message."""

    check: Callable[[str], str]

    def read(self, value: Value) -> str:
        """Return the key. Raises ValueError."""
        if value.looks in ("list", "mapping"):
            raise ValueError(f"a key must be text, not a {value.looks}")
        return self.check(str(value))


@dataclass(frozen=True)
class Container:
    """What a list or a mapping may be; ``allowed`` completes the sentence "must be …"."""

    allowed: str
    unknown: str = "unknown key"


def key(doc: str, *, restart: bool) -> Mapping[str, object]:
    """Return the metadata of a field: what the key is for, and if a change needs a restart."""
    return {"doc": doc, "restart": restart}


def printable_text(text: str) -> str:
    """Return the text. Raises ValueError: it is empty, or not all of it would show."""
    if not text or not text.isprintable():
        raise ValueError("empty, or with unprintable characters")
    return text


def _closest(word: str, known: list[str]) -> str:
    """Return a suggestion if a known word is similar, else an empty text."""
    near = get_close_matches(word.lower()[:40], known, n=1)
    return f"did you mean {near[0]}?" if near else ""


_SWITCH = Scalar("true or false", lambda text: text.lower() == "true", ("boolean",))


def choice(*names: str) -> Scalar:
    """Return the declaration of a value that is one of these words."""

    def convert(text: str) -> str:
        if text not in names:
            raise ValueError(_closest(text, list(names)))
        return text

    return Scalar(f"one of {', '.join(names)}", convert)


def _declared(form: Any) -> Scalar | Name | Container | None:
    """Return what values of this type may be; None if it is not a type of this module."""
    origin, arguments = get_origin(form), get_args(form)
    if form is bool:
        return _SWITCH
    if origin is Literal:
        return choice(*arguments)
    if origin is Annotated:
        return next(
            (each for each in arguments if isinstance(each, Scalar | Name | Container)), None
        )
    if origin in (Union, UnionType):
        (inner,) = (_declared(each) for each in arguments if each is not NoneType)
        assert isinstance(inner, Scalar)  # noqa: S101 - only a single value may be null
        return replace(inner, allowed=f"{inner.allowed}, or null", null=True)
    if is_dataclass(form):
        return Container(
            f"a mapping with keys among {', '.join(each.name for each in fields(form))}"
        )
    return None


def allowed(form: Any) -> str:
    """Return the end of the sentence "must be …" for a key of this type."""
    rule = _declared(form)
    return rule.allowed if isinstance(rule, Scalar | Container) else ""


def _make_converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    # For classes themselves, cattrs prefers its own hooks to those with a condition.
    converter.register_structure_hook(bool, lambda value, _: _SWITCH.read(value))

    @converter.register_structure_hook_factory(lambda form: _declared(form) is not None)
    def _(form: Any) -> Callable[[Value, Any], object]:
        rule = _declared(form)
        if isinstance(rule, Container):
            return _container(form, rule, converter)
        assert rule is not None  # noqa: S101 - by the condition above
        return lambda value, _: rule.read(value)

    return converter


def _container(form: Any, rule: Container, converter: Converter) -> Callable[[Value, Any], object]:
    """Return a hook that checks the kind of a value, and leaves what is in it to cattrs."""
    cls: Any
    read: Any
    if is_dataclass(form):
        cls = form
        read = make_dict_structure_fn(cls, converter)
    else:
        cls = get_args(form)[0]
        read = converter.get_structure_hook(cls)
    accepted = Items if get_origin(cls) is tuple else Keys

    def hook(value: Value, _: Any) -> object:
        if accepted is Keys and value.looks == "null":
            value = Keys()  # a section in which every line is a comment
        if not isinstance(value, accepted):
            raise _refuse(rule.allowed, value)
        return read(value, cls)

    return hook


_CONVERTER = _make_converter()


def structure(document: Document, cls: type[T]) -> T:
    """Return the dataclass that a document describes.

    Raises `ConfigError` with a line ``NAME:LINE: KEY: …`` for each problem.
    """
    problems: list[Problem] = []
    try:
        value = _CONVERTER.structure(document.root, cls)
    except (BaseValidationError, ValueError) as error:
        problems += _problems(error, document.root, "", cls)
    # What is in a value that is refused does not matter.
    refused = tuple(problem.path + end for problem in problems for end in ".[")
    problems += (each for each in document.repeated if not each.path.startswith(refused))
    if problems:
        raise document.error(problems)
    return value


def _problems(error: Exception, value: Any, path: str, form: Any) -> Iterator[Problem]:
    """Yield a problem for each error in a value of this type, with the path of its key."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        located, others = error.group_exceptions()
        for inner, note in located:
            name = note.name if isinstance(note, AttributeValidationNote) else note.index
            yield from _problems(inner, value[name], below(path, name), note.type)
        for inner in others:
            yield from _problems(inner, value, path, form)
    elif isinstance(error, ForbiddenExtraKeysError):
        for name in value:
            if name in error.extra_fields:
                message = _unknown(name, error.cl, _declared(form))
                yield Problem.at(name, below(path, name), message)
    elif isinstance(error, ValueError):
        yield Problem.at(value, path, str(error))
    else:
        raise error


def _unknown(name: str, cls: type, rule: object) -> str:
    known = list(get_type_hints(cls))
    what = rule.unknown if isinstance(rule, Container) else "unknown key"
    parts = filter(None, (what, _closest(name, known)))
    return f"{', '.join(parts)} (allowed: {', '.join(known)})"


def _refuse(allowed: str, value: Value | None = None, reason: str = "") -> ValueError:
    but = f", not {_shown(value)}" if value is not None else ""
    why = f" ({reason})" if reason else ""
    return ValueError(f"must be {allowed}{but}{why}")


def _shown(value: Value) -> str:
    if not isinstance(value, Text):
        return f"a {value.looks}"
    if value.looks == "null":
        return "empty"
    text = repr(str(value)) if value.looks == "text" else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
