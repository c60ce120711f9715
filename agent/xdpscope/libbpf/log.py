# SPDX-License-Identifier: Apache-2.0
"""Takes libbpf's messages off standard error and into structlog."""

import structlog

from xdpscope.libbpf._raw import ffi, lib

_log = structlog.get_logger("libbpf")


@ffi.def_extern()  # type: ignore[untyped-decorator]
def xdpscope_log(_level: int, message: object) -> None:
    """Log a message of libbpf, in the thread that called libbpf.

    Every message has level debug, warnings too. Each failure raises an error of its own with the
    verifier's log. Half of the warnings come from probes that are meant to fail.
    """
    text = ffi.string(message).decode(errors="replace").strip()
    _log.debug(text)


def capture() -> None:
    """Receive libbpf's messages from now on. The package calls this once, when it is imported."""
    lib.xdpscope_capture_log()
