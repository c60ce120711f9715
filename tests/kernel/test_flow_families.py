# SPDX-License-Identifier: Apache-2.0
"""Flows that resemble each other are held as well as any others."""

from pathlib import Path

import pytest

from tests.kernel.flows import observing, on_one_cpu
from tests.kernel.lab import Lab
from tests.kernel.test_flow_flood import LEGITIMATE, packet
from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes

# What differs by kernel does not come into it.
pytestmark = pytest.mark.one_kernel

SETS = 1024
FLOWS = 4 * SETS
"""As many as there is room for: of random ones, 89 in a hundred find a place."""


# Where in a packet: the last bytes of the source address, and the destination port.
SOURCE4, PORTS4 = 29, 36
SOURCE6, PORTS6 = 37, 56
DESTINATION6 = 52  # the last 16 bits

RANDOM = (30, 0, 0)
FAMILIES = {
    4: [
        (SOURCE4, PORTS4, 8),  # a /24, and ports
        (SOURCE4, PORTS4 - 2, 4),  # 16 hosts, and more ports, of theirs
        (33, SOURCE4 - 1, 4),  # destinations, and sources
    ],
    6: [
        (SOURCE6, PORTS6, 8),  # interface identifiers, and ports
        (29, DESTINATION6, 8),  # subnets, and interface identifiers they send to
        (SOURCE6, DESTINATION6, 8),
    ],
}


def held(lab: Lab, version: int, family: tuple[int, int, int]) -> int:
    """Return how many of FLOWS flows are held, with secrets of this engine's own."""
    loaded = lab.load_together("flows", "next_of_family")
    program = loaded["next_of_family"]
    loaded.put(".data", 0, 0, *family)
    data = packet(version, 0, LEGITIMATE).ljust(160, b"\0")
    with (
        Engine(FlowSizes(sets=SETS, sample_rate=1)) as engine,
        observing(engine) as observer,
        on_one_cpu(),
    ):
        lab.attach(program, lab.veth(f"xst{len(list(Path('/sys/class/net').iterdir()))}"))
        observer.scan(0)
        program.test_run(data, FLOWS)
        return observer.flow_counts().entries


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("secrets", [1, pytest.param(4, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("version", [4, 6])
def test_families_are_held_as_well_as_random_flows(lab: Lab, version: int, secrets: int) -> None:
    random = held(lab, version, RANDOM)
    assert 0.86 * FLOWS < random < 0.92 * FLOWS
    for family in FAMILIES[version]:
        for _ in range(secrets):
            assert held(lab, version, family) > 0.95 * random, family
