# SPDX-License-Identifier: Apache-2.0
"""How large the flow tables are made."""

import pytest

from xdpscope.attach.variants import WAYS, FlowSizes, Variant

ENTRIES = 65536


@pytest.mark.parametrize(
    ("online", "possible", "locations", "cpus"),
    [
        (1, 1, ENTRIES, 0),
        (2, 2, ENTRIES, 0),
        (2, 4, ENTRIES, 0),
        (2, 5, ENTRIES, 2),
        (2, 128, ENTRIES, 2),
        (8, 128, ENTRIES // 4, 8),
        (64, 128, ENTRIES // 16, 0),
        (256, 256, ENTRIES // 16, 0),
        (2, 8192, ENTRIES, 2),
    ],
)
def test_tables_serve_the_cpus_that_are_online(
    online: int, possible: int, locations: int, cpus: int
) -> None:
    """And take memory for at most twice as many."""
    sizes = FlowSizes.for_entries(ENTRIES, 1, online, possible)
    assert (sizes.sets * WAYS, sizes.cpus) == (locations, cpus)
    assert sizes.sets * WAYS * (sizes.cpus or possible) <= max(4, online / 8) * ENTRIES


def test_pinned_state_is_the_same_with_more_cpus() -> None:
    """Only what is configured makes it another."""
    variant = Variant("flows", "first", watches_devices=True)

    def identity(online: int, entries: int = ENTRIES, sample_rate: int = 1) -> str:
        return variant.id(FlowSizes.for_entries(entries, sample_rate, online, 128))

    assert len({identity(online) for online in (1, 2, 8, 32, 64, 128)}) == 1
    assert len({identity(2), identity(2, entries=1), identity(2, sample_rate=10)}) == 3
