# SPDX-License-Identifier: Apache-2.0
"""Certificates, and a web-config.yml that uses them, in a directory of a test."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import bcrypt
import trustme

# The same in each process that runs a part of the tests. Of the least cost there is: what a
# comparison costs is a matter of its own tests.
_SALT = b"$2b$04$" + b"abcdefghijklmnopqrstuu"
PASSWORD = "correct horse"
HASH = bcrypt.hashpw(PASSWORD.encode(), _SALT).decode()
OTHER_PASSWORD = "battery staple"
OTHER_HASH = bcrypt.hashpw(OTHER_PASSWORD.encode(), _SALT).decode()


class Authority:
    """A CA, a server's certificate by it, and as many clients as asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(directory / "clients.crt")
        self.renew()

    @property
    def path(self) -> Path:
        return self.directory / "web-config.yml"

    def renew(self) -> None:
        """Another certificate for the server, put into place as a careful tool does."""
        certificate = self.ca.issue_cert("127.0.0.1", "localhost")
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        for name, content in {
            "server.key": certificate.private_key_pem.bytes(),
            "server.crt": chain,
        }.items():
            (self.directory / "next").write_bytes(content)
            (self.directory / "next").rename(self.directory / name)

    def write(self, *tls: str, rest: str = "") -> Path:
        """Return the file, with TLS and these keys of it."""
        keys = ("cert_file: server.crt", "key_file: server.key", *tls)
        lines = ["tls_server_config:", *(f"  {key}" for key in keys), rest]
        self.path.write_text("\n".join(lines) + "\n")
        return self.path

    def write_inline(self, *tls: str, replaced: Mapping[str, str] | None = None) -> Path:
        """Return the file, with certificate, key and CA in it, and these keys of TLS."""
        text = {
            key: (self.directory / file).read_text()
            for key, file in {
                "cert": "server.crt",
                "key": "server.key",
                "client_ca": "clients.crt",
            }.items()
        } | dict(replaced or {})
        lines = ["tls_server_config:", *(f"  {key}" for key in (MUTUAL[0], *tls))]
        for key, pem in text.items():
            lines += [f"  {key}: |", *(f"    {line}" for line in pem.splitlines())]
        self.path.write_text("\n".join(lines) + "\n")
        return self.path

    def trust(self, client: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return what a client believes the server by, and shows of itself."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if client is not None:
            client.configure_cert(context)
        return context


MUTUAL = ("client_auth_type: RequireAndVerifyClientCert", "client_ca_file: clients.crt")
USERS = f"basic_auth_users: {{prometheus: {HASH}}}"


def basic(user: str, password: str) -> dict[str, str]:
    """Return the header of a request by this user."""
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}
