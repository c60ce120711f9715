# SPDX-License-Identifier: Apache-2.0
"""All probes of an agent. A probe that fails does not affect the others."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Self, TypeVar

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from xdpscope.attach.spec import NOTHING, Spec
from xdpscope.attach.targets import Target
from xdpscope.errors import KernelError
from xdpscope.probes.probe import Probe, Scan, TracerProbe
from xdpscope.target_reader import TargetReader

if TYPE_CHECKING:
    from xdpscope.read_lock import Steps

_log = structlog.get_logger(__name__)

P = TypeVar("P")


class _Guarded(Collector):
    """A probe, and the error of its last update."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self._failure: Exception | None = None

    def update(self, scan: Scan) -> None:
        """Update the probe; log the first of several failures in a row."""
        try:
            self.probe.update(scan)
        except (KernelError, OSError) as error:
            if self._failure is None:
                _log.warning("probe failed", probe=self.probe.name, error=str(error))
            self._failure = error
        except Exception as error:  # noqa: BLE001 - a fault in one probe stays there
            if self._failure is None:
                _log.exception("probe failed", probe=self.probe.name)
            self._failure = error
        else:
            self._failure = None

    def collect(self) -> Iterable[Metric]:
        """Return the probe's metrics.

        Raises:
            Exception: the last update failed, so that there is nothing current to show.
        """
        if self._failure is not None:
            raise self._failure
        return self.probe.collect()


class RunningProbes:
    """Updates all probes after each scan, and closes them at the end."""

    def __init__(self, probes: Iterable[Probe]) -> None:
        """Take the probes, which must have different names."""
        self._guarded = [_Guarded(probe) for probe in probes]
        self._tracer_probes = [
            each.probe for each in self._guarded if isinstance(each.probe, TracerProbe)
        ]
        self._together: dict[tuple[Spec, ...], Spec] = {}

    def open(self, reader: TargetReader) -> None:
        """Let the probes that use tracers read from here."""
        for each in self._tracer_probes:
            each.open(reader)

    def specs(self, target: Target) -> Spec:
        """Return what the one pair of tracing programs of a target must do for all probes."""
        needs = tuple(each.specs(target) for each in self._tracer_probes)
        # Each scan asks this of each target, and `|` of enum members is slow Python.
        if (spec := self._together.get(needs)) is None:
            spec = self._together[needs] = reduce(or_, needs, NOTHING)
        return spec

    def prepare(self) -> None:
        """Call ``prepare`` of each probe that uses tracers."""
        for each in self._tracer_probes:
            each.prepare()

    def read(self) -> "Steps[None]":
        """Do the steps of ``read`` of each probe that uses tracers."""
        for each in self._tracer_probes:
            yield from each.read()

    def forget(self, program: int) -> None:
        """Remove everything about a program that is gone."""
        for each in self._tracer_probes:
            each.forget(program)

    def update(self, scan: Scan) -> None:
        """Update each probe."""
        for each in self._guarded:
            each.update(scan)

    def reconfigure(self, config: object) -> None:
        """Give each probe its section of a configuration."""
        for each in self._guarded:
            section = each.probe.section or each.probe.name
            each.probe.reconfigure(getattr(config, section, None))

    def find(self, kind: type[P]) -> P | None:
        """Return the probe of a class, if it runs."""
        return next((each.probe for each in self._guarded if isinstance(each.probe, kind)), None)

    def collectors(self) -> Mapping[str, Collector]:
        """Return a collector for each probe, by the probe's name."""
        return {each.probe.name: each for each in self._guarded}

    def close(self) -> None:
        """Close each probe."""
        for each in self._guarded:
            each.probe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
