# SPDX-License-Identifier: Apache-2.0
"""The body of an answer as its client can take it: exposition format and compression."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from xdpscope.web.negotiation import gzip_accepted, preferred_format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import CollectorRegistry
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

__all__ = ["Answer", "expose"]

# Below this compression saves no packet worth the work.
_WORTH_COMPRESSING = 1024
# The bytes that the transport accepts before it pauses the writer. A slow client then holds one
# slice of memory in it. Its request stays in flight until the last slice is gone.
_SLICE = 64 * 1024


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
    # prometheus_client ignores qualities, and fails on a version that is not a number.
    encoder, content_type = choose_encoder(preferred_format(accept))
    return encoder(registry.restricted_registry(names) if names else registry), content_type
