# SPDX-License-Identifier: Apache-2.0
"""web-config.yml: what is accepted, what is refused, and what becomes of it when it changes."""

from __future__ import annotations

import io
import json
import platform
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme
from tests.unit.authority import HASH, MUTUAL, PASSWORD, USERS, Authority
from tests.unit.served import command
from tests.unit.test_cli import xdpscope

from xdpscope.errors import ConfigError
from xdpscope.web.policy import PolicyFile
from xdpscope.web.webconfig import CURVES

EXAMPLE = Path(__file__).parents[2] / "config" / "web-config.yml"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def problem(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        PolicyFile(path)
    return str(caught.value).removeprefix(str(path))


def promtool_accepts(path: Path) -> bool:
    checked = subprocess.run([command("promtool"), "check", "web-config", path], check=False)
    return checked.returncode == 0


def test_the_example_is_good_for_promtool_and_for_us(authority: Authority) -> None:
    shutil.copy(EXAMPLE, authority.path)
    assert promtool_accepts(authority.path)
    policy = PolicyFile(authority.path).current()
    assert policy.context is not None and policy.verifies_clients and not policy.open
    assert set(policy.users) == {b"prometheus"}
    assert policy.headers == {"Strict-Transport-Security": "max-age=31536000"}


@pytest.mark.parametrize(
    "tls",
    [
        (),
        ("client_auth_type: RequestClientCert",),
        ("client_auth_type: VerifyClientCertIfGiven", "client_ca_file: clients.crt"),
        MUTUAL,
        ("min_version: TLS13", "max_version: TLS13"),
        ("max_version: TLS12", "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]"),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256]", "prefer_server_cipher_suites: false"),
        ("curve_preferences: [CurveP384]",),
    ],
)
def test_what_promtool_accepts_we_do(authority: Authority, tls: tuple[str, ...]) -> None:
    path = authority.write(*tls, rest="http_server_config: {http2: false}")
    assert promtool_accepts(path)
    assert PolicyFile(path).current().context is not None


@pytest.mark.parametrize("curve", [*CURVES, "unknown"])
def test_a_curve_is_set_or_refused_with_a_reason(
    authority: Authority, curve: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11.2 cannot set X25519; no OpenSSL knows the last one."""
    if curve == "unknown":
        curve = "CurveP256"
        monkeypatch.setitem(CURVES, curve, "none-such")
    path = authority.write(f"curve_preferences: [{curve}]")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ecdh_curve(CURVES[curve])
    except (ValueError, ssl.SSLError):
        assert problem(path) == (
            f":4: tls_server_config.curve_preferences: {curve} is not supported by "
            f"Python {platform.python_version()} with {ssl.OPENSSL_VERSION}"
        )
    else:
        assert PolicyFile(path).current().context is not None


@pytest.mark.parametrize("text", ["", "{}", "tls_server_config:\nbasic_auth_users:\n"])
def test_nothing_said_means_everyone(tmp_path: Path, text: str) -> None:
    (tmp_path / "web.yml").write_text(text)
    assert PolicyFile(tmp_path / "web.yml").current().open


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tls_config: {}", ":1: tls_config: unknown key, did you mean tls_server_config?"),
        ("tls_server_config: {cert_file: a}", ":1: tls_server_config.key_file: must be given"),
        ("\ntls_server_config: {key_file: a}", ":2: tls_server_config.cert_file: must be given"),
        ("tls_server_config: {min_version: TLS10}", "min_version: must be one of TLS12, TLS13"),
        ("tls_server_config: {cipher_suites: [RC4]}", "cipher_suites[0]: must be one of TLS_"),
        ("tls_server_config: {curve_preferences: [x25519]}", "did you mean X25519?"),
        ("tls_server_config: {curve_preferences: [P256]}", "must be one of X25519, CurveP256"),
        ("tls_server_config: {client_auth_type: Always}", "must be one of NoClientCert, "),
        ("tls_server_config: {client_auth_type: RequireAnyClientCert}", "lets any certificate in"),
        ("http_server_config: {http2: maybe}", ":1: http_server_config.http2: must be true or"),
        ("http_server_config: {headers: {Server: x}}", "headers.Server: this header cannot be set"),
        ("http_server_config: {headers: {X-Frame-Options: x}}", "one of deny, sameorigin"),
        ('http_server_config: {headers: {X-XSS-Protection: "a\\nb"}}', "printable ASCII text"),
        ("basic_auth_users: [a]", ":1: basic_auth_users: must be a mapping of users"),
        (f"basic_auth_users: {{'': {HASH}}}", "a user's name must not be empty"),
        (f"basic_auth_users: {{'a:b': {HASH}}}", "nor have a colon"),
        (f"basic_auth_users: {{a: {HASH.replace('$04', '$31')}}}", "of cost 4 to 18"),
        (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}", ":3: basic_auth_users.a: is given twice"),
    ],
)
def test_a_value_that_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "web.yml").write_text(text)
    assert said in problem(tmp_path / "web.yml")


def test_all_problems_are_listed_at_once_with_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(f"""\
tls_server_config:
  cert: [a]
  min_version: TLS10
  cipher_suites: [RC4, TLS_AES_128_GCM_SHA256, [a]]
  client_auth_type: RequireAndVerifyClientCerts
http_server_config: {{http2: 2, headers: {{x-frame-options: deny, X-Content-Type-Options: sniff}}}}
basic_auth_users:
  alice: {PASSWORD}
  "a:b": {PASSWORD}
  bob: {HASH}
  bob: {PASSWORD}
  ? [c]
  : {HASH}
""")
    lines = problem(path).replace(str(path), "").splitlines()
    assert [line.partition(" must")[0].partition(", did")[0] for line in lines] == [
        ":2: tls_server_config.cert:",
        ":3: tls_server_config.min_version:",
        ":4: tls_server_config.cipher_suites[0]:",
        ":4: tls_server_config.cipher_suites[2]:",
        ":5: tls_server_config.client_auth_type:",
        ":6: http_server_config.http2:",
        ":6: http_server_config.headers.x-frame-options: this header cannot be set",
        ":6: http_server_config.headers.X-Content-Type-Options:",
        ":8: basic_auth_users.alice:",
        ":9: basic_auth_users.'a:b': a user's name",
        ":9: basic_auth_users.'a:b':",
        ":11: basic_auth_users.bob: is given twice, first on line 10",
        ":12: basic_auth_users.'(list as key)': a user's name",
    ]
    assert "(did you mean RequireAndVerifyClientCert?)" in lines[4]
    assert "did you mean X-Frame-Options? (allowed: Content-Security-Policy, " in lines[6]
    assert not any(secret in line for line in lines for secret in (PASSWORD, HASH))


def test_no_message_has_a_password_in_it(tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  alice: {PASSWORD}\n")
    assert problem(path) == (
        ":2: basic_auth_users.alice: must be a password's bcrypt hash of cost 4 to 18, "
        "such as htpasswd -nBC 10 NAME prints after the colon"
    )


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        (
            ("min_version: TLS13", "max_version: TLS12"),
            ":4: tls_server_config.min_version: must no",
        ),
        (("client_ca_file: clients.crt",), ":4: tls_server_config.client_ca_file: must not be"),
        (("client_allowed_sans: [a]",), ":4: tls_server_config.client_allowed_sans: must not be"),
        (("client_auth_type: RequireAndVerifyClientCert",), "client_ca_file: must be given with"),
        ((MUTUAL[0], "client_ca_file: none"), "client_ca_file: must be a readable PEM file: "),
        ((MUTUAL[0], "client_ca_file: server.key"), "client_ca_file: must be a file of PEM cert"),
    ],
)
def test_settings_that_do_not_go_together(
    authority: Authority, tls: tuple[str, ...], said: str
) -> None:
    assert said in problem(authority.write(*tls))


def test_files_that_cannot_be_used_are_told_apart(authority: Authority) -> None:
    path = authority.write()
    certificate, key = (authority.directory / f"server.{end}" for end in ("crt", "key"))
    good = key.read_bytes()
    for content, said in {
        trustme.CA().issue_cert("x").private_key_pem.bytes(): "must be the key of cert_file",
        b"junk": "must be a PEM private key",
        _encrypted(good): "must not be encrypted",
    }.items():
        key.write_bytes(content)
        assert f":3: tls_server_config.key_file: {said}" in problem(path)
    key.unlink()
    assert problem(path).endswith(f"must be a readable PEM file: {key}: No such file or directory")
    key.write_bytes(good)
    certificate.write_bytes(b"\xff\x00 junk")
    assert ":2: tls_server_config.cert_file: must be a file of PEM cert" in problem(path)


def _encrypted(key: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return form.load_pem_private_key(key, None).private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret")
    )


def test_pem_in_the_file_itself(authority: Authority) -> None:
    path = authority.write_inline()
    for name in ("server.crt", "server.key", "clients.crt"):
        (authority.directory / name).unlink()
    policy = PolicyFile(path).current()
    assert policy.context is not None and policy.verifies_clients
    (believed,) = policy.context.get_ca_certs(binary_form=True)
    assert believed == ssl.PEM_cert_to_DER_cert(authority.ca.cert_pem.bytes().decode())


@pytest.mark.parametrize(
    ("also", "said"),
    [
        ("cert_file: server.crt", ":3: tls_server_config.cert_file: must not be given with cert"),
        ("key_file: server.key", ":3: tls_server_config.key_file: must not be given with key"),
        (
            "client_ca_file: clients.crt",
            ":3: tls_server_config.client_ca_file: must not be given with client_ca",
        ),
    ],
)
def test_pem_is_in_the_file_or_beside_it(authority: Authority, also: str, said: str) -> None:
    assert said in problem(authority.write_inline(also))


def test_pem_in_the_file_that_cannot_be_used(authority: Authority) -> None:
    key = (authority.directory / "server.key").read_text()
    for name, text, said in (
        ("cert", "junk", "cert: must be PEM certificates"),
        ("client_ca", key, "client_ca: must be PEM certificates"),
        ("key", "junk", "key: must be a PEM private key"),
        ("key", trustme.CA().issue_cert("x").private_key_pem.bytes().decode(), "key: must be the"),
        ("key", _encrypted(key.encode()).decode(), "key: must not be encrypted"),
    ):
        assert f"tls_server_config.{said}" in problem(authority.write_inline(replaced={name: text}))
    # Folded into one line, as without the "|", it is not PEM any more.
    path = authority.write_inline()
    path.write_text(path.read_text().replace("cert: |", "cert: >"))
    assert "cert: must be PEM certificates, in a block that begins with |" in problem(path)


def test_no_message_has_a_key_in_it(authority: Authority) -> None:
    path = authority.write_inline()
    text = path.read_text()
    for damaged in (text.replace("key: |", "key: >"), text.replace("key: |", "key:\n  - |")):
        path.write_text(damaged)
        assert "tls_server_config.key: must be" in (said := problem(path))
        assert (authority.directory / "server.key").read_text().splitlines()[1] not in said
    # A key that has slipped into the place of a certificate.
    path = authority.write_inline(replaced={"cert": text.partition("key: |\n")[2]})
    assert "MII" not in problem(path)


def test_a_certificate_in_the_file_is_renewed(authority: Authority, logged: io.StringIO) -> None:
    file = PolicyFile(authority.write_inline())
    before = file.current()
    authority.renew()
    authority.write_inline(replaced={"key": "half-writ"})
    assert file.current() is before
    authority.write_inline()
    assert file.current().context is not before.context
    assert [level for level, _ in events(logged)] == ["error", "info"]


def test_check_config_and_run_refuse_it_alike(authority: Authority) -> None:
    agent = authority.directory / "xdpscope.yaml"
    agent.write_text("web_config: web-config.yml\n")
    authority.write()
    assert xdpscope("check-config", str(agent)).returncode == 0
    authority.write("min_version: TLS1")
    for way in (("check-config",), ("run", "--listen", "127.0.0.1:0", "--config")):
        result = xdpscope(*way, str(agent))
        assert result.returncode == 2
        assert f"{authority.path}:4: tls_server_config.min_version: must be" in result.stderr


# --- changes --------------------------------------------------------------------------------------


def events(logged: io.StringIO) -> list[tuple[str, str]]:
    """Return what was logged since: level, and what about."""
    records = list(map(json.loads, logged.getvalue().splitlines()))
    logged.seek(0)
    logged.truncate()
    return [(record["level"], record.get("error", "")) for record in records]


def test_a_broken_file_changes_nothing_and_is_complained_of_once(
    authority: Authority, logged: io.StringIO
) -> None:
    file = PolicyFile(authority.write(rest=USERS))
    before = file.current()
    authority.path.write_text("tls_server_config: [")
    assert file.current() is file.current() is before
    ((level, error),) = events(logged)
    assert level == "error" and f"{authority.path}:1: " in error
    authority.write(rest=USERS.replace("prometheus", "other"))
    assert set(file.current().users) == {b"other"}
    assert events(logged) == [("info", "")]


def test_certificates_are_read_again_once_they_are_complete(
    authority: Authority, logged: io.StringIO
) -> None:
    authority.write(MUTUAL[0], "client_ca_file: new.crt")
    shutil.copy(authority.directory / "clients.crt", authority.directory / "new.crt")
    file = PolicyFile(authority.path)
    context = file.current().context
    (authority.directory / "new.crt").unlink()
    assert file.current().context is context
    authority.ca.cert_pem.write_to_path(authority.directory / "new.crt")
    assert file.current().context is not context
    context = file.current().context
    other = trustme.CA().issue_cert("127.0.0.1")
    other.private_key_pem.write_to_path(authority.directory / "server.key")
    assert file.current().context is context
    other.cert_chain_pems[0].write_to_path(authority.directory / "server.crt")
    assert file.current().context is not context
    assert [level for level, _ in events(logged)] == ["error", "info", "error", "info"]


def test_protection_is_never_switched_off_at_run_time(
    authority: Authority, logged: io.StringIO
) -> None:
    authority.write(*MUTUAL, rest=USERS)
    whole = authority.path.read_text()
    file = PolicyFile(authority.path)
    before = file.current()
    # Half-written, it is a good file at several lengths.
    for length in range(0, len(whole) - 2, 5):
        authority.path.write_text(whole[:length])
        assert file.current() is before
    errors = {error.partition(": ")[2] for _, error in events(logged)}
    assert {
        "tls_server_config: TLS cannot be switched on or off at run time: restart",
        "basic_auth_users: basic authentication cannot be switched off at run time: restart",
    } <= errors
    authority.write(rest=USERS)
    assert file.current() is before
    ((_, error),) = events(logged)
    assert "client_auth_type: verification of clients cannot be switched off" in error
    authority.path.write_text(whole)
    assert file.current() is not before
