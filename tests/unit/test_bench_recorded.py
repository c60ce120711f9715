# SPDX-License-Identifier: Apache-2.0
"""A row of the benchmark that takes more than was recorded for its kernel build."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.bench import inputs
from tests.bench.cost import Cost
from tests.bench.recorded import RECORDED, record, report_grown

ROOT = Path(__file__).parents[2]
ONE, OTHER = "xdpscope, one device", "xdpscope, a flood of IPv4"


def cost(release: str = "6.12.1-test", **rows: int | None) -> Cost:
    return Cost("6.12", release, added_with_flows={ONE: rows["one"], OTHER: rows["other"]})


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "recorded.json"
    record([cost(one=98, other=651)], path)
    return path


@pytest.mark.parametrize(
    ("one", "other", "grown"),
    [(98, 651, []), (99, 657, []), (90, 600, []), (100, 651, [ONE]), (98, 658, [OTHER])],
)
def test_a_row_may_grow_by_one_percent(
    recorded: Path, capfd: pytest.CaptureFixture[str], one: int, other: int, grown: list[str]
) -> None:
    assert report_grown([cost(one=one, other=other)], recorded) == bool(grown)
    said = capfd.readouterr().err
    assert [row for row in (ONE, OTHER) if row in said] == grown


def test_a_build_without_figures_is_not_compared(
    recorded: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not report_grown([cost("6.12.2-test", one=500, other=5000)], recorded)
    said = capfd.readouterr().err
    assert "nothing is recorded for kernel 6.12.2-test" in said
    assert "--kernel 6.12 --record" in said


def test_a_row_that_was_not_measured_keeps_its_figure(recorded: Path) -> None:
    record([cost(one=95, other=None)], recorded)
    assert not report_grown([cost(one=95, other=651)], recorded)
    assert report_grown([cost(one=97, other=651)], recorded)


def test_no_other_program_is_judged(recorded: Path) -> None:
    assert not report_grown(
        [Cost("6.12", "6.12.1-test", added_with_flows={"xdpdump, entry": 10**6})], recorded
    )


@pytest.mark.parametrize(
    ("changed", "noticed"),
    [("bpf/a.bpf.c", True), ("agent/xdpscope/attach/b.py", True), ("docs/c.md", False)],
)
def test_a_change_of_what_decides_the_figures_is_noticed(
    tmp_path: Path, changed: str, noticed: bool
) -> None:
    for name in ("bpf/a.bpf.c", "agent/xdpscope/attach/b.py", "docs/c.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    before = inputs.digest(tmp_path)
    assert inputs.digest(tmp_path) == before
    (tmp_path / changed).write_text("after")
    assert (inputs.digest(tmp_path) != before) == noticed


def test_only_what_was_recorded_with_these_sources_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "ensure", lambda kernel: SimpleNamespace(release=f"{kernel}-test"))
    path = tmp_path / "inputs.json"
    assert not inputs.unchanged("packets", ["6.12"], path)
    inputs.note("packets", ["6.12-test"], path)
    assert inputs.unchanged("packets", ["6.12"], path)
    assert not inputs.unchanged("packets", ["6.12", "6.1"], path)
    assert not inputs.unchanged("sessions", ["6.12"], path)
    monkeypatch.setattr(inputs, "digest", lambda: "another")
    assert not inputs.unchanged("packets", ["6.12"], path)


def test_the_documentation_has_the_recorded_figures() -> None:
    kept = json.loads(RECORDED.read_text())
    documented: dict[str, dict[str, int]] = {}
    releases: list[str] = []
    for line in (ROOT / "docs/cost.md").read_text().splitlines():
        name, *cells = (cell.strip() for cell in line.strip("| ").split(" | "))
        if name.startswith(("added to a packet", "with flows: added")):
            releases = cells
        elif name.startswith(("ratio", "times an empty")):
            releases = []
        elif releases and name in (ONE, OTHER):
            for release, cell in zip(releases, cells, strict=True):
                documented.setdefault(release, {})[name] = int(cell)
    assert {release.split(".")[0] for release in documented} == {"5", "6", "7"}
    for release, rows in documented.items():
        assert kept[release].items() >= rows.items()
