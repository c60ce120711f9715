# SPDX-License-Identifier: Apache-2.0
"""Licences, CONTRIBUTING.md and SECURITY.md: they are where they must be, and name what exists."""

import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml

from xdpscope import __version__

ROOT = Path(__file__).resolve().parents[2]
# Of the texts as Debian has them in /usr/share/common-licenses.
LICENCES = {
    "LICENSES/Apache-2.0.txt": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "LICENSES/GPL-2.0-only.txt": "8177f97513213526df2cf6184d8ff986c675afb514d4e68a404010521b880643",
}
GUIDES = ("CONTRIBUTING.md", "SECURITY.md")


@pytest.mark.parametrize("name", LICENCES)
def test_a_licence_is_the_original_text(name: str) -> None:
    assert sha256((ROOT / name).read_bytes()).hexdigest() == LICENCES[name]
    assert name in (ROOT / "LICENSE").read_text()


def test_every_source_file_names_its_licence() -> None:
    sources = [
        path
        for directory in ("agent", "bpf", "dashboards", "docs", "tests")
        for path in (ROOT / directory).rglob("*.[pch]*")
        if path.suffix in (".py", ".c", ".h")
        if path.name != "_raw.c" and "node_modules" not in path.parts
    ]
    assert len(sources) > 200
    for path in sources:
        of_bpf = path.name.endswith(".bpf.c") or path.is_relative_to(ROOT / "bpf")
        licence = "GPL-2.0-only" if of_bpf else "Apache-2.0"
        first = path.read_text().partition("\n")[0]
        assert re.search(rf"SPDX-License-Identifier: {licence}\b", first), path


def test_the_package_contains_the_licences() -> None:
    installed = distribution("xdpscope")
    assert installed.metadata["License-Expression"] == "Apache-2.0 AND GPL-2.0-only"
    for name in ("LICENSE", *LICENCES):
        assert name in (installed.metadata.get_all("License-File") or [])
        assert installed.read_text(f"licenses/{name}") == (ROOT / name).read_text()


def test_the_version_has_a_dated_section_in_the_changelog() -> None:
    sections = re.findall(r"^## \[(.*)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    version, date = sections[1]
    assert version == __version__
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", date)


def test_a_release_says_where_its_sources_are(tmp_path: Path) -> None:
    source = "https://git.example/xdpscope"
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "SOURCE": source}, check=True)
    metadata = (tmp_path / "xdpscope.egg-info" / "PKG-INFO").read_text()
    assert f"\nProject-URL: Source, {source}\n" in metadata


def test_the_image_is_built_with_the_licences() -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    copied = [re.findall(r"^COPY (?!--)(.*) (\S+)$", stage, flags=re.MULTILINE) for stage in stages]
    included = {f"!{name}" for stage in copied for names, _ in stage for name in names.split()}
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line for line in ignore if line.startswith("!")} == included
    assert all((ROOT / name[1:]).exists() for name in included)
    of_build, of_image = (
        {name for names, _ in stage for name in names.split()} for stage in copied
    )
    # The first is for the package's build, the second for readers of the image.
    assert {"LICENSE", "LICENSES"} <= of_build & of_image
    assert all(target.startswith("/usr/share/doc/xdpscope/") for _, target in copied[1])


def test_the_image_says_where_it_is_from() -> None:
    image = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    given = dict(re.findall(r"^ARG (\w+)=(.*)$", image, re.MULTILINE))
    assert given == {"VERSION": __version__, "REVISION": "", "SOURCE": ""}
    for name in given:
        assert f'org.opencontainers.image.{name.lower()}="${name}"' in image
    release = (ROOT / "docs" / "release.md").read_text()
    assert all(f"--build-arg {name}=" in release for name in given)


def test_clean_all_removes_the_cache_and_nothing_beside_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    cache = tmp_path / "a cache"
    for directory in (cache / "xdpscope" / "kernels", cache / "other", tmp_path / ".venv"):
        directory.mkdir(parents=True)
    for directory in ("agent", "tests"):
        (tmp_path / directory / "__pycache__").mkdir(parents=True)
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    subprocess.run(["make", "clean-all"], cwd=tmp_path, env=environment, check=True)
    assert [path.name for path in cache.iterdir()] == ["other"]
    left = {
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if cache not in path.parents
    }
    assert left == {"Makefile", "a cache", "agent", "tests"}


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_names_what_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    paths = re.findall(r"`((?:\.?[\w.-]+/)+[\w.-]*|[\w-]+\.(?:md|toml|sh)|Makefile)`", text)
    paths += re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets


def test_a_guide_says_how_to_run_the_tests() -> None:
    named = re.findall(r"\bmake ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert {"lint", "unit", "kernel-test", "test", "docs", "format"} <= set(named)


def test_hooks_need_no_network_and_exist() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    lint = re.sub(r"\$\(\w+\)", ".venv/bin/python", (ROOT / "Makefile").read_text())
    for repository in config["repos"]:
        for hook in repository["hooks"]:
            assert hook["language"] == "system"
            tool = re.sub(r" (--|docs/).*", "", hook["entry"])
            assert tool in lint or (ROOT / hook["entry"].split()[1]).exists(), hook["entry"]
