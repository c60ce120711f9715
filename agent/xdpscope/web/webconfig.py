# SPDX-License-Identifier: Apache-2.0
"""web-config.yml, the file that exporters share (exporter-toolkit, docs/web-configuration.md).

A setting that is read here means the same as there. A setting that Python's TLS cannot provide, or
that protects nothing, is refused and not ignored.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypedDict, TypeVar, get_args

from xdpscope._schema import Container, Scalar, choice, known, printable_text, structure
from xdpscope._yaml import Problem, compose, config_error, nearest, read_text

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
"""Go's names of cipher suites, and OpenSSL's. The suites of TLS 1.3 are always enabled, as
in Go.
"""

# A comparison doubles with each step of the cost: at 18 it needs more than ten seconds of a CPU.
_HASH = re.compile(r"\$2[aby]\$(0[4-9]|1[0-8])\$[./A-Za-z0-9]{53}")


class Unusable(Exception):
    """A setting cannot be used: the path of its key, and the allowed values."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


_CLIENT_AUTH = choice(*get_args(ClientAuth))


def _client_auth(text: str) -> object:
    if text in ("RequireAnyClientCert", "RequireClientCert"):
        raise ValueError(
            "it lets any certificate in, also one made by the client itself, and Python's TLS asks "
            "for none without verifying it: use RequireAndVerifyClientCert"
        )
    return _CLIENT_AUTH.convert(text)


def _header_text(text: str) -> str:
    if not printable_text(text).isascii():
        raise ValueError("not ASCII")
    return text


def _check_user(name: str) -> None:
    if not name or ":" in name or not name.isprintable():
        raise ValueError("a user's name must not be empty, nor have a colon or control character")


def _bcrypt_hash(text: str) -> str:
    if not _HASH.fullmatch(text):
        raise ValueError
    return text


def _pem_text(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


_File = Annotated[
    Path, Scalar("a path, seen from this file", lambda text: Path(printable_text(text)))
]
# A private key may be in the place of a certificate by mistake: no message shows either.
_Pem = Annotated[str, Scalar("PEM text, in a block that begins with |", _pem_text, secret=True)]
_Version = Literal["TLS12", "TLS13"]
_Password = Annotated[
    str,
    Scalar(
        "a password's bcrypt hash of cost 4 to 18, such as htpasswd -nBC 10 NAME prints "
        "after the colon",
        _bcrypt_hash,
        secret=True,
    ),
]
_HeaderText = Annotated[str, Scalar("printable ASCII text", _header_text)]
Headers = TypedDict(
    "Headers",
    {
        "Content-Security-Policy": _HeaderText,
        "Strict-Transport-Security": _HeaderText,
        "X-Content-Type-Options": Literal["nosniff"],
        "X-Frame-Options": Literal["deny", "sameorigin"],
        "X-XSS-Protection": _HeaderText,
    },
    total=False,
)


@dataclass(frozen=True)
class Tls:
    """The TLS settings; without a certificate there is no TLS."""

    cert_file: _File | None = None
    """The certificate, and what leads to its CA."""
    key_file: _File | None = None
    """Its private key."""
    cert: _Pem | None = None
    """The same as cert_file, as text in this file."""
    key: _Pem | None = None
    """The same as key_file, as text in this file."""
    client_auth_type: Annotated[ClientAuth, replace(_CLIENT_AUTH, convert=_client_auth)] = (
        "NoClientCert"
    )
    """Whether clients need a certificate too."""
    client_ca_file: _File | None = None
    """The CAs that clients' certificates come from."""
    client_ca: _Pem | None = None
    """The same as client_ca_file, as text in this file."""
    client_allowed_sans: Annotated[
        tuple[Annotated[str, Scalar("a name", printable_text)], ...], Container("a list of names")
    ] = ()
    """A client's certificate must have one of these names; empty: any."""
    min_version: _Version = "TLS12"
    max_version: _Version = "TLS13"
    cipher_suites: Annotated[
        tuple[Annotated[str, choice(*CIPHERS)], ...], Container("a list of cipher suites")
    ] = ()
    """The cipher suites of TLS 1.2."""
    prefer_server_cipher_suites: bool = True
    """Whether our order of cipher suites counts, not the client's."""
    curve_preferences: Annotated[
        tuple[Annotated[str, choice(*CURVES)], ...], Container("a list of curves")
    ] = ()
    """The curves of the key exchange."""

    @property
    def verifies_clients(self) -> bool:
        """Return whether a client's certificate is worth anything."""
        return self.client_auth_type in ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")


@dataclass(frozen=True)
class Http:
    """The HTTP settings."""

    http2: bool = True
    """Without effect: there is only HTTP/1.1."""
    headers: Annotated[
        Headers,
        Container(
            "a mapping of headers", known((*Headers.__annotations__,), "this header cannot be set")
        ),
    ] = field(default_factory=Headers)
    """Headers of every answer."""


@dataclass(frozen=True)
class WebConfig:
    """All of the file. Its paths are as they are written, see `read`."""

    tls_server_config: Tls = field(default_factory=Tls)
    http_server_config: Http = field(default_factory=Http)
    basic_auth_users: Annotated[
        Mapping[str, _Password],
        Container("a mapping of users to bcrypt hashes", _check_user),
    ] = field(default_factory=dict)
    """The users, with hashes of their passwords."""


def read(path: Path, use: Callable[[WebConfig], T]) -> T:
    """Return the result of ``use`` for the file; ``use`` raises `Unusable` about a setting.

    Raises `ConfigError` with a line ``FILE:LINE: KEY: …`` for each problem.
    """
    root = compose(read_text(path), str(path))
    config = structure(root, WebConfig, str(path))
    try:
        _check(config.tls_server_config)
        return use(config)
    except Unusable as unusable:
        keys = unusable.keys
        problem = Problem(*nearest(root, keys), ".".join(keys), str(unusable))
        raise config_error(str(path), [problem]) from None


def _check(tls: Tls) -> None:
    """Check the settings that are valid alone but not together."""

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
                "VerifyClientCertIfGiven: nothing else uses it",
            )
