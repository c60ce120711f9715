# SPDX-License-Identifier: Apache-2.0
"""Import the tests without garbage collection, and print the stacks of a test that hangs."""

import faulthandler
import gc
import os
from collections.abc import Generator

import pytest

MARGIN = 20.0
"""Seconds after the timeout of a test. A thread that still runs then waits in C code.

Not sooner: to print the stack of a thread that executes Python may crash it.
"""

gc.disable()  # it takes a third of the time in which tests are imported

_STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # the output of tests is not captured yet


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])


def pytest_collection_finish() -> None:
    gc.freeze()  # modules stay
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Print where every thread is, if not even its timeout ends a test."""
    mark = item.get_closest_marker("timeout")
    limit = float(mark.args[0] if mark else item.config.getini("timeout"))
    faulthandler.dump_traceback_later(limit + MARGIN, file=item.config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
