# SPDX-License-Identifier: Apache-2.0
"""The interface between the agent and its probes."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from prometheus_client.core import Metric

from xdpscope.attach.spec import NOTHING, Spec
from xdpscope.attach.targets import Target
from xdpscope.discovery.model import Snapshot
from xdpscope.report import TracerCost
from xdpscope.target_reader import TargetReader

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps


AGAIN: Final = 60.0
"""Seconds after which a probe tries again to load what the kernel has refused."""


class Tracers(Protocol):
    """The agent's own tracers. Any thread may call this, until the probe is closed."""

    @property
    def usual_sample_rate(self) -> int | None:
        """Return ``flows.sample_rate``. None if flows are not counted."""

    def sample_flows(self, rate: int, without: Set[int] = frozenset()) -> None:
        """Take one of this many packets for flows from now on. With 0, take none.

        Args:
            rate: The sample rate.
            without: Ids of programs, with rate 0: the next scan replaces their tracers by ones that
                take no packets, and cost less.

        Raises:
            KernelError: the rate stays.
        """

    def costs(self) -> Sequence[TracerCost]:
        """Return what the kernel has counted about each tracer."""
        ...


@dataclass(frozen=True, slots=True)
class Scan:
    """The results of a scan of the host."""

    snapshot: Snapshot
    tracers: Tracers | None = None  # None: there are none


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


class TracerProbe(Probe):
    """A probe that shows what the tracers of targets count.

    ``specs`` says what it needs. All such probes share one pair of tracing programs for each
    target, and one reading of the records. ``collect`` may read the records again, but must not
    wait for a scan: see ``TargetReader.read``.
    """

    reader: TargetReader | None = None
    """What to read from. None until ``open``, and after ``close``."""

    def open(self, reader: TargetReader) -> None:
        """Read from here. The agent calls this once, before the first scan."""
        self.reader = reader

    def specs(self, target: Target) -> Spec:
        """Return what the tracing programs of a target must do for this probe."""
        return NOTHING

    def prepare(self) -> None:
        """Make ready for the result of ``specs`` to change.

        The scan calls this after it has adopted all pinned tracers, before it replaces programs.
        """

    def read(self) -> "Steps[None]":
        """Read what must be read before a scan changes names, in steps. The totals are current.

        Raises:
            KernelError: this could not be read.
        """
        yield from ()

    def forget(self, program: int) -> None:
        """Remove everything about a program that is gone."""

    def update(self, scan: Scan) -> None:
        """Do nothing: the scan and the scrapes read the records."""

    def reconfigure(self, section: object) -> None:
        """Do nothing: there is no configuration section."""

    def close(self) -> None:
        """Stop reading."""
        self.reader = None
