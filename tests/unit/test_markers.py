# SPDX-License-Identifier: Apache-2.0
"""Which tests run on which kernel is said by markers; here is whether they say it right."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

DEPENDS_ON_THE_KERNEL = {
    "test_packet_writes.py",
    "test_bond.py",
    "test_capabilities.py",
    "test_chains.py",
    "test_counters.py",
    "test_device_hook.py",
    "test_entries.py",
    "test_fallback.py",
    "test_flow_flood.py",
    "test_flow_properties.py",
    "test_flows.py",
    "test_lifecycle.py",
    "test_maps.py",
    "test_namespaces.py",
    "test_namespaces_change.py",
    "test_overflow.py",
    "test_packet_filter.py",
    "test_pin_path.py",
    "test_pins.py",
    "test_torture.py",
    "test_unattached.py",
    "test_verdicts.py",
}
# Agents as processes, three of them: a minute, emulated.
UPGRADES = {"tests/kernel/test_pin_path.py::test_agents_come_and_go_and_the_account_goes_on"}
NOT_IN_MAKE_TEST = {
    "test_alerts.py",
    "test_bcc.py",
    "test_bond_sums.py",
    "test_budget.py",
    "test_dashboards.py",
    "test_flow_families.py",
    "test_scan_hangs.py",
}
"""Files of one or two tests, each of which takes half a minute."""
ON_THE_FIRST_KERNEL = NOT_IN_MAKE_TEST | {"test_capture_cpus.py", "test_torture.py"}
"""The same for what depends on the kernel."""
NIGHTLY_ALONE = {"tests/kernel/test_bcc.py::test_bcc_example"}
"""bcc compiles each of its examples for half a minute."""
OTHER_SOFTWARE = {
    "test_bcc.py",
    "test_bond_sums.py",
    "test_container.py",
    "test_dashboards.py",
    "test_page.py",
    "test_prometheus.py",
    "test_systemd.py",
    "test_xdp_tools.py",
}


LIST = """
import json, sys, pytest

class Markers:
    def pytest_collection_finish(self, session):
        found = {item.nodeid: [mark.name for mark in item.iter_markers()] for item in session.items}
        print("markers:" + json.dumps(found))

sys.exit(pytest.main(sys.argv[1:], plugins=[Markers()]))
"""


@cache
def markers() -> dict[str, set[str]]:
    """Return the markers of each test that runs in a virtual machine."""
    command = [sys.executable, "-c", LIST, "--collect-only", "-q", "-p", "no:cacheprovider"]
    command += ["tests/kernel", "tests/e2e/test_container.py"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    (line,) = (line for line in found.stdout.splitlines() if line.startswith("markers:"))
    return {test: set(names) for test, names in json.loads(line.removeprefix("markers:")).items()}


def marked(name: str) -> set[str]:
    return {test for test, names in markers().items() if name in names}


def files(tests: set[str]) -> set[str]:
    return {Path(test.partition("::")[0]).name for test in tests}


def functions(tests: set[str]) -> set[str]:
    """Return the tests without their parameters."""
    return {test.partition("[")[0] for test in tests}


def test_each_test_says_whether_it_depends_on_the_kernel() -> None:
    every, one = marked("every_kernel"), marked("one_kernel")
    assert every | one == markers().keys()
    assert not every & one


def test_what_depends_on_the_kernel_runs_on_each() -> None:
    assert files(marked("every_kernel")) >= DEPENDS_ON_THE_KERNEL
    one = {test for test in marked("one_kernel") if test.partition("[")[0] not in UPGRADES}
    assert not files(one) & DEPENDS_ON_THE_KERNEL
    assert files(marked("one_kernel")) >= OTHER_SOFTWARE
    assert not files(marked("every_kernel")) & OTHER_SOFTWARE


def test_each_long_variant_has_a_short_one() -> None:
    long = marked("nightly")
    assert long
    assert functions(long) - NIGHTLY_ALONE <= functions(markers().keys() - long)


def test_each_file_has_a_test_that_runs_for_each_change() -> None:
    short = markers().keys() - marked("nightly") - marked("matrix")
    assert files(markers().keys() - short) - NOT_IN_MAKE_TEST <= files(short)
    first = marked("first_kernel")
    assert first
    assert first <= marked("every_kernel")
    each = files(short & marked("every_kernel") - first)
    assert (files(first) | DEPENDS_ON_THE_KERNEL) - ON_THE_FIRST_KERNEL <= each


@pytest.mark.parametrize("machine", ["stalled", "paced"])
def test_what_needs_another_machine_runs_nightly(machine: str) -> None:
    assert marked(machine)
    assert marked(machine) <= marked("nightly")


def test_what_runs_at_once_depends_on_the_kernel() -> None:
    assert marked("at_once")
    assert marked("at_once") <= marked("every_kernel") - marked("nightly")
