# SPDX-License-Identifier: Apache-2.0
"""TLS: the context that a web-config.yml describes, and the handshake, which nobody waits for."""

from __future__ import annotations

import asyncio
import os
import platform
import ssl
from asyncio.sslproto import SSLProtocol
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from xdpscope.web.webconfig import CIPHERS, CURVES, Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from xdpscope.web.limits import Limits
    from xdpscope.web.webconfig import Tls

__all__ = ["Tunnel", "make_context", "names_of"]

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_VERIFICATION = {
    "NoClientCert": ssl.CERT_NONE,
    # Go requests a certificate, and does not use it.
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
# Forward secrecy and authenticated encryption, as Go's defaults are.
_DEFAULT_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def make_context(tls: Tls, directory: Path) -> ssl.SSLContext | None:
    """Return the context, its files read; None without TLS. Relative paths begin at ``directory``.

    Raises `Unusable`.
    """
    certificate, key = _pem(tls, "cert", directory), _pem(tls, "key", directory)
    if certificate is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]
    # Without resumption each connection authenticates again; scrapers keep theirs open.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    if tls.prefer_server_cipher_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    suites = ":".join(filter(None, (CIPHERS[name] for name in tls.cipher_suites)))
    context.set_ciphers(suites or _DEFAULT_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    if tls.curve_preferences:
        _set_curves(context, tls.curve_preferences)
    _load_certificate(context, certificate, key)
    context.verify_mode = _VERIFICATION[tls.client_auth_type]
    authorities = _pem(tls, "client_ca", directory)
    if authorities is not None:
        # Every certificate in the file is trusted, root or not, as in Go.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        _load_authorities(context, authorities)
    return context


def _set_curves(context: ssl.SSLContext, names: Collection[str]) -> None:
    curves = [CURVES[name] for name in names]
    set_groups: Callable[[str], None] | None = getattr(context, "set_groups", None)  # Python 3.15
    if set_groups is None and len(curves) > 1:
        raise _unusable(
            "curve_preferences",
            "must be a single curve, or none for all: before 3.15 Python's TLS takes no list",
        )
    try:
        (set_groups or context.set_ecdh_curve)(":".join(curves))
    except (ValueError, ssl.SSLError):
        # Python 3.11.2, which Debian 12 has, cannot set X25519.
        raise _unusable(
            "curve_preferences",
            f"{', '.join(names)} is not supported by "
            f"Python {platform.python_version()} with {ssl.OPENSSL_VERSION}",
        ) from None


class _Pem(NamedTuple):
    """PEM text, the setting that it comes from, and its file if that is one."""

    text: str
    setting: str
    file: Path | None

    def unusable(self, message: str) -> Unusable:
        """Return the error that this text must be something else."""
        if self.file is not None:
            return _unusable(self.setting, f"{message}: {self.file}")
        return _unusable(self.setting, message)

    def malformed(self, what: str) -> Unusable:
        """Return the error that this text is not in the required form."""
        return self.unusable(
            f"must be {what}" if self.file else f"must be {what}, in a block that begins with |"
        )


def _pem(tls: Tls, name: str, directory: Path) -> _Pem | None:
    """Return the text of ``name``, or of the file that ``name_file`` names; None without both.

    Raises `Unusable`.
    """
    text: str | None = getattr(tls, name)
    if text is not None:
        return _Pem(_ascii(text.encode()), name, None)
    file: Path | None = getattr(tls, f"{name}_file")
    if file is None:
        return None
    try:
        return _Pem(_ascii((directory / file).read_bytes()), f"{name}_file", directory / file)
    except OSError as error:
        raise _unusable(
            f"{name}_file", f"must be a readable PEM file: {directory / file}: {error.strerror}"
        ) from None


def _load_certificate(context: ssl.SSLContext, certificate: _Pem, key: _Pem) -> None:
    # OpenSSL does not say which of the two texts it fails on.
    _load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate)

    def password() -> NoReturn:
        # Else OpenSSL would ask on the terminal.
        raise key.unusable("must not be encrypted")

    try:
        # Python's TLS reads these two from files only. A memory file reaches no disk.
        with _in_memory(certificate.text) as certificate_file, _in_memory(key.text) as key_file:
            context.load_cert_chain(certificate_file, key_file, password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise key.unusable(f"must be the key of {certificate.setting}, and is not") from None
        if error.reason == "EE_KEY_TOO_SMALL":
            raise certificate.unusable("must have a longer key") from None
        raise key.malformed("a PEM private key") from None


def _load_authorities(context: ssl.SSLContext, certificates: _Pem) -> None:
    try:
        context.load_verify_locations(cadata=certificates.text)
    except ssl.SSLError:
        what = "a file of PEM certificates" if certificates.file else "PEM certificates"
        raise certificates.malformed(what) from None


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Yield the path of a file in memory with this text."""
    with open(os.memfd_create("pem", os.MFD_CLOEXEC), "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(text)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _ascii(data: bytes) -> str:
    return data.decode("ascii", "replace").replace("\ufffd", "?")


def _unusable(key: str, message: str) -> Unusable:
    return Unusable(message, "tls_server_config", key)


def names_of(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the alternative names of a client's certificate, as `ssl.SSLSocket.getpeercert` tells
    it.
    """
    if not certificate:
        return frozenset()
    return frozenset(
        str(ip_address(name.strip())) if kind == "IP Address" else name
        for kind, name in certificate.get("subjectAltName", ())
        if kind in ("DNS", "email", "URI", "IP Address")
    )


class Tunnel(SSLProtocol):
    """The TLS of one connection, over asyncio's. The HTTP protocol starts after the handshake.

    asyncio would do the same with a context for the listener. That context could not change, and
    the number of handshakes would have no limit.
    """

    # asyncio takes a quarter of a megabyte for each, before the client has sent a byte.
    max_size = 16 * 1024

    def __init__(
        self,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        limits: Limits,
        tunnels: set[Tunnel],
    ) -> None:
        """Keep ``tunnels``, the set of open tunnels."""
        super().__init__(
            asyncio.get_running_loop(),
            protocol,
            context,
            None,  # type: ignore[arg-type]  # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=limits.head_timeout,  # type: ignore[arg-type]  # a float is as good
            # From the last byte written until the client's close_notify.
            ssl_shutdown_timeout=limits.stall_timeout,
        )
        self._limit = limits.connections
        self._tunnels = tunnels
        self._below: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of a TCP socket
        self._below = transport
        if len(self._tunnels) >= self._limit:
            transport.abort()
            return
        self._tunnels.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._tunnels.discard(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """Drop the connection, whatever its state."""
        if self._below is not None:
            self._below.abort()
