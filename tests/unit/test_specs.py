# SPDX-License-Identifier: Apache-2.0
"""What probes need of a target becomes one pair of tracing programs."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from xdpscope.attach.reason import Reason
from xdpscope.attach.spec import NOTHING, Spec
from xdpscope.attach.targets import Target
from xdpscope.attach.variants import Variant
from xdpscope.discovery.model import Part, XdpProgram
from xdpscope.probes import REGISTRY, RunningProbes, TracerProbe
from xdpscope.probes.flows import FlowsProbe
from xdpscope.probes.verdicts import VerdictsProbe

PROGRAM = XdpProgram(7, "0" * 16, "filter", "filter", 3, True, "xdp")

FLOWS = Variant(
    "flows",
    "exit_verdicts",
    True,
    ("exit_flows", "entry_flows"),
    ("exit_only_plain",),
    ("exit_sampled_out",),
)
VERDICTS = Variant("verdicts", "count", True)


def target(reason: Reason | None) -> Target:
    return Target(PROGRAM, Part(PROGRAM.role), reason=reason)


class Needs(TracerProbe):
    """A probe that needs this in a target in service."""

    name = "needs"

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def specs(self, target: Target) -> Spec:
        return self._spec if target.reason is None else NOTHING

    def collect(self) -> list[object]:
        return []


def test_the_needs_of_all_probes_are_combined() -> None:
    probes = RunningProbes([VerdictsProbe(), Needs(Spec.FLOWS), Needs(Spec.TIMES)])
    assert probes.specs(target(None)) == Spec.VERDICTS | Spec.FLOWS | Spec.TIMES
    assert probes.specs(target(Reason.NOT_ATTACHED)) == Spec.VERDICTS


@pytest.mark.parametrize(
    ("variant", "spec", "writing", "read_only"),
    [
        (FLOWS, Spec.VERDICTS, ("exit_verdicts",), ("exit_verdicts",)),
        (FLOWS, Spec.VERDICTS | Spec.FLOWS, FLOWS.rest, FLOWS.rest_read_only),
        (
            FLOWS,
            Spec.VERDICTS | Spec.FLOWS | Spec.TIMES,
            ("exit_flows_timed", "entry_flows_timed"),
            ("exit_only_plain_timed", "entry_time"),
        ),
        (FLOWS, Spec.VERDICTS | Spec.SAMPLED_OUT, FLOWS.sampled_out, FLOWS.sampled_out),
        (FLOWS, Spec.SAMPLED_OUT | Spec.FLOWS, FLOWS.rest, FLOWS.rest_read_only),
        (
            FLOWS,
            Spec.SAMPLED_OUT | Spec.TIMES,
            ("exit_flows_timed", "entry_flows_timed"),
            ("exit_only_plain_timed", "entry_time"),
        ),
        (VERDICTS, Spec.VERDICTS, ("count",), ("count",)),
        (VERDICTS, Spec.VERDICTS | Spec.TIMES, *[("count_timed", "entry_time")] * 2),
    ],
)
def test_one_pair_of_programs_does_all_of_it(
    variant: Variant, spec: Spec, writing: tuple[str, ...], read_only: tuple[str, ...]
) -> None:
    assert variant.ways(spec) == (writing, read_only)
    assert all(len(way) <= 2 for way in variant.ways(spec))


def test_probes_without_a_reader_show_metrics_without_samples() -> None:
    """The documentation is generated from them, and the first scrape may precede all loading."""
    for make in REGISTRY:
        if isinstance(probe := make(), TracerProbe):
            families = list(probe.collect())
            assert families and not any(family.samples for family in families), probe.name


def test_without_flow_tables_there_is_no_flow_metric() -> None:
    probe = FlowsProbe()
    probe.open(MagicMock(engine=MagicMock(flow_sizes=None), read=lambda begin: _end(begin())))
    assert probe.specs(target(None)) == NOTHING
    assert list(probe.collect()) == [] and probe.held is None
    assert not probe.find().enabled


def _end(steps: object) -> object:
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value
