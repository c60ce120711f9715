# SPDX-License-Identifier: Apache-2.0
"""Probes: one that fails fails alone; the maps' metrics from plain values, and their limits."""

from collections.abc import Iterable, Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from structlog.testing import capture_logs

from xdpscope.config import Config
from xdpscope.discovery.model import Snapshot, XdpProgram
from xdpscope.errors import KernelError, LoadError
from xdpscope.metrics import IsolatedCollectors
from xdpscope.probes import REGISTRY, Probe, RunningProbes, Scan, maps
from xdpscope.probes.maps import MapsProbe
from xdpscope.probes.maps.entries import MAPS_LIMIT
from xdpscope.probes.maps.report import MapFacts

SCAN = Scan(Snapshot())

Samples = dict[tuple[str, ...], float]
"""By metric and label values, in the order of the labels' names."""


def samples(probes: RunningProbes) -> Samples:
    registry = CollectorRegistry()
    registry.register(IsolatedCollectors(probes.collectors()))
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name != "xdpscope_collector_duration_seconds"
    }


class Counting(Probe):
    """Shows how often it was updated, and fails on request."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failure: Exception | None = None
        self.updates = 0
        self.sections: list[object] = []
        self.closed = False

    def update(self, scan: Scan) -> None:
        if self.failure is not None:
            raise self.failure
        self.updates += 1

    def collect(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(f"{self.name}_updates", "", value=self.updates)]

    def reconfigure(self, section: object) -> None:
        self.sections.append(section)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("failure", [KernelError("reading failed", 5), OSError(5), ValueError()])
def test_a_probe_that_fails_fails_alone(failure: Exception) -> None:
    bad, good = Counting("bad"), Counting("good")
    with RunningProbes([bad, good]) as probes:
        probes.update(SCAN)
        bad.failure = failure
        with capture_logs() as log:
            probes.update(SCAN)
            probes.update(SCAN)
        assert [entry["probe"] for entry in log] == ["bad"], "logged once"
        success = "xdpscope_collector_success"
        with capture_logs():
            assert samples(probes) == {
                ("good_updates",): 3,
                (success, "bad"): 0,
                (success, "good"): 1,
            }
        bad.failure = None
        probes.update(SCAN)
        assert samples(probes)["bad_updates",] == 2
    assert bad.closed and good.closed


def test_a_probe_gets_its_section_of_the_configuration() -> None:
    flows, other = Counting("flows"), Counting("other")
    config = Config()
    RunningProbes([flows, other]).reconfigure(config)
    assert flows.sections == [config.flows]
    assert other.sections == [None]


def test_names_of_probes_are_different() -> None:
    names = [make().name for make in REGISTRY]
    assert len(set(names)) == len(names)


def program(id: int, *map_ids: int) -> XdpProgram:
    return XdpProgram(id, "0" * 16, "cut", f"program_{id}", 3, True, "xdp", map_ids=map_ids)


def scan(*programs: XdpProgram) -> Scan:
    return Scan(Snapshot(programs={each.id: each for each in programs}))


class Host:
    """In the place of the kernel: any map can be opened, and those with even ids are counted."""

    def __init__(self, *_: object) -> None:
        self.hidden: set[int] = set()

    def facts(self, ids: Iterable[int]) -> dict[int, MapFacts]:
        return {
            id: MapFacts(id, f"map_{id}", "hash", 100, 4096 if id % 3 else None)
            for id in ids
            if id not in self.hidden
        }

    def read(self, ids: Iterable[int]) -> dict[int, int]:
        return {id: id * 10 for id in ids if id % 2 == 0}

    def close(self) -> None:
        pass


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(maps.MapSource, "read", lambda _, ids: host.facts(ids))
    monkeypatch.setattr(maps, "EntryCounter", lambda: host)
    return host


@pytest.fixture
def probes() -> Iterator[RunningProbes]:
    with RunningProbes([MapsProbe()]) as probes:
        yield probes


def test_maps(host: Host, probes: RunningProbes) -> None:
    host.hidden = {9}
    probes.update(scan(program(5, 2, 3), program(7, 2, 9)))
    assert samples(probes) == {
        ("xdp_map_info", "map_2", "2", "hash"): 1,
        ("xdp_map_info", "map_3", "3", "hash"): 1,
        ("xdp_program_map_info", "2", "program_5", "5"): 1,
        ("xdp_program_map_info", "3", "program_5", "5"): 1,
        ("xdp_program_map_info", "2", "program_7", "7"): 1,
        ("xdp_map_entries", "map_2", "2"): 20,
        ("xdp_map_max_entries", "map_2", "2"): 100,
        ("xdp_map_max_entries", "map_3", "3"): 100,
        ("xdp_map_memory_bytes", "map_2", "2"): 4096,
        ("xdpscope_collector_success", "maps"): 1,
    }
    probes.update(scan())
    assert samples(probes) == {("xdpscope_collector_success", "maps"): 1}


@pytest.mark.usefixtures("host")
def test_there_is_a_limit_to_series(probes: RunningProbes) -> None:
    many = [program(id, *range(12 * id, 12 * id + 64)) for id in range(1, 121)]
    with capture_logs() as log:
        probes.update(scan(*many))
        probes.update(scan(*many))
    (entry,) = log
    assert entry["omitted_maps"] == 12 * 119 + 64 - MAPS_LIMIT
    found = [labels for labels in samples(probes) if labels[0] == "xdp_map_info"]
    assert {int(labels[2]) for labels in found} == set(range(12, 12 + MAPS_LIMIT)), "the oldest"
    uses = [labels for labels in samples(probes) if labels[0] == "xdp_program_map_info"]
    assert len(uses) == maps.USES_LIMIT
    whole = sum(map_id < 12 + MAPS_LIMIT for each in many for map_id in each.map_ids)
    assert entry["omitted_program_maps"] == whole - maps.USES_LIMIT


@pytest.mark.usefixtures("host")
def test_a_kernel_without_the_iterator(
    probes: RunningProbes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Host:
        raise LoadError("loading failed", 22)

    monkeypatch.setattr(maps, "EntryCounter", refused)
    with capture_logs() as log:
        for _ in range(3):
            probes.update(scan(program(5, 2)))
    assert len(log) == 1
    names = {name for name, *_ in samples(probes)}
    assert "xdp_map_entries" not in names
    assert {"xdp_map_info", "xdp_map_max_entries", "xdp_map_memory_bytes"} <= names
