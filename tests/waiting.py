# SPDX-License-Identifier: Apache-2.0
"""Waiting in tests, with a failure that explains itself."""

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 240.0
"""Seconds. An emulated machine is some twenty times slower than a real one."""

_witnesses: list[Callable[[], str]] = []


@contextmanager
def witness(report: Callable[[], str]) -> Iterator[None]:
    """Show what ``report`` returns, the log of a process say, if a wait fails inside the block."""
    _witnesses.append(report)
    try:
        yield
    finally:
        _witnesses.remove(report)


def wait_for(
    condition: Callable[[], object], patience: float = PATIENCE, interval: float = 0.1
) -> None:
    """Wait until ``condition`` returns something true.

    Raises:
        AssertionError: it did not within ``patience`` seconds. Contains the condition's source and
            the report of every witness.
    """
    end = time.monotonic() + patience
    while True:
        began = time.monotonic()
        if condition():
            return
        asked = time.monotonic()
        if asked > end:
            reports = [report() for report in _witnesses]
            raise AssertionError(
                "\n".join([f"not within {patience:g} s: {_source(condition)}", *reports])
            )
        # An agent that is asked all the time, for pages, has no time for what is waited for.
        time.sleep(max(interval, 2 * (asked - began)))


def _source(condition: Callable[[], object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):  # not a function of ours
        return repr(condition)
