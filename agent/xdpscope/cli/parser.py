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
from xdpscope.program_types.xdp import VERDICTS

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
LARGEST_SNAPLEN = 65535

_DURATION_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9}
_SIZE_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

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


def _verdicts(text: str) -> list[str]:
    found = [each.strip().lower().removeprefix("xdp_") for each in text.split(",")]
    for each in found:
        if each not in VERDICTS:
            raise argparse.ArgumentTypeError(f"{each!r} is none of {', '.join(VERDICTS)}")
    return found


def _nanoseconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration, such as 500ns, 20us or 1ms")
    return round(float(match[1]) * _DURATION_UNITS[match[2]])


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)s?", text)
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return float(match[1])


def _positive(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})(k|M|G|Ki|Mi|Gi|)B?", text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 500k, 100M or 1G")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def _add_selectors(command: argparse.ArgumentParser) -> None:
    """Add what trace and capture have in common."""
    chosen = command.add_argument_group("which packets")
    chosen.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="P",
        help="of this program: id, tag or entry function, which may be a shell glob; repeatable",
    )
    chosen.add_argument(
        "--interface",
        action="append",
        default=[],
        metavar="I",
        help="of this interface; may be a shell glob; repeatable",
    )
    chosen.add_argument(
        "--netns",
        action="append",
        default=[],
        metavar="N",
        help="in this network namespace (host is the agent's own); may be a shell glob; repeatable",
    )
    chosen.add_argument(
        "--verdict",
        type=_verdicts,
        action="extend",
        default=[],
        metavar="V[,V…]",
        help=f"with one of these verdicts: {', '.join(VERDICTS)}",
    )
    chosen.add_argument(
        "--min-latency",
        type=_nanoseconds,
        default=0,
        metavar="DURATION",
        help="inside the program for at least so long, such as 20us",
    )
    chosen.add_argument(
        "--inner",
        metavar="FILTER",
        help="with a packet inside that matches this expression: in VXLAN, Geneve, GRE, IPIP or"
        " GTP-U; '' matches each",
    )
    chosen.add_argument(
        "filter",
        nargs="*",
        metavar="FILTER",
        help="that match this expression of tcpdump's language, as they arrive",
    )
    stop = command.add_argument_group("when to stop")
    stop.add_argument("--count", type=_positive, default=0, metavar="N", help="after N packets")
    stop.add_argument("--seconds", type=_seconds, default=0, metavar="S", help="after S seconds")


def _add_trace(trace: argparse.ArgumentParser) -> None:
    _add_selectors(trace)
    trace.add_argument(
        "--emit",
        choices=["entry", "exit", "entry,exit"],
        default="entry,exit",
        metavar="POINTS",
        help="entry, exit or entry,exit (the default): where packets are shown",
    )
    trace.add_argument("--json", action="store_true", help="print JSON for machines, one line each")


def _snaplen(text: str) -> int:
    length = _positive(text)
    if length > LARGEST_SNAPLEN:
        raise argparse.ArgumentTypeError(f"at most {LARGEST_SNAPLEN} bytes")
    return length


def _add_capture(capture: argparse.ArgumentParser) -> None:
    capture.add_argument(
        "-w",
        "--write",
        required=True,
        metavar="FILE",
        help="the pcapng file; - is standard output",
    )
    _add_selectors(capture)
    capture.add_argument(
        "--emit",
        choices=["entry", "exit", "both"],
        default="both",
        metavar="POINTS",
        help="entry, exit or both (the default): where packets are captured",
    )
    capture.add_argument(
        "--snaplen",
        type=_snaplen,
        default=LARGEST_SNAPLEN,
        metavar="N",
        help=f"bytes of each packet, {LARGEST_SNAPLEN} at most (the default)",
    )
    capture.add_argument(
        "--rotate",
        type=_size,
        default=0,
        metavar="SIZE",
        help="begin another file after so many bytes, such as 100M; names get a number",
    )
    capture.add_argument(
        "--keep", type=_positive, default=0, metavar="N", help="keep the last N of these files"
    )
    recorder = capture.add_argument_group("flight recorder")
    recorder.add_argument(
        "--last",
        type=_positive,
        default=0,
        metavar="N",
        help="keep the last N packets in memory, and write them when EVENT comes",
    )
    recorder.add_argument(
        "--on",
        metavar="EVENT",
        help="a verdict such as aborted, drop>1000/s, drop-ratio>10%% or SIGUSR1",
    )


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

    _add_trace(
        _command(
            commands,
            "trace",
            "print a line for each packet, with its verdict",
            "xdpscope trace --verdict drop,aborted --interface eth0 'tcp port 443'",
        )
    )

    _add_capture(
        _command(
            commands,
            "capture",
            "write packets with their verdicts to a pcapng file",
            "xdpscope capture -w - --verdict drop 'udp port 53' | tshark -r -",
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
