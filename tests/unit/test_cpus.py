# SPDX-License-Identifier: Apache-2.0
"""Packets of each CPU on the page, and the hint where one CPU handles everything."""

from __future__ import annotations

import pytest
from tests.unit.scene import program

from xdpscope.web.page import render


def page(*counts: dict[int, int], cpus: int = 8) -> str:
    """The page of a program with packets by CPU, at each of its locations."""
    shown = program(
        7,
        "filter",
        counts=[
            {
                "netns": "host",
                "interface": "eth0",
                "packets": {"pass": sum(packets.values())},
                "bytes": {},
                "cpus": [
                    {"cpu": cpu, "packets": {"pass": n - 1, "drop": 1}, "bytes": {}}
                    for cpu, n in packets.items()
                ],
            }
            for packets in counts
        ],
    )
    text = render([shown], (), {}, cpus=cpus).decode()
    return text.partition('id="cpus"')[2].partition("<h2")[0]


def test_packets_of_each_cpu_are_summed_over_locations() -> None:
    shown = page({3: 1500, 1: 500}, {3: 2000})
    assert '<li>3 <span class="soft">3,500, 88%' in shown
    assert "<details>" not in shown
    assert "5 of 8 CPUs" in page(dict.fromkeys(range(5), 10))


@pytest.mark.parametrize(
    ("packets", "hint"),
    [
        ({3: 9_600, 1: 400}, True),
        ({3: 9_500, 1: 500}, False),  # 95% is not more than 95%
        ({3: 9_999}, False),  # too few to tell
        ({0: 10_000}, True),
    ],
)
def test_hint(packets: dict[int, int], hint: bool) -> None:
    assert ("ethtool -L" in page(packets)) is hint


def test_nothing_is_said_on_one_cpu_or_without_packets() -> None:
    assert page({0: 20_000}, cpus=1) == ""
    assert page() == ""
