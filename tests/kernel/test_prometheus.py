# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus reads what the agent serves."""

import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.agent import QUICK, AgentProcess, traced
from tests.kernel.lab import Lab, addressed, frame
from tests.kernel.pinned import READ_ONLY
from tests.kernel.pinned import udp as flow_of
from tests.kernel.prometheus import PROMETHEUS, scraping
from tests.kernel.test_chains import (
    DROP,
    LINKS,
    PASS,
    TX,
    chain,
    extend_too,
    needs_loader,
    send_some,
)
from tests.kernel.test_lifecycle import extension_of, link_targets  # noqa: F401 - a fixture
from tests.kernel.test_xdp_tools import filtering, udp
from tests.unit.authority import (
    HASH,
    MUTUAL,
    OTHER_HASH,
    OTHER_PASSWORD,
    PASSWORD,
    USERS,
    Authority,
    basic,
)
from tests.unit.test_sums import documented_sum
from tests.waiting import wait_for

PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")

pytestmark = [
    pytest.mark.one_kernel,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is missing: make setup fetches it"),
    pytest.mark.timeout(400),
]


def test_what_prometheus_reads_is_what_was_sent(lab: Lab, tmp_path: Path) -> None:
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_by_first_payload_byte"), veth)
    series = 'xdp_packets_total{interface="xst0",verdict=~"drop|pass"}'
    with AgentProcess(QUICK) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_by_first_payload_byte"))
        with scraping(agent, tmp_path) as prometheus:
            wait_for(lambda: prometheus.query(series) == {"drop": 0, "pass": 0})
            time.sleep(5)  # some scrapes of 0, the start of the rate
            began = time.time()
            for _ in range(10):
                veth.send(frame(60, b"\1"), times=30)
                veth.send(frame(90, b"\2"), times=10)
                time.sleep(1)
            wait_for(lambda: prometheus.query(series) == {"drop": 300, "pass": 100})
            seconds = int(time.time() - began) + 5

            size = series.replace("packets", "bytes")
            assert prometheus.query(size) == {"drop": 18000, "pass": 9000}
            # Both extrapolate from the outermost scrapes to the ends of the window: by less
            # than an interval at each end.
            tolerance = 2.5 / seconds
            increase = prometheus.query(f"increase({series}[{seconds}s])")
            assert increase == pytest.approx({"drop": 300, "pass": 100}, rel=tolerance)
            rate = prometheus.query(f"rate({series}[{seconds}s])")
            expected = {"drop": 300 / seconds, "pass": 100 / seconds}
            assert rate == pytest.approx(expected, rel=tolerance)
            ratio = prometheus.query(
                f"sum(increase({series.replace('drop|pass', 'drop')}[{seconds}s]))"
                f" / sum(increase({series}[{seconds}s]))"
            )
            assert ratio == pytest.approx({"": 0.75}, rel=0.01)
            # An emulated machine may be late with some.
            assert prometheus.query("avg_over_time(up[1m])")[""] > 0.5


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_increase_is_what_was_sent_from_the_first_packet_on(lab: Lab, tmp_path: Path) -> None:
    """Of verdicts, flows and packets in no flow, for scrapers with different intervals."""
    interface = 'interface="xst0"'
    verdicts = f'xdp_packets_total{{{interface},verdict="drop"}}'
    flows = f'xdp_flow_packets_total{{{interface},verdict="drop"}}'
    in_none = f'xdp_flow_unaccounted_packets_total{{{interface},verdict="drop"}}'
    mine = flows.replace("}", ',source_port="4000"}')
    veth = lab.veth("xst0")
    lab.attach(lab.load(READ_ONLY, "flows"), veth)
    with AgentProcess(QUICK) as agent, ExitStack() as stack:
        agent.ready()
        wait_for(lambda: traced(agent, READ_ONLY))
        servers = []
        for seconds in (2, 6):
            (directory := tmp_path / str(seconds)).mkdir()
            servers.append(stack.enter_context(scraping(agent, directory, seconds=seconds)))
        began = time.time()
        for server in servers:
            wait_for(lambda each=server: each.query(verdicts) == {"drop": 0})
            assert server.query(f"count({in_none} == 0)") == {"": 4}
        seconds_sent = 0

        def grows() -> bool:
            """Return whether each server has seen the flow at 0, and then more."""
            return all(server.query(mine).get("drop", 0) > 0 for server in servers)

        while seconds_sent < 24 or not grows():
            veth.send(flow_of(4000), times=3)
            veth.send(addressed(frame(60), what=DROP))
            time.sleep(1)
            seconds_sent += 1
        sent = {verdicts: 4 * seconds_sent, flows: 3 * seconds_sent, in_none: seconds_sent}
        for server in servers:
            wait_for(lambda each=server: each.query(verdicts) == {"drop": sent[verdicts]})
            window = f"[{int(time.time() - began) + 60}s]"
            for series, packets in sent.items():
                # As increase(), without what that adds for the ends of the window.
                grown = f"sum(max_over_time({series}{window}) - min_over_time({series}{window}))"
                assert server.query(grown) == {"": packets}, series
            assert server.query(f"min_over_time({mine}{window})") == {"drop": 0}
            assert 0 < server.query(f"last_over_time({mine}{window})")["drop"] < 3 * seconds_sent
        increase = servers[0].query(f"sum(increase({flows}{window}))")
        assert increase == pytest.approx({"": sent[flows]}, rel=0.05)


@pytest.mark.matrix
def test_prometheus_with_certificate_and_password(lab: Lab, tmp_path: Path) -> None:
    """And nobody without; after a new password nobody with the old one."""
    authority = Authority(tmp_path)
    client = authority.ca.issue_cert("scraper.example")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.crt")
    path = authority.write(*MUTUAL, "client_allowed_sans: [scraper.example]", rest=USERS)
    access = (
        f", scheme: https, basic_auth: {{username: prometheus, password: {PASSWORD}}}"
        ", tls_config: {ca_file: clients.crt, cert_file: client.crt, key_file: client.key}"
    )
    veth = lab.veth("xst0")
    lab.attach(lab.load("decide_drop"), veth)
    with AgentProcess(f"{QUICK}web_config: {path}\n") as agent:
        agent.trust = authority.trust(client)
        agent.headers = basic("prometheus", PASSWORD)
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        veth.send(frame(60), times=7)
        with scraping(agent, tmp_path, access) as prometheus:
            dropped = 'xdp_packets_total{interface="xst0",verdict="drop"}'
            wait_for(lambda: prometheus.query(dropped) == {"drop": 7})
            agent.headers = {}
            assert agent.status("/metrics") == 401
            path.write_text(path.read_text().replace(HASH, OTHER_HASH))
            wait_for(lambda: not prometheus.up())
        agent.headers = basic("prometheus", OTHER_PASSWORD)
        assert agent.status("/metrics") == 200
        agent.trust = authority.trust()
        assert agent.status("/metrics") == 0
        assert agent.stop() == 0


@needs_loader
@pytest.mark.matrix
@pytest.mark.usefixtures("link_targets")
def test_sums_count_each_packet_once(lab: Lab, tmp_path: Path) -> None:
    """Alone, in a chain, in the place of a dispatcher, of both, and behind a map."""
    veths = {name: lab.veth(name) for name in ("xst0", "xst1", "xst2", "xst3", "xst4", "xst5")}
    lab.attach(lab.load("decide_by_source_mac", "flows"), veths["xst0"])
    behind = lab.load_together("maps", "to_device", "where_it_leaves")
    lab.attach(behind["to_device"], veths["xst3"])
    behind.put("devices", 0, lab.index("xst0p"), behind["where_it_leaves"])
    replaced, calling = (lab.load("xdp_dispatcher", name) for name in ("dispatcher", "chain"))
    entry = replaced.entry_function()
    assert entry is not None
    with (
        chain(veths["xst1"], *LINKS),
        filtering(veths["xst2"], "native", "port", "9999", "--mode", "dst", "--proto", "udp"),
        extension_of(calling, "prog3") as extension,
        extension.attached(),
        extend_too(extension.program, replaced, entry.type_id),
        AgentProcess(QUICK) as agent,
    ):
        lab.attach(replaced, veths["xst4"])
        lab.attach(calling, veths["xst5"])
        agent.ready()
        wait_for(lambda: traced(agent, "drop_instead") and traced(agent, "to_device"))
        for what in (DROP, PASS, TX):
            veths["xst0"].send(addressed(frame(60), what=what), times=10 + what)
        send_some(veths["xst1"])
        veths["xst2"].send(udp(9999, 60), times=20)
        veths["xst2"].send(udp(53, 60), times=30)
        veths["xst3"].send(addressed(frame(60), what=DROP), times=40)
        veths["xst4"].send(frame(60), times=50)
        veths["xst5"].send(frame(60), times=60)
        expected = {
            ("xst0", "drop"): 11,
            ("xst0", "pass"): 12,
            ("xst0", "tx"): 13,
            ("xst1", "drop"): 5,
            ("xst1", "pass"): 7,
            ("xst1", "tx"): 11,
            ("xst2", "drop"): 20,
            ("xst2", "pass"): 30,
            ("xst3", "redirect"): 40,
            ("xst4", "drop"): 50,
            ("xst5", "drop"): 60,
        }
        expression = documented_sum()
        assert expression.count("rate(xdp_packets_total[1m])") == 2
        totals = expression.replace("rate(xdp_packets_total[1m])", "xdp_packets_total")
        # So many programs make a page that an emulated machine does not serve each second.
        with scraping(agent, tmp_path, seconds=5) as prometheus:

            def sums(expression: str) -> dict[tuple[str, ...], float]:
                found = prometheus.series(expression, "interface", "verdict")
                return {key: value for key, value in found.items() if value}

            wait_for(lambda: sums(totals) == expected)
            time.sleep(11)
            assert sums(totals) == expected
            assert sums("sum by (interface, verdict) (xdp_packets_total)") != expected
            assert sums(expression) == {}, "as it stands: nothing has come for a while"


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: make setup fetches it")
def test_promtool_has_nothing_to_say(lab: Lab) -> None:
    lab.attach(lab.load("decide_drop"), lab.veth("xst0"))
    with AgentProcess(QUICK) as agent:
        agent.ready()
        wait_for(lambda: traced(agent, "decide_drop"))
        page = agent.get("/metrics")
    assert PROMTOOL is not None
    check = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=page, capture_output=True, timeout=120
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")
