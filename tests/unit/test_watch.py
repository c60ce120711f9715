# SPDX-License-Identifier: Apache-2.0
"""The thread that looks: what ends a rest, and what does not."""

import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Self

import pytest

from xdpscope import agent
from xdpscope.agent import Watch
from xdpscope.config import Config, Discovery

REST = 60.0
CONFIG = Config(discovery=Discovery(interval=REST))


class Looks:
    """In an observer's place: counts them."""

    def __init__(self) -> None:
        self.looked = True
        self.count = threading.Semaphore(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def look(self, linger: float) -> None:
        self.count.release()

    def narrow(self, *_: object, **__: object) -> None:
        pass

    def interrupt(self) -> None:
        pass


class Tired:
    """A pace at which each look is followed by the longest rest."""

    def rest(self, *_: float) -> float:
        return REST


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, looks: Looks) -> Iterator[Watch]:
    """After its first look, resting."""
    engine = SimpleNamespace(watches_devices=True)
    monkeypatch.setattr(agent, "Engine", lambda *_, **__: nullcontext(engine))
    monkeypatch.setattr(agent, "Inventory", lambda _: nullcontext())
    monkeypatch.setattr(agent, "Observer", lambda *_: looks)
    monkeypatch.setattr(agent, "Pace", Tired)
    watch = Watch(CONFIG)
    watch.start()
    try:
        assert looks.count.acquire(timeout=REST / 2)
        yield watch
    finally:
        watch.stop()
        watch.join(REST / 2)
    assert watch.failure is None


def test_a_reload_does(watch: Watch, looks: Looks) -> None:
    watch.reconfigure(CONFIG)
    assert looks.count.acquire(timeout=REST / 2)


def test_a_change_on_the_host_does_not(watch: Watch, looks: Looks) -> None:
    watch.look_soon()
    assert not looks.count.acquire(timeout=0.5)


def test_the_end_does(watch: Watch) -> None:
    began = time.monotonic()
    watch.stop()
    watch.join(REST)
    assert not watch.is_alive() and time.monotonic() - began < REST / 2
