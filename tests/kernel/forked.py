# SPDX-License-Identifier: Apache-2.0
"""An agent without its server, forked off the tests: there at once, to be killed wherever it is.

A whole agent takes seconds to start in an emulated machine, nearly all of it for Python to read
itself; here nothing is left of that, so hundreds of ends can be tried.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tests.kernel.observing import Observer
from xdpscope.attach import pins
from xdpscope.attach.engine import Engine
from xdpscope.attach.pins import PinPath
from xdpscope.attach.reason import Selection
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import Flows
from xdpscope.discovery.inventory import Inventory
from xdpscope.libbpf import Link, Map

NEW_TARGET, UNPINNED = "new_target", "_removed"

# What changes how a target is traced, or what is pinned of it.
_STEPS: tuple[tuple[Any, str], ...] = (
    (pins.State, NEW_TARGET),
    (Map, "pin"),
    (Link, "trace"),
    (Link, "pin"),
    (Link, "close"),
    (pins, UNPINNED),
)


@contextmanager
def observing(
    path: Path, sizes: FlowSizes | None, selection: Selection | None = None
) -> Iterator[Observer]:
    """Yield the parts of an agent that pins its state there."""
    with (
        PinPath.open(path) as pin_path,
        Engine(sizes, pins=pin_path) as engine,
        Inventory() as inventory,
        Observer(engine, inventory, selection or Selection(), Flows()) as observer,
    ):
        yield observer


class Forked:
    """A process that scans the host all the time; killed at the end of the block."""

    def __init__(
        self,
        path: Path,
        sizes: FlowSizes | None,
        selection: Selection | None = None,
        halt: tuple[str, int] | None = None,
    ) -> None:
        """Start it.

        Args:
            halt: From the first step of this name on it does so many steps, and then stops
                (SIGSTOP).
        """
        self._begun = 0
        self._told, telling = os.pipe()
        os.set_blocking(self._told, False)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if halt is not None:
                    _halt_after(*halt)
                with observing(path, sizes, selection) as observer:
                    while True:
                        os.write(telling, b".")
                        observer.scan(0)
                        observer.counts()
                        time.sleep(0.05)
            except BaseException:  # noqa: BLE001 - it must not become a second pytest
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(telling)

    @property
    def scans(self) -> int:
        """Return how many scans it has begun."""
        with suppress(BlockingIOError):
            self._begun += len(os.read(self._told, 4096))
        return self._begun

    @property
    def halted(self) -> bool:
        status = Path(f"/proc/{self.pid}/stat").read_text()
        state = status.rpartition(")")[2].split()[0]
        assert state != "Z", "it has ended by itself"
        return state == "T"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._told)
        self.pid = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self.kill()


def _halt_after(first: str, wanted: int) -> None:
    done = 0

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **keywords: Any) -> Any:
            nonlocal done
            result = function(*arguments, **keywords)
            done += bool(done) or name == first
            if done == wanted:
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        return step

    for owner, name in _STEPS:
        setattr(owner, name, counting(name, getattr(owner, name)))
