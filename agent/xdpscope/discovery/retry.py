# SPDX-License-Identifier: Apache-2.0
"""Objects of the kernel that could not be read, and when each is tried again."""

import time
from collections.abc import Container
from dataclasses import dataclass

from xdpscope.errors import KernelError, NotPermittedError
from xdpscope.kernel import capabilities

_FIRST, _LONGEST = 1.0, 60.0
"""Seconds between two attempts: they double. After a refusal the agent waits for the longest time,
because each attempt may write a line into the host's audit log.
"""


def check_capability(error: KernelError) -> None:
    """Raise the error if the process lacks the capability to open any object at all.

    With that capability, a refusal concerns one object: a security module forbids that one.
    """
    if isinstance(error, NotPermittedError) and not capabilities.may_open_programs():
        raise error


@dataclass(slots=True)
class _Attempt:
    again_at: float
    pause: float


class Retries:
    """When objects that could not be read are tried again, by their ids."""

    def __init__(self) -> None:
        self._attempts: dict[int, _Attempt] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    @property
    def due(self) -> bool:
        """Return whether any of them is to be tried now."""
        now = time.monotonic()
        return any(attempt.again_at <= now for attempt in self._attempts.values())

    def is_due(self, id: int) -> bool:
        """Return whether this one is to be tried now."""
        attempt = self._attempts.get(id)
        return attempt is not None and attempt.again_at <= time.monotonic()

    def failed(self, id: int, error: KernelError) -> bool:
        """Note that an object could not be read; return whether that is news."""
        before = self._attempts.get(id)
        pause = _FIRST if before is None else min(_LONGEST, 2 * before.pause)
        if isinstance(error, NotPermittedError):
            pause = _LONGEST
        self._attempts[id] = _Attempt(time.monotonic() + pause, pause)
        return before is None

    def succeeded(self, id: int) -> None:
        """Forget that it could not be read."""
        self._attempts.pop(id, None)

    def keep(self, ids: Container[int]) -> None:
        """Forget all except these."""
        self._attempts = {id: each for id, each in self._attempts.items() if id in ids}
