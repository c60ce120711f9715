# SPDX-License-Identifier: Apache-2.0
"""The interface between the agent and its probes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import Metric

from xdpscope.discovery.model import Snapshot


@dataclass(frozen=True, slots=True)
class Scan:
    """The results of a scan of the host."""

    snapshot: Snapshot


class Probe(Protocol):
    """One capability. The agent knows probes only through this interface.

    The scan thread calls all methods except ``collect``.
    """

    name: str
    """The value of the label ``collector``, and its configuration section unless ``section`` names
    another."""

    section: str = ""
    """Its configuration section, if that is not ``name``: several probes may share one."""

    def update(self, scan: Scan) -> None:
        """Read the kernel, at the end of each scan. The first call loads what this needs.

        Raises:
            KernelError: the probe has no result. One object that cannot be read is no error.
            OSError: the same.
        """

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of the last update, from any thread.

        Must not read the kernel or wait for an update. Returns metrics without samples before
        the first update: the documentation is generated from them.
        """
        ...

    def reconfigure(self, section: object) -> None:
        """Use another configuration from the next update on; None if there is no such section."""

    def close(self) -> None:
        """Release all kernel objects. Calling it again is no error."""
