# SPDX-License-Identifier: Apache-2.0
"""Makes shell completion and the manual page from the command's own parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import shtab

from xdpscope import __version__
from xdpscope.cli.parser import EXIT_STATUSES, build
from xdpscope.probes.flows.query import ORDERS
from xdpscope.program_types.xdp import VERDICTS

SHARE = Path(__file__).parents[1] / "config" / "share"
"""What is made, laid out as below ``/usr/share``."""

_GENERATED = "Written by `make docs` from the parser of the command: do not edit."
# The agent checks these values, not the parser.
_CHOICES = {"verdict": VERDICTS, "sort": ORDERS}
_GLOBAL = "log"
"""The group of options that every command has."""

_ENVIRONMENT = {
    "XDPSCOPE_USER, XDPSCOPE_PASSWORD": "the user and the password for an agent that asks for them",
    "COLUMNS": "the width of tables where standard output is not a terminal; 80 by default",
    "NO_COLOR": "if it is not empty, no colours",
}
_FILES = {
    "/etc/xdpscope/xdpscope.yaml": "the configuration that the systemd service uses; it has every"
    " key at its default, with an explanation",
    "/etc/systemd/system/xdpscope.service": "the systemd service",
}


def completion(shell: str) -> str:
    """Return the completion script of a shell that shtab knows, such as ``bash``."""
    parser, commands = build()
    for each in (parser, *commands.values()):
        for action in each._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            if action.dest in _CHOICES and not action.choices:
                action.choices = _CHOICES[action.dest]
            if action.option_strings and action.nargs == "?" and shell != "bash":
                action.nargs = 0  # else these shells insist on a value that may be left out
    first, *lines = shtab.complete(parser, shell).splitlines()
    # How to install it is in docs/host.md. zsh needs its own mark in the first line.
    mark = [first] if first.startswith("#compdef") else []
    while lines and (not lines[0] or lines[0].startswith("#")):
        del lines[0]
    made = "Made with shtab, https://github.com/tqdm/shtab"
    head = [*mark, "# SPDX-License-Identifier: Apache-2.0", f"# {_GENERATED}", f"# {made}", ""]
    return "\n".join([*head, *lines, ""])


def manual() -> str:
    """Return the manual page, in the macros of man(7)."""
    return "\n".join(_manual()) + "\n"


def _manual() -> Iterator[str]:
    parser, commands = build()
    yield f'.\\" SPDX-License-Identifier: Apache-2.0\n.\\" {_GENERATED}'
    yield f'.TH XDPSCOPE 8 "" "xdpscope {__version__}" "System Administration"'
    yield ".nh\n.ad l"
    yield ".SH NAME"
    yield f"xdpscope \\- {_roff(_phrase(parser.description))}"
    yield ".SH SYNOPSIS"
    for name in commands:
        yield f".B xdpscope {_roff(name)}\n.RI [ OPTION ...]"
        yield from (_argument(each) for each in _positionals(commands[name]))
        yield ".br"
    yield ".B xdpscope \\-\\-version"
    yield ".SH DESCRIPTION"
    yield _roff(parser.description or "")
    yield ".SH COMMANDS"
    for name, command in commands.items():
        yield f".SS {_roff(name)}"
        yield _roff(command.description or "")
        yield from _options(command, lambda group: group != _GLOBAL)
        yield from _example(command)
    yield ".SH GLOBAL OPTIONS\nBefore or after the command:"
    yield from _options(parser, lambda group: group == _GLOBAL)
    yield '.TP\n.BR \\-h ", " \\-\\-help\nshow an explanation of the command, and exit'
    for title, entries in (
        ("EXIT STATUS", {str(status): text for status, text in EXIT_STATUSES.items()}),
        ("ENVIRONMENT", _ENVIRONMENT),
        ("FILES", _FILES),
    ):
        yield f".SH {title}"
        yield from (f".TP\n.B {_roff(each)}\n{_roff(text)}" for each, text in entries.items())
    yield ".SH EXAMPLES"
    yield from _example(parser)
    yield ".SH SEE ALSO\n.BR bpftool (8),\n.BR ip (8),\n.BR tcpdump (8)"


def _positionals(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in parser._actions if not action.option_strings)


def _argument(action: argparse.Action) -> str:
    name = f"\\fI{_roff(str(action.metavar))}\\fR"
    return f"[{name}]" if action.nargs == "?" else name


def _options(
    parser: argparse.ArgumentParser, wanted: Callable[[str | None], bool]
) -> Iterator[str]:
    """Yield a paragraph for each option and argument of the wanted groups, but for ``--help``."""
    for group in parser._action_groups:
        for action in group._group_actions if wanted(group.title) else ():
            if action.dest == "help" or not action.help:
                continue
            names = ", ".join(f"\\fB{_roff(each)}\\fR" for each in action.option_strings)
            value = "" if action.nargs == 0 else _argument(action)
            yield f".TP\n{names} {value}".rstrip()
            yield _roff(action.help)


def _example(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the example that ``--help`` ends with."""
    _, _, example = (parser.epilog or "").partition("example:\n")
    yield ".PP\n.EX"
    yield from (f"    {_roff(line.strip())}" for line in example.splitlines())
    yield ".EE"


def _phrase(sentence: str | None) -> str:
    """Return a sentence as the rest of another one: the form that whatis(1) shows."""
    return re.sub(r"^(.)(.*?)\.?$", lambda found: found[1].lower() + found[2], sentence or "")


def _roff(text: str) -> str:
    """Return text that man(7) shows as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)


FILES: dict[str, Callable[[], str]] = {
    "bash-completion/completions/xdpscope": partial(completion, "bash"),
    "zsh/site-functions/_xdpscope": partial(completion, "zsh"),
    "fish/vendor_completions.d/xdpscope.fish": partial(completion, "fish"),
    "man/man8/xdpscope.8": manual,
}
"""The files below `SHARE`, and what is in them."""
