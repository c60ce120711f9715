# SPDX-License-Identifier: Apache-2.0
"""The headers of every answer, which keep browsers from making more of it than there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdpscope.web.page import CONTENT_SECURITY_POLICY

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["with_security"]

_SECURITY = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "deny",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def with_security(configured: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return our headers, and the headers of the configuration, which replace ours of the same
    name.
    """
    headers = _SECURITY | {name.lower(): value for name, value in configured.items()}
    return [(name.encode(), value.encode()) for name, value in headers.items()]
