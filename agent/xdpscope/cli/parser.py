# SPDX-License-Identifier: Apache-2.0
"""The command line's grammar; importing it is cheap, for ``--help`` and mistakes."""

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from xdpscope import __version__
from xdpscope.config import Listen

FLOW_OPTIONS = {
    "program": ("P", "of this program: id, tag or entry function, which may be a shell glob"),
    "verdict": ("V", "with this verdict: aborted, drop, pass, tx, redirect or unknown"),
    "source": ("CIDR", "from this address or network"),
    "destination": ("CIDR", "to this address or network"),
    "protocol": ("NAME", "of this protocol: tcp, udp, icmp …, or its number"),
    "port": ("PORT", "from or to this port"),
    "interface": ("I", "on this interface; may be a shell glob"),
    "netns": ("N", "in this network namespace; may be a shell glob"),
    "sort": ("BY", "the largest first: rate (the default), packets or bytes"),
    "limit": ("N", "at most so many (100)"),
}
"""Options of ``flows`` that are parameters of the API: the agent checks their values."""

EXIT_STATUSES = {
    0: "done",
    1: "failed",
    2: "wrong usage or configuration",
    3: "this host can never do it",
}

_ANY_LISTEN = "127.0.0.1:10091 or [::1]:10091"
_CHOICE = re.compile(r"argument COMMAND: invalid choice: '(.*?)'")


class Parser(argparse.ArgumentParser):
    """A parser that suggests the closest command or option for a mistyped one."""

    def error(self, message: str) -> NoReturn:
        """Print usage and the mistake, and end with exit code 2."""
        mistake = _CHOICE.match(message)
        if mistake:
            message = f"unknown command {mistake[1]!r}: {_meant(mistake[1], _names(self))}"
        super().error(message)

    def refuse(self, surplus: Sequence[str]) -> NoReturn:
        """Print usage and the arguments that are not known."""
        options = [each for each in self._option_string_actions if each.startswith("--")]
        meant = _closest(surplus[0], options) if surplus[0].startswith("-") else ""
        self.error(f"unknown argument: {' '.join(surplus)}" + (f": {meant}" if meant else ""))


def _closest(word: str, known: list[str]) -> str:
    meant = get_close_matches(word, known, 1)
    return f"did you mean {meant[0]}?" if meant else ""


def _meant(word: str, known: list[str]) -> str:
    return _closest(word, known) or f"commands are {', '.join(known)}"


def _names(parser: argparse.ArgumentParser) -> list[str]:
    """Return the names of a parser's commands."""
    of_command = (each.choices or () for each in parser._actions if each.metavar == "COMMAND")
    return [name for choices in of_command for name in choices]


def _listen(text: str) -> Listen:
    try:
        return Listen.parse(text)
    except ValueError as error:
        because = f" ({error})" if str(error) else ""
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ADDR:PORT, such as {_ANY_LISTEN}{because}"
        ) from None


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = None
    if not usable or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(
            "must be the agent's address, such as http://127.0.0.1:10091"
        )
    return text


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 86400")
    return seconds


def _add_global_options(parser: argparse.ArgumentParser, default: str | None) -> None:
    options = parser.add_argument_group("log")
    options.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        metavar="LEVEL",
        default=default,
        help="the least severe level to log: debug, info, warning or error",
    )
    options.add_argument(
        "--log-format",
        choices=["console", "json"],
        metavar="FORMAT",
        default=default,
        help="console or json; console is the default on a terminal",
    )


def _command(
    commands: "argparse._SubParsersAction[Parser]",
    name: str,
    summary: str,
    example: str,
) -> Parser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Without a default, so that what comes before the command stays.
    _add_global_options(command, argparse.SUPPRESS)
    return command


def build() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser, and the commands' own. ``command`` names the module to run."""
    statuses = ", ".join(f"{status} {text}" for status, text in EXIT_STATUSES.items())
    parser = Parser(
        prog="xdpscope",
        description="Shows what every XDP program on this host does with its packets.",
        epilog=f"exit status:\n  {statuses}\n\nexample:\n  xdpscope doctor && xdpscope run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"xdpscope {__version__}")
    _add_global_options(parser, None)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )

    run = _command(
        commands,
        "run",
        "find and trace XDP programs, and serve what they do as metrics",
        "xdpscope run --config /etc/xdpscope/xdpscope.yaml --listen 127.0.0.1:10091",
    )
    run.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration; without one, every key has its default",
    )
    run.add_argument(
        "--listen",
        type=_listen,
        metavar="ADDR:PORT",
        help="instead of `listen` in the configuration",
    )

    listing = _command(
        commands,
        "list",
        "list every XDP program and whether it can be traced",
        "xdpscope list --watch",
    )
    shown = listing.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print JSON for machines")
    shown.add_argument(
        "--watch",
        type=_interval,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="print again every 2 seconds, or so many, until Ctrl-C",
    )
    _add_agent(listing, "where this host's agent listens, for the counts")

    doctor = _command(
        commands,
        "doctor",
        "check whether XDP programs can be traced on this host",
        "xdpscope doctor --config /etc/xdpscope/xdpscope.yaml",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON for machines")
    doctor.add_argument(
        "--config", type=Path, metavar="FILE", help="the agent's configuration, to be checked too"
    )
    doctor.add_argument(
        "--clean",
        action="store_true",
        help="check nothing; remove what an agent with that configuration has left pinned",
    )

    check = _command(
        commands,
        "check-config",
        "validate a configuration without running anything",
        "xdpscope check-config /etc/xdpscope/xdpscope.yaml",
    )
    check.add_argument("file", type=Path, metavar="FILE", help="the configuration")

    _add_flows(
        _command(
            commands,
            "flows",
            "list the flows that a running agent holds",
            "xdpscope flows --verdict drop --source 10.0.0.0/8 --sort packets",
        )
    )

    explain = _command(commands, "help", "explain a command", "xdpscope help flows")
    explain.add_argument(
        "about",
        nargs="?",
        choices=list(commands.choices),
        metavar="COMMAND",
        help="the command; without one, all commands are listed",
    )
    return parser, commands.choices


def _add_flows(flows: argparse.ArgumentParser) -> None:
    _add_agent(flows, "the agent's address")
    for name, (metavar, text) in FLOW_OPTIONS.items():
        flows.add_argument(f"--{name}", metavar=metavar, help=text)
    flows.add_argument("--json", action="store_true", help="print JSON for machines")


def _add_agent(command: argparse.ArgumentParser, what: str) -> None:
    """Add the options that lead to a running agent."""
    command.add_argument(
        "--connect",
        type=_url,
        default="http://127.0.0.1:10091",
        metavar="URL",
        help=f"{what} (http://127.0.0.1:10091); a user and a password come from"
        " http://USER:PASSWORD@HOST:PORT, or from XDPSCOPE_USER and XDPSCOPE_PASSWORD",
    )
    for option, file in (
        ("--ca", "certificates of authorities to trust"),
        ("--cert", "the client's certificate, for an agent that asks for one"),
        ("--key", "its key, unless it is in the same file"),
    ):
        command.add_argument(option, type=Path, metavar="FILE", help=f"{file}, in PEM format")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what was typed; a mistake ends the process with exit code 2."""
    parser, commands = build()
    arguments, surplus = parser.parse_known_args(argv)
    if surplus:
        commands[arguments.command].refuse(surplus)
    return arguments


def dispatch(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    module = import_module(f"xdpscope.cli.{arguments.command.replace('-', '_')}")
    status: int = module.run(arguments)
    return status
