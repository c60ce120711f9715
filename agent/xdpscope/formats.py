# SPDX-License-Identifier: Apache-2.0
"""The JSON documents of the API and of the commands; docs/api.md describes them.

Each is an object with its format's ``version``. A new key leaves the version as it is. A key
that changes its meaning or goes away makes it another version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FLOWS", "PROGRAMS", "document"]

_VERSIONS = {"programs": 1, "flows": 1, "events": 1, "checks": 1, "removed": 1}

FLOWS = _VERSIONS["flows"]
"""The version of the format that ``xdpscope flows`` can read."""

PROGRAMS = _VERSIONS["programs"]
"""The version of the format that ``xdpscope list`` can read."""


def document(name: str, items: Sequence[object], **more: object) -> dict[str, object]:
    """Return a document: ``items`` under the key ``name``, after what else there is to say."""
    return {"version": _VERSIONS[name], **more, name: items}
