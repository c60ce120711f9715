# SPDX-License-Identifier: Apache-2.0
"""Kernels that let no tracer watch new devices: more expensive, and as exact."""

from collections.abc import Iterator

import pytest

from tests.kernel import test_lifecycle, test_verdicts
from tests.kernel.lab import Lab
from tests.kernel.observing import Observer
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.discovery.inventory import Inventory

pytestmark = [pytest.mark.every_kernel, pytest.mark.at_once]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(watch_devices=False) as engine:
        assert not engine.watches_devices
        yield engine


@pytest.fixture
def observer(engine: Engine) -> Iterator[Observer]:
    with Inventory() as inventory, Observer(engine, inventory, Selection()) as observer:
        yield observer


def test_each_packet_its_own_verdict(lab: Lab, observer: Observer) -> None:
    test_verdicts.test_each_packet_its_own_verdict(lab, observer, "native")


def test_many_interfaces(lab: Lab, observer: Observer) -> None:
    test_verdicts.test_one_program_on_many_interfaces(lab, observer)


@pytest.mark.first_kernel
def test_devices_that_take_each_others_place(lab: Lab, observer: Observer) -> None:
    test_lifecycle.test_devices_that_take_each_others_place(lab, observer)


def test_a_device_that_moves(lab: Lab, engine: Engine, observer: Observer) -> None:
    if not engine.reports_targets:
        pytest.skip("this kernel does not tell what a tracing link is on (Linux 5.13)")
    test_lifecycle.test_a_device_that_moves_is_counted_where_it_is(lab, observer)
