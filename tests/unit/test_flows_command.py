# SPDX-License-Identifier: Apache-2.0
"""``xdpscope flows``, as it speaks to the real server."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import closing, contextmanager
from errno import EPIPE
from http.client import HTTPConnection, RemoteDisconnected
from typing import TYPE_CHECKING

import pytest
from tests.unit.authority import MUTUAL, PASSWORD, USERS, Authority
from tests.unit.scene import Scene, busy_host, flow
from tests.unit.served import HOSTILE, Served, serving

from xdpscope.cli import flows
from xdpscope.cli.console import short
from xdpscope.cli.parser import FLOW_OPTIONS, parse
from xdpscope.errors import ConfigError, ObserverBusyError, XdpscopeError
from xdpscope.formats import document
from xdpscope.probes.flows.query import FlowQuery
from xdpscope.web.parameters import FLOW_PARAMETERS
from xdpscope.web.policy import PolicyFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def url(served: Served, scheme: str = "http", user: str = "") -> str:
    return f"{scheme}://{user}127.0.0.1:{served.port}"


def run(address: str, *options: str) -> int:
    return flows.run(parse(["flows", "--connect", address, *options]))


def refused(address: str, *options: str) -> tuple[str, str]:
    """Return the error and its hint; both without the agent's address."""
    with pytest.raises(XdpscopeError) as caught:
        run(address, *options)
    text, hint = str(caught.value), caught.value.hint or ""
    assert PASSWORD not in text + hint
    return text.replace(f"{address}/", "URL"), hint


@pytest.fixture
def scene() -> Iterator[tuple[Scene, str]]:
    with serving(busy_host()) as served:
        assert isinstance(served.source, Scene)
        yield served.source, url(served)


def test_the_options_are_the_parameters_of_the_api() -> None:
    assert FLOW_OPTIONS.keys() == FLOW_PARAMETERS.keys()


def test_options_reach_the_agent(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as served:
        assert (
            run(url(served), "--program", "xdp_*", "--port", "53", "--sort", "bytes", "--json") == 0
        )
        assert served.source.asked == FlowQuery(limit=100, program="xdp_*", port=53, sort="bytes")
        assert json.loads(capsys.readouterr().out) == {"version": 1, "flows": []}
        with pytest.raises(ConfigError, match="refuses the request: port must be a whole number"):
            run(url(served), "--port", "dns")


@pytest.mark.parametrize("columns", [80, 200])
def test_the_table_is_readable_at_any_width(
    scene: tuple[Scene, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert run(scene[1], "--limit", "3") == 0
    printed, remark = capsys.readouterr()
    lines = [line.rstrip() for line in printed.splitlines()]
    assert max(map(len, lines)) < columns
    assert remark == "3 of 17 flows: --limit 17 lists all.\n"
    if columns == 80:
        heads = ["PKT/S", "PACKETS", "BYTES", "VERDICT", "PROTO", "DESTINATION", "INTERFACE"]
        assert [line.split() for line in lines[:2]] == [["SOURCE", "PROGRAM"], heads]
        assert lines[2].split() == (
            ["8,120", "1.71M", "168M", "drop", "udp", "198.51.100.7:40000", "xdpfilt_alw_all"]
        )
        assert lines[3].split() == ["192.0.2.53:53", "eth0"]
        assert "[2001:db8:12::7]:51820" in printed
        assert len(lines) == 2 + 3 * 2
    else:
        assert len(lines) == 1 + 3


def test_it_says_how_much_there_is(
    scene: tuple[Scene, str], capsys: pytest.CaptureFixture[str]
) -> None:
    source, address = scene
    assert run(address, "--verdict", "aborted") == 0
    assert capsys.readouterr() == ("", "No flow matches, of 17 that the agent holds.\n")
    assert run(address, "--verdict", "drop", "--limit", "1") == 0
    assert "1 of 6 matching flows" in capsys.readouterr().err
    source.flowing.clear()
    assert run(address) == 0
    assert "holds no flow" in capsys.readouterr().err


def test_only_ports_are_shown_as_ports(capsys: pytest.CaptureFixture[str]) -> None:
    echo = flow("pass", "10.0.0.1", 8, 9.0, protocol="icmp", destination_port=0)
    tunnel = flow("pass", "10.0.0.2", 0, 8.0, protocol="47", destination_port=0)
    with serving(Scene([], [echo, tunnel])) as served:
        assert run(url(served)) == 0
    words = capsys.readouterr().out.split()
    assert "icmp 8/0 10.0.0.1" in " ".join(words) and "47 10.0.0.2" in " ".join(words)
    assert words.count("192.0.2.53") == 2


def test_a_hostile_name_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    named = flow("drop", "10.0.0.1", 1, 2.0, program=f"[red]{HOSTILE}", interface=HOSTILE)
    with serving(Scene([], [named])) as served:
        assert run(url(served)) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "[red]" in printed


def test_it_needs_what_web_config_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    ca = ("--ca", str(tmp_path / "clients.crt"))
    with serving(policy=PolicyFile(authority.write(rest=USERS)).current) as served:
        secure = url(served, "https")
        assert "its certificate is not trusted" in refused(secure)[0]
        assert "--ca FILE" in refused(secure)[1]
        assert "https://" in refused(url(served))[1]
        assert refused(secure, *ca) == (
            "the agent at URL asks for a user and a password",
            "give them as http://USER:PASSWORD@HOST:PORT,"
            " or in XDPSCOPE_USER and XDPSCOPE_PASSWORD",
        )
        with pytest.raises(XdpscopeError, match="refuses this user or password"):
            run(url(served, "https", "prometheus:wrong@"), *ca)
        escaped = PASSWORD.replace(" ", "%20")
        assert run(url(served, "https", f"prometheus:{escaped}@"), *ca, "--json") == 0
        monkeypatch.setenv("XDPSCOPE_USER", "prometheus")
        monkeypatch.setenv("XDPSCOPE_PASSWORD", PASSWORD)
        assert run(secure, *ca, "--json") == 0
    assert json.loads(capsys.readouterr().out.partition("\n}\n")[2])["version"] == 1


def test_it_shows_a_client_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.ca.issue_cert("scraper.example")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "mine.pem")
    ca = ("--ca", str(tmp_path / "clients.crt"))
    with serving(policy=PolicyFile(authority.write(*MUTUAL)).current) as served:
        secure = url(served, "https")
        assert "--cert FILE" in refused(secure, *ca)[1]
        assert run(secure, *ca, "--cert", str(tmp_path / "mine.pem"), "--json") == 0
    for option, file in ("--ca", "server.key"), ("--cert", "absent.pem"):
        with pytest.raises(ConfigError, match=f"{option} .*{file} cannot be used: "):
            run(secure, option, str(tmp_path / file))


@pytest.mark.parametrize("error", [ConnectionResetError, BrokenPipeError, RemoteDisconnected])
def test_a_server_that_closes_may_ask_for_a_certificate(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    """Which of them it is depends on how far the client was when the server closed."""

    def request(*_: object, **__: object) -> None:
        raise error(EPIPE, "Broken pipe")

    monkeypatch.setattr(HTTPConnection, "request", request)
    assert refused("https://127.0.0.1:1") == (
        "no agent answers at URL: the connection is closed without an answer",
        "the agent may ask for a client certificate: --cert FILE --key FILE",
    )


def test_why_there_is_no_answer() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    assert refused(address) == (
        "no agent answers at URL: Connection refused",
        "start one with `xdpscope run`, or name another with --connect URL",
    )
    with serving() as served:
        assert "there is no api/v1/flows (404)" in refused(url(served) + "/below")[0]

        def busy(_: FlowQuery) -> dict[str, object]:
            raise ObserverBusyError("a scan is busy")

        served.source.flows = busy  # type: ignore[method-assign]
        text, hint = refused(url(served))
        assert text == "the agent at URL cannot answer now: a scan is busy" and "again" in hint


@contextmanager
def answering(head: str, body: str) -> Iterator[str]:
    """Something that is no agent of this version, and gives one answer."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(f"HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join(10)


@pytest.mark.parametrize(
    ("head", "body", "error"),
    [
        ("200 OK", "[]", "older than this command: its answer has no version"),
        ("200 OK", "<html>", "no agent that this command knows is at URL: the answer is not JSON"),
        ("200 OK", '{"version": 2, "flows": []}', "format 2, this command reads 1"),
        (
            "200 OK",
            json.dumps(document("flows", [], enabled=False)),
            "the agent at URL does not count flows",
        ),
        ("302 Found\r\nLocation: http://192.0.2.1/", "", "URL redirects to http://192.0.2.1/"),
        ("500 Internal Server Error", "", "the agent at URL answers 500"),
    ],
)
def test_answers_that_cannot_be_read(head: str, body: str, error: str) -> None:
    with answering(head, body) as address:
        text, hint = refused(address)
        assert error in text and hint


def test_numbers_are_short() -> None:
    shown = {0: "0", 99_999: "99,999", 100_000: "100k", 999_499: "999k", 999_500: "1M"}
    shown |= {1_234_567: "1.23M", 2**63: "9.22E", 999_999_999_999: "1T"}
    assert {number: short(number) for number in shown} == shown
