# SPDX-License-Identifier: Apache-2.0
"""Basic authentication against bcrypt hashes."""

from __future__ import annotations

import hmac
import secrets
from base64 import b64decode
from typing import TYPE_CHECKING

import bcrypt
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from xdpscope.web.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

    from xdpscope.web.policy import Policy

__all__ = ["BasicAuth"]

# A comparison takes a tenth of a second of a CPU by design. This few may wait for it, so that
# password guessers leave room for requests that need no comparison.
_WAITING = 8
# bcrypt ignores the rest of a longer password. Other libraries cut it silently, so hashes may come
# from a longer one.
_SIGNIFICANT = 72


class BasicAuth:
    """ASGI middleware: lets users through, and everyone if there are none.

    A password that was right once is known by its digest from then on: a scrape costs no bcrypt.
    An unknown user costs as much as a wrong password, so timing does not tell who there is.
    """

    def __init__(self, app: ASGIApp, *, policy: Callable[[], Policy]) -> None:
        self._app = app
        self._policy = policy
        self._comparisons = Workers(1)
        self._waiting = 0
        self._secret = secrets.token_bytes(32)
        # One entry for each user, so that nobody can push another's out.
        self._right: dict[bytes, bytes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if users := self._policy().users:
            request = Request(scope, receive)
            given = _credentials(request.headers.get("authorization", ""))
            if given is None:
                app = _refused()
            elif not self._known(users, *given):
                app = await self._compare(request, users, *given)
        await app(scope, receive, send)

    def _known(self, users: Mapping[bytes, bytes], user: bytes, password: bytes) -> bool:
        right, hashed = self._right.get(user), users.get(user)
        if right is None or hashed is None:
            return False
        return hmac.compare_digest(right, self._digest(hashed, password))

    async def _compare(
        self, request: Request, users: Mapping[bytes, bytes], user: bytes, password: bytes
    ) -> ASGIApp:
        if self._waiting >= _WAITING:
            return PlainTextResponse(
                "too many passwords to check\n", 503, {"retry-after": "1", "connection": "close"}
            )
        hashed = users.get(user)
        against = hashed or _nobodys(users)
        self._waiting += 1
        try:
            right = await self._comparisons.run(request, lambda: _matches(password, against))
        finally:
            self._waiting -= 1
        if not right or hashed is None:
            return _refused()
        self._right = {name: digest for name, digest in self._right.items() if name in users}
        self._right[user] = self._digest(hashed, password)
        return self._app

    def _digest(self, hashed: bytes, password: bytes) -> bytes:
        """Return the key of a password with this hash: after a change of the hash the password is
        unknown.
        """
        return hmac.digest(self._secret, hashed + b"\0" + password, "sha256")


def _credentials(authorization: str) -> tuple[bytes, bytes] | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return (user, password) if colon else None


def _matches(password: bytes, hashed: bytes) -> bool:
    return bcrypt.checkpw(password[:_SIGNIFICANT], hashed)


def _nobodys(users: Mapping[bytes, bytes]) -> bytes:
    """Return a hash that no password matches, as expensive to compare with as the slowest of
    these.
    """
    cost = max(hashed[4:6] for hashed in users.values())
    return b"$2b$" + cost + b"$" + b"." * 53


def _refused() -> PlainTextResponse:
    return PlainTextResponse(
        "who are you?\n", 401, {"www-authenticate": 'Basic realm="xdpscope", charset="UTF-8"'}
    )
