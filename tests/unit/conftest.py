# SPDX-License-Identifier: Apache-2.0
"""What tests of the server share."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

import pytest
import structlog
from tests.unit.served import Served, serving

from xdpscope import log

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def plain() -> Iterator[Served]:
    """One server with the real limits, for tests that leave no trace in it."""
    with serving() as served:
        yield served


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Yield what is logged at level info, a JSON record a line."""
    handlers, level = logging.root.handlers[:], logging.root.level
    stream = io.StringIO()
    log.configure("info", "json", stream)
    yield stream
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()
