# SPDX-License-Identifier: Apache-2.0
"""``xdpscope run``."""

import argparse
from dataclasses import replace
from functools import partial

import structlog

from xdpscope import agent, log
from xdpscope.config import Config, load
from xdpscope.errors import KernelError, XdpscopeError

_log = structlog.get_logger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """Run the agent until a signal ends it. An error that ends it is the last record of the log."""
    try:
        config = configuration(arguments)
        log.configure(config.log.level, config.log.format)
        agent.run(config, partial(configuration, arguments), arguments.config)
    except XdpscopeError as error:
        _log_failure(error)
        return error.exit_status
    except Exception:  # noqa: BLE001 - a fault of ours belongs into the same log
        _log.exception("failed", exit_status=1)
        return 1
    return 0


def configuration(arguments: argparse.Namespace) -> Config:
    """Return the configuration of the file, with what the command line says instead.

    Raises:
        ConfigError: the file cannot be used.
    """
    config = load(arguments.config)
    return replace(
        config,
        listen=arguments.listen or config.listen,
        log=replace(
            config.log,
            level=arguments.log_level or config.log.level,
            format=arguments.log_format or config.log.format,
        ),
    )


def _log_failure(error: XdpscopeError) -> None:
    """Log each line of an error, since a configuration may have several problems."""
    text = error.summary if isinstance(error, KernelError) else str(error)
    *others, last = text.splitlines()
    for line in others:
        _log.error("failed", error=line)
    more = {"hint": error.hint} if error.hint else {}
    _log.error("failed", error=last, **more, exit_status=error.exit_status)
