# SPDX-License-Identifier: Apache-2.0
"""The log: one record is one line, whoever wrote it and whatever it holds."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from xdpscope import log

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "eth0\n2026-01-01T00:00:00Z [error] forged\r\x1b[2J\x9b1m\u202e\u2028\udc80"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


def test_json_records_of_both_kinds() -> None:
    out = io.StringIO()
    log.configure("info", "json", out)
    structlog.stdlib.get_logger("ours").info("attached", program=HOSTILE, count=3)
    logging.getLogger("uvicorn.error").warning("theirs %d", 7)
    ours, theirs = map(json.loads, out.getvalue().splitlines())
    assert (ours["event"], ours["level"], ours["logger"]) == ("attached", "info", "ours")
    assert (ours["program"], ours["count"]) == (HOSTILE, 3)
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == (
        "theirs 7",
        "warning",
        "uvicorn.error",
    )


@pytest.mark.parametrize(
    ("format", "stream", "console"),
    [
        ("auto", io.StringIO, False),
        ("auto", Terminal, True),
        ("console", io.StringIO, True),
        ("json", Terminal, False),
    ],
)
def test_format_and_colours(
    monkeypatch: pytest.MonkeyPatch, format: str, stream: type[io.StringIO], console: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = stream()
    log.configure("info", format, out)  # type: ignore[arg-type]
    structlog.stdlib.get_logger("ours").info("hello", n=1)
    assert out.getvalue().startswith("{") is not console
    assert ("\x1b[" in out.getvalue()) is (console and stream is Terminal)


class Sly:
    def __repr__(self) -> str:
        return f"<Sly {HOSTILE}>"


def test_a_hostile_name_cannot_forge_a_console_line() -> None:
    out = io.StringIO()
    log.configure("info", "console", out)
    ours, theirs = structlog.stdlib.get_logger("ours"), logging.getLogger("theirs")
    ours.info(HOSTILE)
    ours.info("a", value=HOSTILE, bare=HOSTILE.replace(" ", "").replace("\n", ""))
    ours.info("b", nested=[{"name": HOSTILE}], sly=Sly())
    theirs.info("c %s", HOSTILE)
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert all("\\x1b[2J" in line for line in lines)
    # What needs no escaping is left as it is.
    out.truncate(0)
    ours.info("d", interface="eth0", count=3)
    assert out.getvalue().rstrip().endswith("interface=eth0 count=3")


def test_a_traceback_cannot_either() -> None:
    out = io.StringIO()
    log.configure("info", "console", out)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        structlog.stdlib.get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")
    lines = out.getvalue().split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    records = [line for line in lines if not line.startswith("  | ")]
    assert ["[ours]" in records[0], "[theirs]" in records[1], len(records)] == [True, True, 2]
    assert sum("ValueError: eth0" in line for line in lines) == 2


def test_the_level_changes_at_run_time_for_both_kinds() -> None:
    out = io.StringIO()
    log.configure("warning", "json", out)
    ours, theirs = structlog.stdlib.get_logger("ours"), logging.getLogger("theirs")

    def written() -> list[str]:
        out.seek(0)
        out.truncate()
        for level in ("debug", "info", "warning", "error"):
            getattr(ours, level)("event")
            getattr(theirs, level)("event")
        records = [json.loads(line) for line in out.getvalue().splitlines()]
        assert all(a["level"] == b["level"] for a, b in zip(*[iter(records)] * 2, strict=True))
        return [record["level"] for record in records if record["logger"] == "ours"]

    assert written() == ["warning", "error"]
    log.set_level("debug")
    assert written() == ["debug", "info", "warning", "error"]
    log.set_level("error")
    assert written() == ["error"]
    with pytest.raises(ValueError, match="LOUD"):
        log.set_level("loud")
    assert written() == ["error"]


def test_configuring_again_replaces_and_does_not_double() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.configure("info", "json", first)
    ours = structlog.stdlib.get_logger("ours")
    ours.info("one")
    log.configure("info", "console", second)
    ours.info("two")
    assert [len(stream.getvalue().splitlines()) for stream in (first, second)] == [1, 1]
    assert "two" in second.getvalue()
