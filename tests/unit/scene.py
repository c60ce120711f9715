# SPDX-License-Identifier: Apache-2.0
"""A host as the page may have to show it: a chain, a root, what cannot be traced, and traffic."""

from __future__ import annotations

import math
import time
from typing import Any

from tests.unit.served import FakeSource

from xdpscope.formats import document
from xdpscope.probes.flows.query import FlowQuery

VERDICTS = ("aborted", "drop", "pass", "tx", "redirect", "unknown")


def program(id: int, name: str, role: str = "root", **more: object) -> dict[str, object]:
    """One as the API has it, attached to eth0."""
    shown = {
        "id": id,
        "program": name,
        "name": name[:15],
        "tag": f"{id:016x}",
        "role": role,
        "attach_type": "xdp",
        "attachments": [{"netns": "host", "interface": "eth0", "mode": "native"}],
        "chain": [],
        "called_by": [],
        "traceable": True,
        "reason": "",
        "counts": [],
    }
    return shown | more


class Scene(FakeSource):
    """Its counters follow rates by the clock; ``rates`` has packets a second of each program."""

    def __init__(self, programs: list[dict[str, object]], flows: list[dict[str, object]]) -> None:
        super().__init__()
        self.known = programs
        self.flowing = flows
        self.opened: list[dict[str, object]] = []
        self.rates: dict[object, dict[str, float]] = {}
        self.facts: dict[str, object] = {"Ready": True}
        self.totals: dict[object, dict[str, float]] = {}
        self._at = time.monotonic()

    def programs(self, cpus: bool = False) -> list[dict[str, object]]:
        now = time.monotonic()
        passed, self._at = now - self._at, now
        for id, rates in self.rates.items():
            totals = self.totals.setdefault(id, dict.fromkeys(VERDICTS, 0.0))
            for n, (verdict, rate) in enumerate(rates.items()):
                swing = 1 + 0.35 * math.sin(now / 3 + n) + 0.2 * math.sin(now * 1.7 + 2 * n)
                totals[verdict] += rate * passed * swing
        return [
            each
            | {
                "counts": [
                    {
                        "netns": "host",
                        "interface": "eth0",
                        "packets": {name: int(count) for name, count in totals.items()},
                        "bytes": {},
                    }
                ]
            }
            if (totals := self.totals.get(each["id"]))
            else each
            for each in self.known
        ]

    def flows(self, query: FlowQuery) -> dict[str, Any]:
        found = [flow for flow in self.flowing if query.verdict in (None, flow["verdict"])]
        counts = {"held": len(self.flowing), "matched": len(found)}
        return document("flows", found[: query.limit], enabled=True, sample_rate=1, **counts)

    def sockets(self) -> list[dict[str, object]]:
        return self.opened

    def status(self) -> dict[str, object]:
        return self.facts


def flow(verdict: str, source: str, port: int, rate: float, **more: object) -> dict[str, object]:
    """One of eth0 to a name server."""
    return {
        "program_id": 41,
        "program": "xdpfilt_alw_all",
        "netns": "host",
        "interface": "eth0",
        "verdict": verdict,
        "protocol": "udp",
        "source": source,
        "destination": "192.0.2.53",
        "source_port": port,
        "destination_port": 53,
        "packets": int(rate * 211),
        "bytes": int(rate * 211 * 98),
        "estimated_packets": int(rate * 211),
        "estimated_bytes": int(rate * 211 * 98),
        "rate": rate,
    } | more


def opened(interface: str, queue: int, comm: str, **dropped: int) -> dict[str, object]:
    """An AF_XDP socket."""
    reasons = ("rx_dropped", "rx_invalid", "rx_ring_full", "fill_ring_empty", "tx_invalid",
               "tx_ring_empty")  # fmt: skip
    return {
        "socket": 48211 + queue,
        "netns": "host",
        "interface": interface,
        "queue": queue,
        "pid": 1207 if comm else None,
        "comm": comm,
        "uid": 0,
        "zero_copy": True,
        "rings": {"rx": 2048, "tx": 2048, "fill": 4096, "completion": 2048},
        "dropped": dict.fromkeys(reasons, 0) | dropped,
    }


def busy_host() -> Scene:
    """Return a scene with something of everything."""

    def veths(count: int) -> list[dict[str, object]]:
        return [
            {"netns": "pod-7f", "interface": f"veth{n}", "mode": "generic"} for n in range(count)
        ]

    def of(dispatcher: int, position: int) -> list[dict[str, object]]:
        return [{"dispatcher_id": dispatcher, "position": position}]

    scene = Scene(
        [
            program(38, "xdp_dispatcher", "dispatcher"),
            program(41, "xdpfilt_alw_all", "component", chain=of(38, 0)),
            program(44, "rate_limit_per_source", "component", chain=of(38, 1)),
            program(47, "balance_to_backends", "component", chain=of(38, 2)),
            program(52, "pod_ingress_policy_v4_and_v6", attachments=veths(12)),
            program(
                53,
                "to_other_cpus",
                "cpumap",
                attachments=[],
            ),
            program(
                60,
                "xdp_dispatcher",
                "dispatcher",
                traceable=False,
                reason="busy",
                attachments=[{"netns": "host", "interface": "eth1", "mode": "native"}],
            ),
            program(
                63,
                "parse_vlan",
                "tailcall",
                traceable=False,
                reason="tailcall_only",
                attachments=[],
                called_by=[52],
            ),
            program(70, "experiment", traceable=False, reason="no_btf"),
        ],
        [
            flow("drop", "198.51.100.7", 40000, 8120.4),
            flow("redirect", "203.0.113.80", 443, 5310.0, protocol="tcp"),
            flow("pass", "2001:db8:12::7", 51820, 2211.7, destination="2001:db8::1"),
            *(
                flow(("pass", "drop", "tx")[n % 3], f"203.0.113.{n}", 31000 + n, 900 / (n + 1))
                for n in range(14)
            ),
        ],
    )
    scene.opened = [
        opened("eth0", 0, "suricata", fill_ring_empty=91244, rx_dropped=91244),
        opened("eth0", 1, ""),
    ]
    scene.rates = {
        38: {"pass": 5200, "drop": 9100, "redirect": 5400, "aborted": 0.4},
        41: {"pass": 10600, "drop": 8400},
        44: {"pass": 9800, "drop": 700},
        47: {"pass": 5200, "redirect": 5400, "aborted": 0.4},
        52: {"pass": 310, "drop": 12, "tx": 44},
        53: {"pass": 1.6},
    }
    scene.totals = {
        id: {verdict: rates.get(verdict, 0) * 86400 for verdict in VERDICTS}
        for id, rates in scene.rates.items()
    }
    scene.facts = {
        "Ready": True,
        "Programs traced": "6 of 9",
        "Packets missed": "0",
        "Failed attachments": "1",
        "Flows held": "12,480",
        "Host": "node-4",
        "Kernel": "6.12.57",
        "Agent": "0.2.0",
    }
    return scene
