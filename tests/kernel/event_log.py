# SPDX-License-Identifier: Apache-2.0
"""Compare the agent's events with what is done to the host's programs, one operation at a time."""

import json
from collections import Counter, defaultdict
from typing import Any

from tests.kernel.agent import AgentProcess
from tests.waiting import wait_for
from xdpscope.libbpf import Program

At = tuple[str, str]
"""A network namespace and an interface."""

_LIMIT = 1000  # what the agent keeps


class EventLog:
    """Reads the events as they come, and replays them. Any that cannot be true is a failure."""

    def __init__(self, agent: AgentProcess) -> None:
        """Begin with what happens from now on."""
        self._agent = agent
        self._since = 0.0
        self._older = set(Program.ids())
        self._loaded: set[int] = set()
        self._unloaded: set[int] = set()
        self._attached: dict[At, set[int]] = defaultdict(set)
        self._happened: list[tuple[At, str]] = []
        self._ever: set[int] = set()
        self._new()

    def expect(self, at: At, present: int, **happened: int) -> None:
        """Wait until so many programs are attached there, by what the events say.

        Args:
            at: The only place at which something happens.
            present: The number of programs that are attached there afterwards.
            happened: How often each kind of event happens there.
        """
        wait_for(lambda: self._read() >= sum(happened.values()))
        found = Counter(event for where, event in self._happened if where == at)
        assert found == happened, self._happened
        assert len(self._attached[at]) == present
        assert len(self._happened) == found.total(), self._happened
        self._happened.clear()

    def expect_unloaded(self) -> None:
        """Wait until each program that was attached, and is no longer, was unloaded.

        Programs that are older than this log stay, because somebody else holds them.
        """

        def left() -> set[int]:
            self._read()
            return (
                (self._ever & self._loaded) - set().union(*self._attached.values()) - self._unloaded
            )

        wait_for(lambda: not left())

    def _new(self) -> list[dict[str, Any]]:
        page = self._agent.get(f"/api/v1/events?limit={_LIMIT}&since={self._since!r}")
        events: list[dict[str, Any]] = json.loads(page)["events"]
        assert len(events) < _LIMIT, "some may be lost"
        times = [self._since, *(each["time"] for each in events)]
        assert times == sorted(times)
        self._since = times[-1]
        return events

    def _read(self) -> int:
        """Replay what is new. Return how much has happened to interfaces since the last check."""
        for each in self._new():
            self._replay(each)
        return len(self._happened)

    def _replay(self, event: dict[str, Any]) -> None:
        kind, id = event["event"], event["program_id"]
        assert id not in self._unloaded, f"{kind} after the end: {event}"
        if kind == "loaded":
            assert id not in self._loaded | self._ever, f"not the first of its program: {event}"
            self._loaded.add(id)
            return
        if kind == "unloaded":
            assert not any(id in here for here in self._attached.values()), event
            self._unloaded.add(id)
            return
        at = event["netns"], event["interface"]
        here = self._attached[at]
        if kind == "detached":
            here.remove(id)
        else:
            assert id not in here, f"twice: {event}"
            if kind == "replaced":
                here.remove(event["previous"]["program_id"])
            here.add(id)
            assert id in self._loaded | self._older, f"attached before it was loaded: {event}"
            self._ever.add(id)
        self._happened.append((at, kind))
