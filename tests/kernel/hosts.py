# SPDX-License-Identifier: Apache-2.0
"""Two agents for test_alerts.py: one on a host with faulty programs, one that is faulty itself."""

import itertools
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from errno import ENOENT
from pathlib import Path
from typing import Final

from tests.kernel.agent import AgentProcess
from tests.kernel.conftest import kernel
from tests.kernel.lab import VERDICT_BYTE, Lab, Veth, attempt, frame
from tests.kernel.test_scan_hangs import silent_server
from tests.kernel.xsk import XdpSocket
from tests.waiting import wait_for
from xdpscope.errors import KernelError
from xdpscope.kernel.xdp_diag import read_sockets

_INTERFACES: Final = (
    "xsdrops", "xsfaults", "xsstops", "xsgone", "xsother", "xsdark",
)  # fmt: skip
_FULL: Final = range(950)

_PACE: Final = 0.1  # seconds between two rounds of packets
_STEADY: Final = 4
"""Packets in each round of what is usual. Some alerts need ten a second."""
_SELDOM: Final = 5
"""All others come in each fifth round."""
_SPARE_DESCRIPTORS: Final = 8
"""Enough for scrapes and scans, too few for maps and programs of tracepoints."""

_CONFIG_OF_WELL: Final = """discovery: {{interval: 4s, netns: host}}
flows: {{enabled: false}}
programs: {{expected: [decide_*, to_socket{more}]}}
"""
_CONFIG_OF_ILL: Final = """discovery: {{interval: 4s}}
flows: {{max_entries: 64, top: 1}}
outcomes: {{enabled: {outcomes}}}
budget: {{cpu_percent: {percent}}}
"""


def missing() -> dict[str, str]:
    """Return the alerts that this kernel cannot cause, and why."""
    found = {}
    try:
        read_sockets()
    except KernelError as error:
        if error.errno != ENOENT or kernel() >= (6, 12):
            raise
        found["XdpSocketFillRingEmpty"] = "Debian builds CONFIG_XDP_SOCKETS_DIAG since 6.12"
    return found


class Streams(threading.Thread):
    """Sends to several interfaces all the time; to each, what is set for it."""

    def __init__(self, veths: Sequence[Veth]) -> None:
        super().__init__(daemon=True)
        self._senders = {veth.name: veth.sender() for veth in veths}
        self._steady: dict[str, bytes] = {}
        self._seldom: dict[str, list[bytes]] = {}
        self._end = threading.Event()

    def steady(self, interface: str, verdict: str | None) -> None:
        """From now on, send some 40 frames a second that say what is decided. None: no frame."""
        if verdict is None:
            self._steady.pop(interface)
        else:
            self._steady[interface] = _deciding(verdict)

    def seldom(self, interface: str, *verdicts: str) -> None:
        """From now on, send such frames twice a second. Without verdicts: send no frame."""
        self._seldom[interface] = [_deciding(each) for each in verdicts]

    def run(self) -> None:
        for number in itertools.count():
            if self._end.wait(_PACE):
                return
            for name, data in list(self._steady.items()):
                for _ in range(_STEADY):
                    attempt(self._senders[name], data)
            if number % _SELDOM:
                continue
            for name, frames in list(self._seldom.items()):
                for data in frames:
                    attempt(self._senders[name], data)

    def stop(self) -> None:
        """End all traffic."""
        self._end.set()
        self.join()
        for sender in self._senders.values():
            sender.close()


def _deciding(verdict: str) -> bytes:
    return frame(60, bytes([VERDICT_BYTE[verdict]]))


class Well:
    """An agent that is well, and a host on which one thing after the other goes wrong."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        """Start the agent, attach the programs, and send them what is usual."""
        self._lab = lab
        self.agent = stack.enter_context(AgentProcess(_CONFIG_OF_WELL.format(more="")))
        self._veths = {name: lab.veth(name) for name in _INTERFACES}
        self._deciding = lab.load("decide_by_first_payload_byte")
        self._passing, self._dropping = lab.load("decide_pass"), lab.load("decide_drop")
        for name in ("xsdrops", "xsfaults"):
            lab.attach(self._deciding, self._veths[name])
        for name in ("xsstops", "xsgone", "xsother"):
            lab.attach(self._passing, self._veths[name])
        self._socket: str | None = None
        if "XdpSocketFillRingEmpty" not in missing():
            self._socket = self._open_socket(stack)
        self.streams = Streams(list(self._veths.values()))
        self.streams.steady("xsdrops", "pass")
        self.streams.steady("xsstops", "pass")
        self.agent.ready()
        self.streams.start()
        stack.callback(self.streams.stop)

    def fail_at_once(self) -> None:
        """Cause what needs no history."""
        self._lab.attach(self._lab.load("decide_aborted", "verdicts", "-g0"), self._veths["xsdark"])
        self._filled = self._lab.load_together("map_kinds", "use_one")
        for key in _FULL:
            self._filled.put("grown", key, 0, 0)
        streams = self.streams
        streams.seldom("xsfaults", "aborted", "unknown", "tx", "redirect")
        streams.seldom("xsdark", "pass")  # its program aborts
        if self._socket is not None:
            streams.seldom(self._socket, "pass")

    def fail_later(self) -> None:
        """Change what has been usual for some time."""
        self.streams.steady("xsdrops", "drop")
        self.streams.steady("xsstops", None)
        self._lab.attach(None, self._veths["xsgone"])
        self._lab.attach(self._dropping, self._veths["xsother"])

    def recover(self) -> None:
        """End all of it."""
        streams = self.streams
        streams.seldom("xsfaults")
        streams.seldom("xsdark")
        if self._socket is not None:
            streams.seldom(self._socket)
        self._lab.attach(None, self._veths["xsdark"])
        for key in _FULL:
            self._filled.take_out("grown", key)
        self.agent.configure(_CONFIG_OF_WELL.format(more=", use_one"))
        self.agent.send(signal.SIGHUP)

        streams.steady("xsdrops", "pass")
        streams.steady("xsstops", "pass")
        for name in ("xsgone", "xsother"):
            self._lab.attach(self._passing, self._veths[name])

    def _open_socket(self, stack: ExitStack) -> str:
        opened = stack.enter_context(XdpSocket())
        veth = self._veths["xssocket"] = self._lab.veth("xssocket")
        loaded = self._lab.load_together("sockets", "to_socket")
        opened.bind(veth.index)
        loaded.put("sockets", 0, opened.fileno())
        self._lab.attach(loaded["to_socket"], veth)
        return veth.name


class Ill:
    """An agent that is restarted, killed, and short of everything."""

    def __init__(self, lab: Lab, port: int) -> None:
        """Attach a program. Nobody sends to it yet, and the agent does not run yet."""
        self._port = port
        self.address = f"http://127.0.0.1:{port}"
        lab.attach(lab.load("decide_drop"), lab.veth("xsquiet"))

    @contextmanager
    def started(self) -> Iterator[AgentProcess]:
        """Start the agent. It is killed at the end of the block."""
        config = _CONFIG_OF_ILL.format(outcomes="false", percent="null")
        with AgentProcess(config, port=self._port) as agent:
            yield agent

    @contextmanager
    def suffering(self, agent: AgentProcess) -> Iterator[None]:
        """Cause what befalls a running agent; end it after the block."""
        pid = agent.process.pid
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        highest = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + _SPARE_DESCRIPTORS, usual[1]))
        self._reload(agent, outcomes="true", percent="0.1")
        wait_for(self._failing(agent), interval=2)
        with silent_server():
            yield
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        self._reload(agent, outcomes="true", percent="null")

    def _reload(self, agent: AgentProcess, **values: str) -> None:
        agent.configure(_CONFIG_OF_ILL.format(**values))
        agent.send(signal.SIGHUP)

    def _failing(self, agent: AgentProcess) -> Callable[[], bool]:
        return lambda: agent.value("xdpscope_collector_success", collector="outcomes") == 0
