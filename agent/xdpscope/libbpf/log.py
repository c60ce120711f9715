# SPDX-License-Identifier: Apache-2.0
"""Takes libbpf's messages off standard error and into structlog."""

import structlog

from xdpscope.libbpf._raw import ffi, lib

_log = structlog.get_logger("libbpf")


@ffi.def_extern()  # type: ignore[untyped-decorator]
def xdpscope_log(_level: int, message: object) -> None:
    """Called by libbpf, in whichever thread is in it.

    Every message goes out at debug level, warnings too: whatever fails raises an error
    of its own with the verifier's log, and half of the warnings are of probes that are
    meant to fail.
    """
    text = ffi.string(message).decode(errors="replace").strip()
    _log.debug(text)


def capture() -> None:
    """Routes libbpf's messages here; done once, when the package is imported."""
    lib.xdpscope_capture_log()
