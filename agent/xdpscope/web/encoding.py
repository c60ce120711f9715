# SPDX-License-Identifier: Apache-2.0
"""The body of an answer as its client can take it: exposition format and compression."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

__all__ = ["Answer", "expose", "gzip_accepted"]

# Below this compression saves no packet worth the work.
_WORTH_COMPRESSING = 1024
# What the transport takes before it asks for a pause: a slow client then holds one slice of memory
# in it, and stays a request in flight until the last one is gone.
_SLICE = 64 * 1024
# The versions we speak; prometheus_client would claim any other that it is asked for, and fail on
# one that is no number.
_VERSIONS = frozenset({"", "0.0.1", "0.0.4", "1.0.0"})


class Answer(Response):
    """A whole body, compressed where accepted and worth it; build it off the event loop."""

    def __init__(self, request: Request, body: bytes, content_type: str, vary: str = "") -> None:
        accepted = ",".join(request.headers.getlist("accept-encoding"))
        headers = {
            "content-type": content_type,
            "vary": ", ".join(filter(None, (vary, "Accept-Encoding"))),
        }
        if len(body) > _WORTH_COMPRESSING and gzip_accepted(accepted):
            # Level 1: a fifth of the time of the default for a page hardly larger.
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["content-encoding"] = "gzip"
        super().__init__(body, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            for at in range(0, len(self.body), _SLICE):
                part = bytes(self.body[at : at + _SLICE])
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def expose(registry: CollectorRegistry, accept: str, names: Sequence[str]) -> tuple[bytes, str]:
    """Collect and format: the page and its content type. Blocks; raises what a collector raises.

    ``accept`` is the request's header; ``names`` restrict the page to these metrics, if given.
    """
    understood = ",".join(
        part for part in accept.split(",") if _parameters(part).get("version", "") in _VERSIONS
    )
    encoder, content_type = choose_encoder(understood)
    return encoder(registry.restricted_registry(names) if names else registry), content_type


def gzip_accepted(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header names gzip, and not with a quality of nought."""
    for part in accept_encoding.split(","):
        if part.partition(";")[0].strip().lower() == "gzip":
            return _parameters(part).get("q", "1").strip("0.") != ""
    return False


def _parameters(part: str) -> dict[str, str]:
    def pairs() -> Iterator[tuple[str, str]]:
        for parameter in part.split(";")[1:]:
            name, _, value = parameter.partition("=")
            yield name.strip().lower(), value.strip()

    return dict(pairs())
