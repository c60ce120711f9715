# SPDX-License-Identifier: Apache-2.0
"""requirements/: what `make locks` wrote fits pyproject.toml, and is complete."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WANTED = {
    "agent": PROJECT["project"]["dependencies"],
    "build": PROJECT["build-system"]["requires"],
    **PROJECT["dependency-groups"],
}
SHARED = ("agent", "build", "docs", "test", "vm")
"""What `make setup` and its relatives put into one environment."""


def locked(name: str) -> dict[str, Requirement]:
    """Return the packages of a file; each must have one version and a hash."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    lines = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines()
    found = {}
    for line in lines:
        requirement, *hashes = line.split("--hash=sha256:")
        assert hashes, line
        parsed = Requirement(requirement)
        assert parsed.url is None and str(parsed.specifier).startswith("=="), line
        assert canonicalize_name(parsed.name) not in found, line
        found[canonicalize_name(parsed.name)] = parsed
    return found


def version(requirement: Requirement) -> str:
    return str(requirement.specifier).removeprefix("==")


def test_there_is_a_file_for_each_group() -> None:
    assert {path.stem for path in (ROOT / "requirements").glob("*.txt")} == set(WANTED)


@pytest.mark.parametrize("name", sorted(WANTED))
def test_each_direct_dependency_is_locked_within_its_range(name: str) -> None:
    found = locked(name)
    for wanted in map(Requirement, WANTED[name]):
        requirement = found[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version(requirement)), wanted
        assert requirement.marker is None or requirement.marker.evaluate(), wanted


def test_one_environment_has_one_version_of_each() -> None:
    versions: dict[str, set[str]] = {}
    for name in SHARED:
        for package, requirement in locked(name).items():
            versions.setdefault(package, set()).add(version(requirement))
    assert {package: each for package, each in versions.items() if len(each) > 1} == {}


@pytest.mark.parametrize("name", sorted(WANTED))
def test_no_file_names_a_package_index(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert not re.search(r"://|--(extra-)?index-url|--find-links", text)
