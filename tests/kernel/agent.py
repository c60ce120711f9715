# SPDX-License-Identifier: Apache-2.0
"""The agent as a process of its own, as a host runs it."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from tests.kernel.nursery import Started
from tests.waiting import PATIENCE, wait_for, witness

QUICK = "discovery: {interval: 500ms}\n"

LOG_LINES = 30
"""So many lines of a log are shown where a test fails."""


class AgentEnded(AssertionError):
    """The agent that was to answer is no longer there."""


class AgentAt:
    """What an agent serves."""

    def __init__(self, address: str) -> None:
        self.address = address
        # What requests need where it serves not everyone.
        self.trust: ssl.SSLContext | None = None
        self.headers: dict[str, str] = {}

    def check(self) -> None:
        """Fail at once if nobody will ever answer, and report why."""

    def get(self, path: str, **headers: str) -> bytes:
        self.check()
        request = urllib.request.Request(self.address + path, headers=self.headers | headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self.trust) as answer:
                body: bytes = answer.read()
                return body
        except ConnectionError:
            time.sleep(1)  # a process that ends closes its sockets before its parent knows
            self.check()
            raise

    def status(self, path: str) -> int:
        """Return the HTTP status; 0 if nobody answers."""
        try:
            self.get(path)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0
        return 200

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Return the page: (name, label values in the order of their names) to value."""
        families = text_string_to_metric_families(self.get("/metrics").decode())
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each sample of that name."""
        # This alone: an emulated machine takes seconds for a page with all flows.
        lines = self.get(f"/metrics?name[]={name}").decode().splitlines(keepends=True)
        mine = "".join(line for line in lines if line.startswith((f"{name}{{", f"{name} ")))
        families = text_string_to_metric_families(mine)
        return [(each.labels, each.value) for family in families for each in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples with these labels; None if there is none."""
        found = [value for has, value in self.samples(name) if labels.items() <= has.items()]
        return sum(found) if found else None


class AgentProcess(AgentAt):
    """``xdpscope run``, with what it logs kept."""

    def __init__(
        self,
        config: str = "",
        prefix: Sequence[str] = (),
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        forked: bool = True,
        before: Callable[[], object] = bool,
    ) -> None:
        """Start it: forked off ``nursery``, unless that is not enough.

        Args:
            config: What is in its configuration file.
            prefix: A command that runs it.
            port: Of the loopback; 0: any.
            environment: Is added.
            command: Is run in its stead, as it is.
            forked: False: from its first instruction on.
            before: A function of a light module, which the forked process calls first.
        """
        super().__init__("")
        self._config = tempfile.NamedTemporaryFile("w", suffix=".yaml")  # noqa: SIM115 - closed by __exit__
        self.configure(config)
        arguments = ["run", "--config", self._config.name, "--listen", f"127.0.0.1:{port}"]
        self.process: Started | subprocess.Popen[str]
        if prefix or environment or command or not forked:
            self.process = subprocess.Popen(
                command or [*prefix, sys.executable, "-m", "xdpscope", *arguments],
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        else:
            self.process = Started(arguments, before)
        self.log: list[dict[str, object]] = []
        self.stderr: list[str] = []
        self._stack = ExitStack()
        self._stack.enter_context(witness(self.said))
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def configure(self, config: str) -> None:
        """Write the configuration file again."""
        Path(self._config.name).write_text(config)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr.append(line.rstrip())
            try:
                self.log.append(json.loads(line))
            except ValueError:
                continue
            if self.log[-1].get("event") == "listening":
                self.address = f"{self.log[-1]['scheme']}://{self.log[-1]['listen']}"
                self._listening.set()
        self._listening.set()

    def events(self) -> list[object]:
        return [entry["event"] for entry in self.log]

    def failure(self) -> str:
        """Why it has ended: the errors and hints of its log's records, one a line."""
        assert not any(line for line in self.stderr if not line.startswith("{")), self.stderr
        ended = [entry for entry in self.log if entry["event"] == "failed"]
        return "\n".join(
            str(each[key]) for each in ended for key in ("error", "hint") if key in each
        )

    def listens(self) -> bool:
        """Return whether it has said where."""
        return bool(self.address)

    def check(self) -> None:
        status = self.process.poll()
        if status is not None:
            self._reader.join(PATIENCE)
            raise AgentEnded(f"the agent has ended with status {status}\n{self.said()}")

    def said(self) -> str:
        """Return the end of what it has logged."""
        return "\n".join([f"log of agent {self.process.pid}:", *self.stderr[-LOG_LINES:]])

    def ready(self) -> Self:
        """Wait until the first discovery is done."""
        self._listening.wait(PATIENCE)
        assert self.listens(), f"the agent did not start\n{self.said()}"
        wait_for(lambda: self.status("/readyz") == 200)
        return self

    def memory(self) -> int:
        """Resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match
        return int(match.group(1)) * 1024

    def cpu_seconds(self) -> float:
        """CPU time so far, the kernel's part included."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; the exit status."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def stop(self) -> int:
        if self.process.poll() is None:
            self.send(signal.SIGTERM)
        return self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        self._config.close()
        self._stack.close()


def traced(agent: AgentAt, program: str) -> bool:
    """Return whether the agent says that it counts what this program decides."""
    return agent.value("xdp_program_traced", program=program) == 1
