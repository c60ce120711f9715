# SPDX-License-Identifier: Apache-2.0
"""Each alert fires because of its real cause, and ends with it.

The programs, the agents and Prometheus are real. Only the clock of the rules is faster:
``fast_rules.py`` divides each duration in a copy of the rules by ``FASTER``. So it is with how far
Prometheus goes back for the newest sample. Nothing else of the rules changes. ``alert_causes.py``
lists the causes. There are three stories: without an agent, and, in the long variant, of faulty
programs and of an agent that is faulty itself. Many causes come at once, because a guest is slow.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.agent import QUICK, AgentProcess
from tests.kernel.alert_causes import (
    ABSENT,
    AFTER_A_WHILE,
    AT_ONCE,
    CAUSED,
    DOWN,
    ILL,
    NOBODY,
    RESTARTED,
    RUNNING,
    WELL,
)
from tests.kernel.hosts import Ill, Well, missing
from tests.kernel.lab import Lab
from tests.kernel.prometheus import PROMETHEUS, Prometheus, free_port, running
from tests.tools.fast_rules import divided, faster
from tests.waiting import wait_for

FASTER = 20
"""An hour is three minutes, and five minutes are 15 seconds."""

_INTERVAL = "100s"  # of scrapes and evaluations, before it is divided
_LOOKBACK = "5m"  # Prometheus's own default
_HISTORY = 25 * 60 / FASTER
"""Seconds. An interface must have had its program at two marks of ten minutes."""
_RESTARTS = 4
_PATIENCE = 180
_RULES = Path(__file__).resolve().parents[2] / "config" / "prometheus"
_CONFIG = """
global: {{scrape_interval: {every}, scrape_timeout: {every}, evaluation_interval: {every}}}
rule_files: [recording.yml, alerts.yml]
scrape_configs:
- {{job_name: xdpscope, file_sd_configs: [{{files: [targets.json], refresh_interval: 1s}}]}}
"""

pytestmark = [
    pytest.mark.every_kernel,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is missing: make setup fetches it"),
    pytest.mark.timeout(900),
]


@dataclass
class Course:
    """What became of an alert."""

    labels: Mapping[str, str]
    quiet: bool = False
    """It did not fire before its cause."""
    since: int = 0
    """The index of the first record after the cause."""
    fired: dict[str, Any] = field(default_factory=dict)
    """The alert as Prometheus showed it first; empty: it did not fire."""
    ended: bool = False


class Recorder(threading.Thread):
    """Notes which alerts fire."""

    def __init__(self, prometheus: Prometheus) -> None:
        super().__init__(daemon=True)
        self._prometheus = prometheus
        self._began = time.monotonic()
        self._end = threading.Event()
        self._firing: dict[frozenset[tuple[str, str]], dict[str, Any]] = {}
        self.records: list[dict[str, Any]] = []
        """Each alert that has begun to fire, in that order."""

    def run(self) -> None:
        while not self._end.wait(2):
            try:
                shown = self._prometheus.ask("alerts")["alerts"]
            except OSError:  # it is busy
                continue
            now = {
                frozenset(each["labels"].items()): each
                for each in shown
                if each["state"] == "firing"
            }
            for key in now.keys() - self._firing.keys():
                self._say("fires", now[key])
                self.records.append(now[key])
            for key in self._firing.keys() - now.keys():
                self._say("ends", self._firing[key])
            self._firing = now

    def fires(self, labels: Mapping[str, str]) -> bool:
        """Return whether an alert with these labels fires now."""
        return any(labels.items() <= each["labels"].items() for each in self._firing.values())

    def fired(self, labels: Mapping[str, str], since: int) -> dict[str, Any]:
        """Return the first alert with these labels among the records from ``since`` on."""
        found = (each for each in self.records[since:] if labels.items() <= each["labels"].items())
        return next(found, {})

    def stop(self) -> None:
        self._end.set()
        self.join()

    def _say(self, what: str, alert: Mapping[str, Any]) -> None:
        at = time.monotonic() - self._began
        usual = {"job", "severity", "tag", "netns"}
        labels = {key: each for key, each in alert["labels"].items() if key not in usual}
        print(f"{at:6.1f} s {labels.pop('alertname')} {what}: {labels}", flush=True)


class Story:
    """Things that happen to a host, and what becomes of each alert."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        for name in ("recording.yml", "alerts.yml"):
            (directory / name).write_text(faster((_RULES / name).read_text(), FASTER))
        self._write_targets()
        config = _CONFIG.format(every=divided(_INTERVAL, FASTER))
        lookback = f"--query.lookback-delta={divided(_LOOKBACK, FASTER)}"
        self._prometheus = stack.enter_context(running(directory, config, lookback))
        self._recorder = Recorder(self._prometheus)
        self._recorder.start()
        stack.callback(self._recorder.stop)
        self._lab = stack.enter_context(closing(Lab()))
        self._instance = ""
        self.courses: dict[str, Course] = {}

    def of_nobody(self) -> None:
        """Start without an agent."""
        self._begin(ABSENT)
        self._await_fired(ABSENT)
        with AgentProcess(QUICK) as agent:
            wait_for(agent.listens)
            self._scrape(agent.address)
            wait_for(lambda: self._value("count(up == 1)"), interval=1)
            self._await_ended(ABSENT)

    def of_well(self) -> None:
        """Let one thing after the other go wrong on the host of an agent."""
        well = Well(self._lab, self._stack)
        self._scrape(well.agent.address)
        wait_for(lambda: self._value("count(up == 1)"), interval=1)
        began = time.monotonic()
        at_once = [name for name in AT_ONCE if name not in missing()]
        self._begin(*at_once)
        well.fail_at_once()
        time.sleep(max(0, began + _HISTORY - time.monotonic()))
        self._begin(*AFTER_A_WHILE)
        well.fail_later()
        self._await_fired(*at_once, *AFTER_A_WHILE)
        well.recover()
        self._await_ended(*at_once, *AFTER_A_WHILE)

    def of_ill(self) -> None:
        """Kill and start an agent. Then take from it what it needs."""
        ill = Ill(self._lab, free_port())
        self._scrape(ill.address)
        self._begin(RESTARTED)
        for _ in range(_RESTARTS):
            self._start_and_kill(ill)
        with ill.started() as agent:
            agent.ready()
            self._await_fired(RESTARTED)
            self._begin(DOWN)
        self._await_fired(DOWN)
        with ill.started() as agent:
            agent.ready()
            self._await_ended(DOWN)
            self._begin(*RUNNING)
            with ill.suffering(agent):
                self._await_fired(*RUNNING)
            self._await_ended(RESTARTED, *RUNNING)

    def _start_and_kill(self, ill: Ill) -> None:
        """Run the agent until Prometheus has seen it."""
        started = f'process_start_time_seconds{{instance="{self._instance}"}}'
        before = self._value(f"last_over_time({started}[1h])")
        with ill.started():
            wait_for(lambda: self._value(started) > before, interval=1)

    def _begin(self, *names: str) -> None:
        """Note that the causes of these alerts begin now, once none of them fires."""
        for name in names:
            cause = CAUSED[name]
            labels = {"alertname": name, **cause.labels}
            if cause.whom != NOBODY:
                labels["instance"] = self._instance
            course = self.courses[name] = Course(labels)
            course.quiet = _within(lambda: not self._recorder.fires(labels))  # noqa: B023
        for name in names:
            self.courses[name].since = len(self._recorder.records)

    def _await_fired(self, *names: str) -> None:
        """Wait until all of these fire at once. One that does not fire fails its own test."""
        courses = [self.courses[name] for name in names]
        _within(lambda: all(self._recorder.fires(each.labels) for each in courses))
        for each in courses:
            each.fired = self._recorder.fired(each.labels, each.since)

    def _await_ended(self, *names: str) -> None:
        """Wait until none of these fires."""
        courses = [self.courses[name] for name in names]
        _within(lambda: not any(self._recorder.fires(each.labels) for each in courses))
        for each in courses:
            each.ended = not self._recorder.fires(each.labels)

    def _value(self, query: str) -> float:
        return max(self._prometheus.series(query).values(), default=0.0)

    def _scrape(self, address: str) -> None:
        """Make an agent the only target of Prometheus."""
        self._instance = address.partition("://")[2]
        self._write_targets(self._instance)

    def _write_targets(self, *instances: str) -> None:
        (self._directory / "targets.json").write_text(json.dumps([{"targets": instances}]))


def _within(condition: Any) -> bool:
    """Wait for a condition; return whether it came true in time."""
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def story(whom: str) -> Any:
    """Return a fixture that tells a story once, and yields what becomes of its alerts."""

    @pytest.fixture(scope="module", name=whom)
    def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Course]]:
        with ExitStack() as stack:
            story = Story(tmp_path_factory.mktemp(whom), stack)
            {NOBODY: story.of_nobody, WELL: story.of_well, ILL: story.of_ill}[whom]()
            yield story.courses

    return run


of_nobody, of_well, of_ill = story(NOBODY), story(WELL), story(ILL)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "alert",
    [
        alert if cause.whom == NOBODY else pytest.param(alert, marks=pytest.mark.nightly)
        for alert, cause in CAUSED.items()
    ],
)
def test_alert_fires_and_ends(request: pytest.FixtureRequest, alert: str) -> None:
    if alert in missing():
        pytest.skip(missing()[alert])
    course = request.getfixturevalue(CAUSED[alert].whom)[alert]
    assert course.quiet, "it fired before its cause"
    assert course.fired, "it has not fired"
    assert course.ended, "it has not ended"
    for text in course.fired["annotations"].values():
        assert not any(fault in text for fault in ("{{", "<no value>", "<error expanding"))
