# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF009 - setting() gives a dataclass field, and is a call only for that
"""web-config.yml, the file that exporters share (exporter-toolkit, docs/web-configuration.md).

What is read here means what it means there. What we could not keep, because Python's TLS cannot do
it or because it protects nothing, is refused and not passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from xdpscope._settings import (
    SWITCH,
    Invalid,
    Kind,
    ListOf,
    MappingOf,
    OrNull,
    Problem,
    Scalar,
    Section,
    choice,
    closest,
    compose,
    config_error,
    line_at,
    line_of,
    printable_text,
    read_text,
    setting,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import yaml


__all__ = ["CIPHERS", "CURVES", "ClientAuth", "Http", "Tls", "Unusable", "WebConfig", "read"]

T = TypeVar("T")

ClientAuth = Literal[
    "NoClientCert", "RequestClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"
]

CURVES = {
    "X25519": "X25519",
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
}
"""Go's names of curves, and OpenSSL's."""

CIPHERS = {
    f"TLS_ECDHE_{key}_WITH_{go}": f"ECDHE-{key}-{openssl}"
    for key in ("ECDSA", "RSA")
    for go, openssl in {
        "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
        "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
        "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
        "AES_128_CBC_SHA": "AES128-SHA",
        "AES_256_CBC_SHA": "AES256-SHA",
    }.items()
} | dict.fromkeys(
    ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"), ""
)
"""Go's names of cipher suites, and OpenSSL's. Those of TLS 1.3 are always on, there as here."""

# A comparison doubles with each step of the cost: 18 takes over ten seconds of a CPU.
_HASH = re.compile(r"\$2[aby]\$(0[4-9]|1[0-8])\$[./A-Za-z0-9]{53}")

_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}


class Unusable(Exception):
    """A setting cannot be used: the path of its key, and what is allowed."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


@dataclass(frozen=True)
class _Secret(Generic[T]):
    """A value that no message shows."""

    kind: Kind[T]

    @property
    def allowed(self) -> str:
        return self.kind.allowed

    def read(self, node: yaml.Node) -> T:
        try:
            return self.kind.read(node)
        except Invalid:
            raise Invalid(Problem(line_of(node), "", f"must be {self.allowed}")) from None


def _client_auth(text: str) -> ClientAuth:
    kind: Kind[ClientAuth] = choice(
        "NoClientCert", "RequestClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"
    )
    assert isinstance(kind, Scalar)  # noqa: S101 - as choice makes it
    if text in ("RequireAnyClientCert", "RequireClientCert"):
        raise ValueError(
            "it lets any certificate in, also one made by the client itself, and Python's TLS asks "
            "for none without verifying it: use RequireAndVerifyClientCert"
        )
    value: ClientAuth = kind.convert(text)
    return value


def _header_text(text: str) -> str:
    if not printable_text(text).isascii():
        raise ValueError("not ASCII")
    return text


def _user(name: str) -> Kind[str]:
    if not name or ":" in name or not name.isprintable():
        raise ValueError("a user's name must not be empty, nor have a colon or control character")
    return _PASSWORD


def _header(name: str) -> Kind[str]:
    if name not in _HEADERS:
        suggestion = closest(name, list(_HEADERS))
        parts = ("this header cannot be set", suggestion or f"allowed: {', '.join(_HEADERS)}")
        raise ValueError(", ".join(parts))
    values = _HEADERS[name]
    return choice(*values) if values else Scalar("printable ASCII text", _header_text)


def _bcrypt_hash(text: str) -> str:
    if not _HASH.fullmatch(text):
        raise ValueError
    return text


def _pem_text(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


_FILE = OrNull(Scalar("a path, seen from this file", lambda text: Path(printable_text(text))))
# A private key may be in the place of a certificate by mistake: no message shows either.
_PEM = _Secret(OrNull(Scalar("PEM text, in a block that begins with |", _pem_text)))
_VERSION: Kind[Literal["TLS12", "TLS13"]] = choice("TLS12", "TLS13")
_PASSWORD = _Secret(
    Scalar(
        "a password's bcrypt hash of cost 4 to 18, such as htpasswd -nBC 10 NAME prints "
        "after the colon",
        _bcrypt_hash,
    )
)
_AUTH: Kind[ClientAuth] = Scalar(
    "one of NoClientCert, RequestClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert",
    _client_auth,
)


@dataclass(frozen=True)
class Tls:
    """How TLS is spoken; without a certificate it is not."""

    cert_file: Path | None = setting(_FILE, "null", "The certificate, and what leads to its CA.")
    key_file: Path | None = setting(_FILE, "null", "Its private key.")
    cert: str | None = setting(_PEM, "null", "The same as cert_file, as text in this file.")
    key: str | None = setting(_PEM, "null", "The same as key_file, as text in this file.")
    client_auth_type: ClientAuth = setting(_AUTH, "NoClientCert", "Whether clients need one too.")
    client_ca_file: Path | None = setting(_FILE, "null", "The CAs that clients' come from.")
    client_ca: str | None = setting(_PEM, "null", "The same as client_ca_file, as text here.")
    client_allowed_sans: tuple[str, ...] = setting(
        ListOf("a list of names", Scalar("a name", printable_text)),
        "[]",
        "A client's certificate must have one of these names; none: any.",
    )
    min_version: Literal["TLS12", "TLS13"] = setting(_VERSION, "TLS12", "The oldest version.")
    max_version: Literal["TLS12", "TLS13"] = setting(_VERSION, "TLS13", "The newest version.")
    cipher_suites: tuple[str, ...] = setting(
        ListOf("a list of cipher suites", choice(*CIPHERS)), "[]", "Those of TLS 1.2."
    )
    prefer_server_cipher_suites: bool = setting(SWITCH, "true", "Our order, not the client's.")
    curve_preferences: tuple[str, ...] = setting(
        ListOf("a list of curves", choice(*CURVES)), "[]", "Of the key exchange."
    )

    @property
    def verifies_clients(self) -> bool:
        """Whether a client's certificate is worth anything."""
        return self.client_auth_type in ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")


@dataclass(frozen=True)
class Http:
    """How HTTP is spoken."""

    http2: bool = setting(SWITCH, "true", "Of no effect: HTTP/1.1 is what there is.")
    headers: tuple[tuple[str, str], ...] = setting(
        MappingOf("a mapping of headers", _header), "{}", "Headers of every answer."
    )


@dataclass(frozen=True)
class WebConfig:
    """All of the file. Its paths are as they are written, see `read`."""

    tls_server_config: Tls = setting(Section(Tls), "{}", "TLS.")
    http_server_config: Http = setting(Section(Http), "{}", "HTTP.")
    basic_auth_users: tuple[tuple[str, str], ...] = setting(
        MappingOf("a mapping of users to bcrypt hashes", _user), "{}", "Who may read."
    )


def read(path: Path, use: Callable[[WebConfig], T]) -> T:
    """What ``use`` makes of the file; it raises `Unusable` about what it cannot use.

    Raises `ConfigError` with a line ``FILE:LINE: KEY: …`` for each problem there is.
    """
    root: yaml.Node | None = None
    try:
        root = compose(read_text(path))
        config = WebConfig() if root is None else Section(WebConfig).read(root)
        _check(config.tls_server_config)
        return use(config)
    except Invalid as invalid:
        raise config_error(str(path), invalid) from None
    except Unusable as unusable:
        problem = Problem(line_at(root, *unusable.keys), ".".join(unusable.keys), str(unusable))
        raise config_error(str(path), Invalid(problem)) from None


def _check(tls: Tls) -> None:
    """Settings that are good alone but not together."""

    def unusable(key: str, message: str) -> Unusable:
        return Unusable(message, "tls_server_config", key)

    if tls == Tls():
        return
    for key in ("cert", "key", "client_ca"):
        if getattr(tls, key) is not None and getattr(tls, f"{key}_file") is not None:
            raise unusable(f"{key}_file", f"must not be given with {key}: one of them")
    for key in ("cert", "key"):
        if getattr(tls, key) is None and getattr(tls, f"{key}_file") is None:
            raise unusable(
                f"{key}_file", f"must be given, or {key}: TLS needs a certificate and its key"
            )
    if tls.min_version > tls.max_version:
        raise unusable("min_version", "must not be above max_version")
    if tls.verifies_clients and tls.client_ca_file is None and tls.client_ca is None:
        raise unusable(
            "client_ca_file",
            f"must be given with {tls.client_auth_type}, or client_ca: whom to believe",
        )
    for key in ("client_ca_file", "client_ca", "client_allowed_sans"):
        if getattr(tls, key) and not tls.verifies_clients:
            raise unusable(
                key,
                "must not be given unless client_auth_type is RequireAndVerifyClientCert or "
                "VerifyClientCertIfGiven: nothing else looks at it",
            )
