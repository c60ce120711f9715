# SPDX-License-Identifier: Apache-2.0
"""What can be typed; importing it is cheap, for ``--help`` and mistakes."""

import argparse
from importlib import import_module
from pathlib import Path

from xdpscope import __version__
from xdpscope.config import Listen


def _listen(text: str) -> Listen:
    try:
        return Listen.parse(text)
    except ValueError as error:
        because = f" ({error})" if str(error) else ""
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ADDR:PORT, such as 127.0.0.1:10091 or [::1]:10091{because}"
        ) from None


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def build() -> argparse.ArgumentParser:
    """The parser; ``command`` is the name of the module to run."""
    parser = argparse.ArgumentParser(
        prog="xdpscope",
        description="Shows what every XDP program on this host does with its packets.",
        epilog="example:\n  xdpscope doctor && xdpscope run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"xdpscope {__version__}")
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        metavar="LEVEL",
        help="the least severe level to log: debug, info, warning or error",
    )
    parser.add_argument(
        "--log-format",
        choices=["console", "json"],
        metavar="FORMAT",
        help="console or json; console is the default on a terminal",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    run = _command(
        commands,
        "run",
        "find and trace XDP programs, and serve what they do as metrics",
        "xdpscope run --config /etc/xdpscope/xdpscope.yaml --listen 127.0.0.1:10091",
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="the configuration; none is fine")
    run.add_argument("--listen", type=_listen, metavar="ADDR:PORT", help="instead of its `listen`")

    for name, summary, example in (
        ("list", "list every XDP program and whether it can be traced", "xdpscope list --json"),
        (
            "doctor",
            "check whether XDP programs can be traced on this host",
            "xdpscope doctor --config /etc/xdpscope/xdpscope.yaml",
        ),
    ):
        command = _command(commands, name, summary, example)
        command.add_argument("--json", action="store_true", help="print JSON for machines")
    # `command` is the doctor's.
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="the agent's configuration, to be checked too"
    )
    command.add_argument(
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
    check.add_argument("file", type=Path, metavar="FILE")
    return parser


def dispatch(arguments: argparse.Namespace) -> int:
    """Runs the command; its exit code."""
    module = import_module(f"xdpscope.cli.{arguments.command.replace('-', '_')}")
    status: int = module.run(arguments)
    return status
