# SPDX-License-Identifier: Apache-2.0
"""The agent's log: structlog and the standard library's logging, written alike.

Anyone who may create programs and interfaces chooses their names. A line of the console therefore
never shows a character that a terminal would act on: no newline, which would forge a line, no
escape sequence, and no mark that reverses the direction of text.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["configure", "printable", "set_level"]

# Applied first, to records of both kinds, in any format.
_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
)


def configure(
    level: str, format: Literal["auto", "console", "json"], stream: TextIO | None = None
) -> None:
    """Send every log record to ``stream``, standard error by default; may be called again.

    ``level`` is a name such as ``info``; an unknown one is a ValueError. ``auto`` is ``console``
    where the stream is a terminal and ``json`` elsewhere; only a terminal gets colours,
    and none where the environment has NO_COLOR.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    console = format == "console" or (format == "auto" and terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                ProcessorFormatter.remove_processors_meta,
                *(
                    _console(colours=terminal and not os.environ.get("NO_COLOR"))
                    if console
                    else _json()
                ),
            ],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        # The configuration above does not depend on the arguments: a logger from before a second
        # call stays correct.
        cache_logger_on_first_use=True,
    )
    set_level(level)
    logging.root.handlers[:] = [handler]


def set_level(level: str) -> None:
    """Change the least severe level written, immediately and for all loggers; thread-safe.

    Raises:
        ValueError: the level is unknown.
    """
    logging.root.setLevel(level.upper())


def printable(text: str) -> str:
    r"""Return the text with every character escaped that would not show as itself, such as
    ``\x1b``.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _json() -> Iterable[Processor]:
    # Escapes all that is not ASCII, so that one record is one line whatever it holds.
    return (structlog.processors.JSONRenderer(),)


def _console(*, colours: bool) -> Iterable[Processor]:
    return (_escape, structlog.dev.ConsoleRenderer(colors=colours, sort_keys=False))


class _Verbatim:
    """A value that the console renderer shows as it is; it shows the repr of other values that are
    not text.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if key == "event":
            event[key] = printable(str(value))
        elif key in ("exception", "stack"):
            # These alone have lines of their own, so a bar tells each from the start of a record.
            event[key] = "\n".join(f"  | {printable(line)}" for line in value.split("\n"))
        elif isinstance(value, str) and not value.isprintable():
            event[key] = _Verbatim(repr(value))
        elif not isinstance(value, str) and not (shown := repr(value)).isprintable():
            event[key] = _Verbatim(printable(shown))
    return event
