# SPDX-License-Identifier: Apache-2.0
"""libpcap's own interpreter of classic BPF."""

from collections.abc import Sequence
from typing import Any

from xdpscope.sessions.packet_filter import libpcap
from xdpscope.sessions.packet_filter.classic import Classic


class Reference:
    """One program, run by ``bpf_filter()``."""

    def __init__(self, program: Sequence[Classic]) -> None:
        self._library: Any = libpcap._library()
        self._program = (libpcap._Instruction * len(program))(*program)
        self._size = len(program)

    def is_valid(self) -> bool:
        """Return what ``bpf_validate()`` says."""
        return bool(self._library.bpf_validate(self._program, self._size))

    def run(self, packet: bytes, length: int) -> int:
        """Return what the program returns for a packet that was ``length`` bytes long."""
        found: int = self._library.bpf_filter(self._program, packet, length, len(packet))
        return found & 0xFFFFFFFF
