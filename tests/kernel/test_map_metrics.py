# SPDX-License-Identifier: Apache-2.0
"""The maps of XDP programs: known numbers of entries, read back as metrics."""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from errno import EACCES, EINVAL
from functools import partial

import pytest
from prometheus_client import CollectorRegistry

from tests.kernel.agent import QUICK, AgentProcess
from tests.kernel.confinement import confine
from tests.kernel.conftest import kernel
from tests.kernel.lab import Lab, Loaded
from tests.kernel.test_capabilities import granted
from tests.waiting import wait_for
from xdpscope.config import Outcomes
from xdpscope.discovery.inventory import Inventory
from xdpscope.errors import LoadError, NotPermittedError
from xdpscope.libbpf import Btf, Map, Program
from xdpscope.probes import Scan
from xdpscope.probes import maps as probe_module
from xdpscope.probes.maps import MapsProbe
from xdpscope.probes.maps.entries import EntryCounter

pytestmark = pytest.mark.every_kernel

SIZE = 1000

ENTRIES = {
    "prealloc": 301,
    "grown": 302,
    "grown_small": 7,
    "percpu": 303,
    "percpu_grown": 304,
    "lru": 305,
    "lru_by_cpu": 6,
    "lru_percpu": 307,
    "prefixes": 308,
    "plain": 309,
    "devices": 1,
}
"""What the tests put into each map."""

NEVER_COUNTED = {"plain"}
PREALLOCATED = {"prealloc", "percpu"}
"""Maps that a kernel without ``bpf_map_sum_elem_count`` (6.6) does not count."""

LRU = {"lru", "lru_by_cpu", "lru_percpu"}
"""Maps that a kernel counts by CPU, however old it is."""


def kernel_sums() -> bool:
    with Btf.of_kernel() as btf:
        return btf.has_function("bpf_map_sum_elem_count")


class Maps:
    """The maps of a program, by name."""

    def __init__(self, program: Program) -> None:
        self.ids: dict[str, int] = {}
        for id in program.info().map_ids:
            with Map.open(id) as found:
                self.ids[found.info.name] = id

    def put(self, name: str, numbers: range, value: int = 0) -> None:
        """Set the entries with these numbers, in order."""
        with Map.open(self.ids[name]) as found:
            for number in numbers:
                key = struct.pack("=I", number)
                if name == "prefixes":
                    key = struct.pack("=I", 32) + key
                width = 4 if name == "devices" else 8
                found.update(key, value.to_bytes(width, "little") * found.info.cpus)

    def delete(self, name: str, numbers: range) -> None:
        with Map.open(self.ids[name]) as found:
            for number in numbers:
                prefix = struct.pack("=I", 32) if name == "prefixes" else b""
                found.delete(prefix + struct.pack("=I", number))

    def keys(self, name: str) -> set[bytes]:
        """Read the whole map."""
        with Map.open(self.ids[name]) as found:
            return {key.tobytes() for key in found.items()[0]}


@pytest.fixture
def loaded(lab: Lab) -> Loaded:
    return lab.load_together("map_kinds", "use_all", "use_one", "use_none")


@pytest.fixture
def maps(loaded: Loaded) -> Maps:
    """Return all maps, filled as ENTRIES says."""
    maps = Maps(loaded["use_all"])
    for name, number in ENTRIES.items():
        maps.put(name, range(number), value=1)  # of `devices`: lo
    return maps


class ProbePage:
    """A probe and what it shows after a scan."""

    def __init__(self, inventory: Inventory) -> None:
        self.probe = MapsProbe()
        self._inventory = inventory
        self._registry = CollectorRegistry()
        self._registry.register(self.probe)  # type: ignore[arg-type]

    def scan(self) -> None:
        self.probe.update(Scan(self._inventory.take()))

    def values(self, metric: str, label: str = "map") -> dict[str, float]:
        """Return the series of a metric, by one of their labels."""
        return {
            sample.labels[label]: sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == metric
        }

    def types(self) -> dict[str, str]:
        return {
            sample.labels["map"]: sample.labels["type"]
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == "xdp_map_info"
        }

    def uses(self) -> set[tuple[str, str]]:
        """Programs and the ids of maps that they use."""
        return {
            (sample.labels["program"], sample.labels["map_id"])
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == "xdp_program_map_info"
        }


@pytest.fixture
def page() -> Iterator[ProbePage]:
    with Inventory() as inventory:
        page = ProbePage(inventory)
        yield page
        page.probe.close()


def counted(ids: Mapping[str, int], **options: bool) -> dict[str, int]:
    """Entries by the name of the map."""
    with EntryCounter(**options) as counter:
        found = counter.read(ids.values())
    return {name: found[id] for name, id in ids.items() if id in found}


def without(names: set[str]) -> dict[str, int]:
    return {name: number for name, number in ENTRIES.items() if name not in names}


def test_known_numbers_of_entries(maps: Maps, page: ProbePage) -> None:
    page.scan()
    unknown = NEVER_COUNTED if kernel_sums() else NEVER_COUNTED | PREALLOCATED
    assert page.values("xdp_map_entries") == without(unknown)
    assert page.values("xdp_map_max_entries") == dict.fromkeys(ENTRIES, SIZE) | {
        "grown_small": 8,
        "devices": 16,
    }


def test_entries_as_on_kernels_before_the_sum(maps: Maps) -> None:
    """The older way on a newer kernel, which has the same structures."""
    unknown = NEVER_COUNTED | PREALLOCATED
    if kernel() >= (7, 0):
        unknown |= {"lru", "lru_percpu"}  # their lists have other names there
    assert counted(maps.ids, by_cpu=True) == without(unknown)


@pytest.mark.first_kernel
@pytest.mark.parametrize("by_cpu", [False, True])
def test_entries_follow_changes(maps: Maps, by_cpu: bool) -> None:
    """Replaced, deleted and evicted entries, put in from every CPU."""
    if by_cpu and kernel() >= (7, 0):
        pytest.skip("the lists of LRU maps have other names from Linux 7.0 on")
    before = os.sched_getaffinity(0)
    try:
        for cpu in before:
            os.sched_setaffinity(0, {cpu})
            maps.put("grown", range(cpu * 200, 400 + cpu * 200))
            maps.put("lru", range(cpu * 2000, cpu * 2000 + 700))
            maps.put("lru_by_cpu", range(cpu * 2000, cpu * 2000 + 700))
    finally:
        os.sched_setaffinity(0, before)
    maps.delete("grown", range(100))
    maps.delete("lru", range(2000, 2050))
    maps.delete("prefixes", range(8))
    found = counted(maps.ids, by_cpu=by_cpu)
    for name in ("grown", "lru", "lru_by_cpu"):
        assert found[name] == len(maps.keys(name)), name
    assert found["grown"] == 100 + 200 * len(before)
    assert found["lru"] > SIZE // 2, "there were more than fit"
    assert found["prefixes"] == ENTRIES["prefixes"] - 8


@pytest.mark.first_kernel
def test_a_map_that_is_empty_has_no_entries(loaded: Loaded, page: ProbePage) -> None:
    page.scan()
    assert page.values("xdp_map_entries").get("grown") == 0
    assert "plain" not in page.values("xdp_map_entries")


@pytest.mark.first_kernel
def test_without_outcomes_maps_have_no_series(maps: Maps, page: ProbePage) -> None:
    page.scan()
    shown = page.types()
    assert shown.keys() == ENTRIES.keys()
    page.probe.reconfigure(Outcomes(enabled=False))
    page.scan()
    assert (page.types(), page.uses(), page.values("xdp_map_entries")) == ({}, set(), {})
    page.probe.reconfigure(Outcomes())
    page.scan()
    assert page.types() == shown and page.values("xdp_map_entries")


def test_types_and_memory(maps: Maps, page: ProbePage) -> None:
    page.scan()
    assert page.values("xdp_map_info") == dict.fromkeys(ENTRIES, 1)
    types = {
        "prealloc": "hash",
        "percpu_grown": "percpu_hash",
        "lru": "lru_hash",
        "lru_percpu": "lru_percpu_hash",
        "prefixes": "lpm_trie",
        "plain": "array",
        "devices": "devmap_hash",
    }
    shown = page.types()
    assert {name: shown[name] for name in types} == types
    memory = page.values("xdp_map_memory_bytes")
    assert memory.keys() == ENTRIES.keys()
    assert memory["plain"] >= SIZE * 8
    assert memory["prealloc"] >= SIZE * 12
    maps.put("grown", range(1000, 1500))
    page.scan()
    more = page.values("xdp_map_memory_bytes")["grown"] - memory["grown"]
    if kernel() >= (6, 4):
        assert more >= 500 * 12
    else:
        assert more == 0 and memory["grown"] >= SIZE * 12


@pytest.mark.first_kernel
def test_maps_that_programs_share(maps: Maps, page: ProbePage) -> None:
    page.scan()
    shared = str(maps.ids["grown"])
    everything = {("use_all", str(id)) for id in maps.ids.values()}
    assert page.uses() == everything | {("use_one", shared)}


@pytest.mark.first_kernel
def test_a_map_goes_with_its_last_program(lab: Lab, page: ProbePage) -> None:
    first = lab.load_together("map_kinds", "use_one")
    second = lab.load_together("map_kinds", "use_one")
    page.scan()
    ids = {str(Maps(each["use_one"]).ids["grown"]) for each in (first, second)}
    (left,) = ids - {str(Maps(first["use_one"]).ids["grown"])}
    assert len(ids) == 2 and page.values("xdp_map_entries", "map_id").keys() == ids
    first.close()

    def gone() -> bool:
        page.scan()
        return page.values("xdp_map_info", "map_id").keys() == {left}

    wait_for(gone)  # the kernel frees a program after a grace period
    for metric in ("xdp_map_entries", "xdp_map_max_entries", "xdp_map_memory_bytes"):
        assert page.values(metric, "map_id").keys() == {left}
    assert page.uses() == {("use_one", left)}


@pytest.mark.first_kernel
def test_one_map_cannot_be_opened(
    maps: Maps, page: ProbePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a security module forbids one map."""
    opened: Callable[[int], Map] = Map.open

    def forbidden(id: int) -> Map:
        if id == maps.ids["lru"]:
            raise NotPermittedError("opening failed", EACCES)
        return opened(id)

    monkeypatch.setattr(Map, "open", forbidden)
    for _ in range(2):
        page.scan()
        for metric in ("xdp_map_info", "xdp_map_max_entries", "xdp_map_memory_bytes"):
            assert page.values(metric).keys() == ENTRIES.keys() - {"lru"}
        assert page.values("xdp_map_entries")["lru_percpu"] == ENTRIES["lru_percpu"]


@pytest.mark.first_kernel
def test_without_the_iterator_only_entries_are_missing(
    maps: Maps, page: ProbePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> EntryCounter:
        raise LoadError("loading failed", EINVAL)

    monkeypatch.setattr(probe_module, "EntryCounter", refused)
    page.scan()
    assert page.values("xdp_map_entries") == {}
    assert page.values("xdp_map_max_entries").keys() == ENTRIES.keys()
    assert page.values("xdp_map_memory_bytes").keys() == ENTRIES.keys()


@pytest.mark.matrix
@pytest.mark.parametrize("lost", [None, "SYSLOG"])
def test_the_agent_as_the_daemonset_runs_it(maps: Maps, lost: str | None) -> None:
    """Only a kernel whose BTF has no per-CPU variables (5.10) must show addresses for LRU maps."""
    names = [name for name in granted() if name != lost]
    unknown = NEVER_COUNTED if kernel_sums() else NEVER_COUNTED | PREALLOCATED
    if lost and kernel() < (5, 11):
        unknown = unknown | LRU
    with AgentProcess(QUICK, before=partial(confine, names)) as agent:
        agent.ready()
        wait_for(lambda: bool(agent.samples("xdp_map_info")))
        entries = {labels["map"]: value for labels, value in agent.samples("xdp_map_entries")}
        assert entries == without(unknown)
        assert agent.value("xdpscope_collector_success", collector="maps") == 1
        memory = {labels["map"] for labels, _ in agent.samples("xdp_map_memory_bytes")}
        assert memory == ENTRIES.keys(), "none of the agent's own maps"
        assert agent.stop() == 0
