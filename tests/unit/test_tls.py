# SPDX-License-Identifier: Apache-2.0
"""Who gets through to what is served: TLS, client certificates, passwords; a real Prometheus."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import bcrypt
import pytest
from tests.unit.authority import HASH, MUTUAL, PASSWORD, USERS, Authority, basic
from tests.unit.served import (
    PATHS,
    FakeSource,
    Served,
    assert_secure,
    command,
    received,
    serving,
)
from tests.unit.test_server import BIG
from tests.waiting import wait_for

from xdpscope.web.limits import Limits
from xdpscope.web.policy import PolicyFile

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


RIGHT = basic("prometheus", PASSWORD)


def reach(served: Served, trust: ssl.SSLContext) -> str:
    """Return the version that is spoken with a client like this; empty if it is shut out."""
    try:
        with trust.wrap_socket(served.connect(), server_hostname="127.0.0.1") as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answered = received(client).startswith(b"HTTP/1.1 200")
            return (client.version() or "") if answered else ""
    except OSError:
        return ""


# --- TLS ------------------------------------------------------------------------------------------


def test_everything_is_served_through_tls_and_nothing_beside_it(authority: Authority) -> None:
    policy = PolicyFile(authority.write()).current
    with serving(policy=policy, trust=authority.trust()) as served:
        for path in PATHS:
            status, headers, body = served.get(path)
            assert status == 200 and body
            assert_secure(headers)
        assert reach(served, authority.trust()) == "TLSv1.3"
        plain = served.connect(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"eth0" not in received(plain)


def test_versions_ciphers_and_curves_are_as_asked(authority: Authority) -> None:
    def offering(**change: object) -> ssl.SSLContext:
        trust = authority.trust()
        for name, value in change.items():
            method = getattr(trust, name)
            if callable(method):
                method(value)
            else:
                setattr(trust, name, value)
        return trust

    old, new = (
        offering(maximum_version=ssl.TLSVersion.TLSv1_2),
        offering(minimum_version=ssl.TLSVersion.TLSv1_3),
    )
    for keys, reached in (
        (("min_version: TLS13",), ("", "TLSv1.3")),
        (("max_version: TLS12",), ("TLSv1.2", "")),
        (("cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]",), ("", "TLSv1.3")),
        (("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]",), ("TLSv1.2", "TLSv1.3")),
    ):
        with serving(policy=PolicyFile(authority.write(*keys)).current) as served:
            assert (reach(served, old), reach(served, new)) == reached, keys
    with serving(policy=PolicyFile(authority.write("curve_preferences: [CurveP384]")).current) as s:
        assert reach(s, offering(set_ecdh_curve="secp384r1"))
        # Not X25519, which Python 3.11.2 cannot set.
        assert not reach(s, offering(set_ecdh_curve="prime256v1"))


@pytest.mark.parametrize(
    ("keys", "admitted"),
    [
        (("client_auth_type: NoClientCert",), {"none", "ours", "other name", "foreign"}),
        (("client_auth_type: RequestClientCert",), {"none", "ours", "other name", "foreign"}),
        (
            ("client_auth_type: VerifyClientCertIfGiven", MUTUAL[1]),
            {"none", "ours", "other name"},
        ),
        (MUTUAL, {"ours", "other name"}),
        ((*MUTUAL, "client_allowed_sans: [scraper.example]"), {"ours"}),
        ((*MUTUAL, 'client_allowed_sans: ["2001:db8:0::1"]'), {"other name"}),
        ((*MUTUAL, "client_allowed_sans: [example, 10.0.0.1]"), set()),
    ],
)
def test_which_clients_get_in(
    authority: Authority, keys: tuple[str, ...], admitted: set[str]
) -> None:
    clients = {
        "none": authority.trust(),
        "ours": authority.trust(authority.ca.issue_cert("scraper.example")),
        "other name": authority.trust(authority.ca.issue_cert("2001:db8::1")),
        "foreign": authority.trust(Authority(authority.directory).ca.issue_cert("scraper.example")),
    }
    authority.ca.cert_pem.write_to_path(authority.directory / "clients.crt")
    authority.renew()
    with serving(policy=PolicyFile(authority.write(*keys)).current) as served:
        assert {name for name, trust in clients.items() if reach(served, trust)} == admitted


def test_certificates_in_the_file_itself(authority: Authority) -> None:
    ours = authority.trust(authority.ca.issue_cert("scraper.example"))
    with serving(policy=PolicyFile(authority.write_inline()).current) as served:
        assert reach(served, ours) == "TLSv1.3"
        assert not reach(served, authority.trust())


def test_a_new_certificate_is_shown_to_the_next_connection(authority: Authority) -> None:
    def shown(served: Served) -> bytes | None:
        with authority.trust().wrap_socket(served.connect(), server_hostname="127.0.0.1") as client:
            return client.getpeercert(binary_form=True)

    with serving(policy=PolicyFile(authority.write()).current) as served:
        first = shown(served)
        assert shown(served) == first
        authority.renew()
        assert shown(served) != first


# --- passwords ------------------------------------------------------------------------------------


def test_a_password_is_asked_for_everywhere(tmp_path: Path) -> None:
    (tmp_path / "web.yml").write_text(USERS)
    with serving(policy=PolicyFile(tmp_path / "web.yml").current) as served:
        for path in (*PATHS, "/nowhere"):
            status, headers, body = served.get(path)
            assert (status, body) == (401, b"who are you?\n")
            assert headers["www-authenticate"].startswith('Basic realm="xdpscope"')
            assert_secure(headers)
            assert served.get(path, **RIGHT)[0] == (404 if path == "/nowhere" else 200)
        for wrong in (
            basic("prometheus", PASSWORD + " "),
            basic("prometheus", ""),
            basic("other", PASSWORD),
            basic("", ""),
            basic("prometheus", HASH),
            {"authorization": "Basic"},
            {"authorization": "Basic ====", "x": "y"},
            {"authorization": RIGHT["Authorization"].replace("Basic", "Bearer")},
        ):
            assert served.get("/metrics", **wrong)[0] == 401, wrong
        # Another password from one moment to the next.
        other = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
        (tmp_path / "web.yml").write_text(f"basic_auth_users: {{prometheus: {other}}}")
        assert served.get("/metrics", **RIGHT)[0] == 401
        assert served.get("/metrics", **basic("prometheus", "other"))[0] == 200


def test_passwords_longer_than_bcrypt_reads_and_of_any_bytes(tmp_path: Path) -> None:
    long = "ü:" * 60
    hashed = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode().replace("$2b", "$2y")
    (tmp_path / "web.yml").write_text(f"basic_auth_users: {{jürgen: {hashed}}}")
    with serving(policy=PolicyFile(tmp_path / "web.yml").current) as served:
        assert served.get("/metrics", **basic("jürgen", long))[0] == 200
        assert served.get("/metrics", **basic("jürgen", long[1:]))[0] == 401


def test_who_is_known_costs_nothing_and_who_is_not_costs_the_same(tmp_path: Path) -> None:
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()
    (tmp_path / "web.yml").write_text(f"basic_auth_users: {{prometheus: {hashed}}}")
    with serving(policy=PolicyFile(tmp_path / "web.yml").current) as served:

        def cost(user: str, password: str, status: int) -> float:
            """Seconds of a CPU, ours and the server's; steadier than those of the clock."""

            def once() -> float:
                begun = time.process_time()
                assert served.get("/healthz", **basic(user, password))[0] == status
                return time.process_time() - begun

            return min(once() for _ in range(5))

        served.get("/healthz", **RIGHT)
        right = cost("prometheus", PASSWORD, 200)
        wrong = cost("prometheus", "guess", 401)
        unknown = cost("nobody", "guess", 401)
        print(f"a password that is known {right * 1e3:.1f} ms, wrong {wrong * 1e3:.1f} ms")
        assert right * 4 < wrong
        assert 0.6 < unknown / wrong < 1.7

        # However many guess at once, who is known gets through.
        with ThreadPoolExecutor(40) as guessers:
            guesses = [
                guessers.submit(served.get, "/healthz", **basic("prometheus", f"guess {n}"))
                for n in range(40)
            ]
            assert served.get("/healthz", **RIGHT)[0] == 200
            assert not all(guess.done() for guess in guesses)
            statuses = {guess.result()[0] for guess in guesses}
        assert statuses == {401, 503}


def test_headers_are_as_configured(authority: Authority) -> None:
    authority.write(
        rest="http_server_config: {headers: {Strict-Transport-Security: max-age=60, "
        "X-Frame-Options: sameorigin}}"
    )
    with serving(policy=PolicyFile(authority.path).current, trust=authority.trust()) as served:
        for path in ("/metrics", "/nowhere"):
            headers = served.get(path)[1]
            assert headers["strict-transport-security"] == "max-age=60"
            assert headers.get_all("x-frame-options") == ["sameorigin"]


# --- crowds ---------------------------------------------------------------------------------------


@pytest.fixture
def crowded(authority: Authority) -> Iterator[Served]:
    source = FakeSource(series=1000)
    source.listed = [{"big": "x" * BIG}]
    policy = PolicyFile(authority.write()).current
    with serving(source, policy=policy, trust=authority.trust()) as served:
        yield served


def test_stalled_handshakes_and_slow_readers_do_not_slow_a_scrape(
    crowded: Served, authority: Authority
) -> None:
    def scrape() -> float:
        begun = time.perf_counter()
        status, _, body = crowded.get("/metrics")
        assert status == 200 and body.count(b"\n") == 2004
        return time.perf_counter() - begun

    def scrapes() -> float:
        return median(scrape() for _ in range(15))

    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    trust = authority.trust()
    scrape()
    idle = scrapes()
    stalled = [crowded.connect(hello * (n % 2)) for n in range(200)]
    slow = []
    for n in range(200):
        client = trust.wrap_socket(
            crowded.connect(receive_buffer=4096), server_hostname="127.0.0.1"
        )
        # Of each ten one asks for more than the kernel takes, and holds memory of ours.
        path = b"api/v1/programs" if n % 10 == 0 else b"metrics"
        client.sendall(b"GET /" + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        slow.append(client)
    for client in slow:
        assert client.recv(64).startswith(b"HTTP/1.1 200")
    busy = scrapes()
    for client in (*stalled, *slow):
        client.close()
    # Once more, since others may have begun to use the machine meanwhile.
    idle = max(idle, scrapes())
    print(f"a scrape: {idle * 1e3:.1f} ms idle, {busy * 1e3:.1f} ms among 400 that dawdle")
    assert busy < 2 * idle


def test_handshakes_are_bounded_in_time_and_number(authority: Authority) -> None:
    policy = PolicyFile(authority.write()).current
    limits = Limits(connections=10, head_timeout=0.5)
    with serving(limits=limits, policy=policy, trust=authority.trust()) as served:
        stalled = [served.connect() for _ in range(10)]
        with pytest.raises(OSError):
            served.get("/healthz")
        assert 0.2 < served.closed_after(stalled[0]) < 3
        wait_for(lambda: reach(served, authority.trust()) != "", 5)
        for client in stalled:
            client.close()


def test_requests_over_the_limit_get_a_503_through_tls(authority: Authority) -> None:
    policy = PolicyFile(authority.write()).current
    with (
        serving(limits=Limits(in_flight=2), policy=policy, trust=authority.trust()) as served,
        ThreadPoolExecutor(2) as clients,
    ):
        served.source.gate.clear()
        scrapes = [clients.submit(served.get, "/metrics") for _ in range(2)]
        wait_for(lambda: served.source.collecting == 2, 5)
        status, headers, _ = served.get("/")
        assert (status, headers["retry-after"]) == (503, "1")
        served.source.gate.set()
        assert [scrape.result()[0] for scrape in scrapes] == [200, 200]


def test_it_stops_in_time_whatever_tls_clients_do(authority: Authority) -> None:
    policy = PolicyFile(authority.write()).current
    with serving(policy=policy) as served:
        clients = [served.connect(), served.connect(b"\x16\x03\x01")]
        clients.append(authority.trust().wrap_socket(served.connect(), server_hostname="127.0.0.1"))
        assert served.stop() < 0.4
        for client in clients:
            client.close()


# --- Prometheus -----------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_prometheus_scrapes_through_tls_with_certificate_and_password(
    authority: Authority,
) -> None:
    client = authority.ca.issue_cert("scraper.example")
    client.private_key_pem.write_to_path(authority.directory / "client.key")
    client.cert_chain_pems[0].write_to_path(authority.directory / "client.crt")
    authority.write(*MUTUAL, "client_allowed_sans: [scraper.example]", rest=USERS)
    with (
        serving(policy=PolicyFile(authority.path).current) as served,
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        port = free.getsockname()[1]
        free.close()

        def job(name: str, password: str, certificate: str) -> str:
            return f"""
  - job_name: {name}
    scheme: https
    basic_auth: {{username: prometheus, password: {password}}}
    tls_config: {{ca_file: clients.crt{certificate}}}
    static_configs: [{{targets: ["127.0.0.1:{served.port}"]}}]"""

        certificate = ", cert_file: client.crt, key_file: client.key"
        (authority.directory / "prometheus.yml").write_text(
            "global: {scrape_interval: 500ms, scrape_timeout: 500ms}\nscrape_configs:"
            + job("good", PASSWORD, certificate)
            + job("wrong_password", "guess", certificate)
            + job("no_certificate", PASSWORD, "")
        )
        process = subprocess.Popen(
            [
                command("prometheus"),
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=authority.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def query(expression: str) -> dict[str, float]:
            address = f"http://127.0.0.1:{port}/api/v1/query?query={expression}"
            try:
                with urllib.request.urlopen(address, timeout=30) as answer:
                    series = json.load(answer)["data"]["result"]
            except OSError:
                return {}
            return {each["metric"]["job"]: float(each["value"][1]) for each in series}

        try:
            expected = {"good": 1.0, "wrong_password": 0.0, "no_certificate": 0.0}
            wait_for(lambda: query("up") == expected, 60)
            assert query("count%20by%20(job)%20(xdp_packets_total)") == {"good": 100.0}
        finally:
            process.terminate()
            process.wait(30)
