# SPDX-License-Identifier: Apache-2.0
"""Blocking work off the event loop, a bounded number at a time."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypeVar

from starlette.requests import ClientDisconnect

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    # The result that a thread hands over: the awaiting caller calls it, and it returns or raises.
    _Outcome: TypeAlias = Callable[[], "T"]

__all__ = ["Workers"]


class Workers:
    """Runs functions in threads of their own, at most ``limit`` at a time, in the order of
    requests.

    Each call has a daemon thread. It costs a tenth of a millisecond; a collection takes many. A
    thread that hangs in a system call cannot keep the agent from ending, as a pool's would.
    """

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)

    async def run(self, request: Request, work: Callable[[], T]) -> T:
        """Return the result of ``work()``, or raise its exception.

        Raises ClientDisconnect, without a call, if the client left while it waited. Otherwise a
        scraper that gives up and tries again would leave ever more work behind.
        """
        await self._slots.acquire()
        try:
            if await request.is_disconnected():
                raise ClientDisconnect
            result: asyncio.Future[_Outcome[T]] = asyncio.get_running_loop().create_future()
            thread = threading.Thread(target=self._body, args=(work, result), daemon=True)
            thread.start()
        except BaseException:
            self._slots.release()
            raise
        return (await result)()

    def _body(self, work: Callable[[], T], result: asyncio.Future[_Outcome[T]]) -> None:
        outcome: _Outcome[T]
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - raised again where the result is awaited
            outcome = partial(_raise, error)
        else:
            outcome = partial(_identity, value)
        # Once the loop is closed there is nobody left to tell.
        with suppress(RuntimeError):
            result.get_loop().call_soon_threadsafe(self._finish, result, outcome)

    def _finish(self, result: asyncio.Future[_Outcome[T]], outcome: _Outcome[T]) -> None:
        # Only now, not when the request is cancelled: the bound is on threads, not on waiters.
        self._slots.release()
        if not result.done():
            result.set_result(outcome)


def _identity(value: T) -> T:
    return value


def _raise(error: BaseException) -> NoReturn:
    raise error
