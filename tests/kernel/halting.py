# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.kernel.halting FIRST NUMBER run …``: an agent that stops at a chosen step.

Steps are what changes how a target is traced or what is pinned of it, counted from the FIRST on:
``new_target``, when its place among the pins is made, or ``_removed``, when something is unpinned.
After so many of them the process stops (SIGSTOP), and whoever waits for that may kill it there.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from xdpscope.__main__ import main
from xdpscope.libbpf import Link, Map
from xdpscope.tracing import pins

_STEPS = (
    (pins.State, "new_target"),
    (Map, "pin"),
    (Link, "trace"),
    (Link, "pin"),
    (Link, "close"),
    (pins, "_removed"),
)


def halt_after(first: str, wanted: int) -> None:
    """Has this process stop once so many steps are done."""
    done = 0
    began = False

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **keywords: Any) -> Any:
            nonlocal done, began
            result = function(*arguments, **keywords)
            began = began or name == first
            done += began
            if began and done == wanted:
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        return step

    for owner, name in _STEPS:
        setattr(owner, name, counting(name, getattr(owner, name)))


if __name__ == "__main__":
    halt_after(sys.argv.pop(1), int(sys.argv.pop(1)))
    sys.exit(main())
