# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus adds up what programs on a bond count."""

from pathlib import Path

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.lab import Lab, addressed, frame
from tests.kernel.prometheus import PROMETHEUS, scraping
from tests.kernel.test_bond import ACTIVE_BACKUP, bond, passes_on  # noqa: F401 - a fixture
from tests.kernel.test_chains import DROP, LINKS, PASS, chain, needs_loader
from tests.kernel.test_lifecycle import link_targets  # noqa: F401 - a fixture
from tests.unit.test_sums import documented_sum
from tests.waiting import wait_for

pytestmark = [
    pytest.mark.one_kernel,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is missing: make setup fetches it"),
    pytest.mark.timeout(400),
]


@pytest.mark.matrix
@needs_loader
@pytest.mark.usefixtures("link_targets")
@pytest.mark.parametrize(
    "functions", [("drop_some",), pytest.param(LINKS, marks=pytest.mark.nightly)]
)
def test_sums_over_a_bond(lab: Lab, tmp_path: Path, functions: tuple[str, ...]) -> None:
    """Of a component in the place of its dispatcher, and of a chain: the page and the sum agree."""
    first, second = lab.veth("xst0"), lab.veth("xst1")
    with (
        bond(lab, ACTIVE_BACKUP, first, second) as made,
        chain(made.veth, *functions),
        AgentProcess(f"{QUICK}interfaces: {{include: [xstb]}}\n") as agent,
    ):
        agent.ready()
        wait_for(lambda: traced(agent, "drop_some"))
        for times, veth in ((3, first), (4, second)):
            veth.send(addressed(frame(60), what=DROP), times=times)
            veth.send(addressed(frame(60), what=PASS), times=2 * times)
        expected = {
            ("xst0", "drop"): 3,
            ("xst0", "pass"): 6,
            ("xst1", "drop"): 4,
            ("xst1", "pass"): 8,
        }
        totals = documented_sum().replace("rate(xdp_packets_total[1m])", "xdp_packets_total")
        with scraping(agent, tmp_path, seconds=5) as prometheus:

            def sums() -> dict[tuple[str, ...], float]:
                found = prometheus.series(totals, "interface", "verdict")
                return {key: value for key, value in found.items() if value}

            wait_for(lambda: sums() == expected)
            found = prometheus.series("xdp_program_attachment_info", "program", "interface", "via")
            assert set(found) == {
                (program, interface, "xstb")
                for program in ("xdp_dispatcher", *functions)
                for interface in ("xst0", "xst1")
            }
            rates = (
                "count by (interface) (xdp_packets_total unless on (program_id, netns, interface)"
            )
            assert prometheus.series(f"{rates} xdp_program_attachment_info)", "interface") == {}
        assert agent.stop() == 0
