# SPDX-License-Identifier: Apache-2.0
"""The policy of a web-config.yml, read again when the file changes: who is served, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypeAlias

import structlog

from xdpscope._yaml import compose, nearest, read_text
from xdpscope.errors import ConfigError
from xdpscope.web.tls import make_context, names_of
from xdpscope.web.webconfig import Unusable, WebConfig, read

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["Policy", "PolicyFile", "policy_source"]

_State: TypeAlias = "list[tuple[int, ...] | None]"

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True)
class Policy:
    """The clients that are served; ``Policy()`` serves everyone, without TLS."""

    context: ssl.SSLContext | None = None
    """TLS; None: none."""
    verifies_clients: bool = False
    client_names: frozenset[str] = frozenset()
    """A client's certificate must have one of these; empty: any."""
    users: Mapping[bytes, bytes] = field(default_factory=dict)
    """Names, and bcrypt hashes of their passwords; empty: no basic authentication."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of every answer, above our own."""

    @property
    def open(self) -> bool:
        """Return whether anyone who gets through to the port can read, or listen in."""
        return self.context is None and not self.users

    def admits(self, certificate: Mapping[str, object] | None) -> bool:
        """Return whether a client with this certificate, or with none, is among those allowed."""
        return not self.client_names or bool(self.client_names & names_of(certificate))


class PolicyFile:
    """The policy that a file describes now, certificates included.

    A file that cannot be used changes nothing, and is logged once. A file that protects less than
    the last one is not used either: it may be half-written.
    """

    def __init__(self, path: Path) -> None:
        """Raise `ConfigError`."""
        self._path = path
        self._files: tuple[Path, ...] = (path,)
        self._state: _State = []
        self._policy = read(path, self._use)

    def current(self) -> Policy:
        """Return the policy of this moment; costs a stat a file."""
        state = self._scan()
        if state != self._state:
            self._state = state
            self._reload()
        return self._policy

    def _scan(self) -> _State:
        return [_identity(path) for path in self._files]

    def _reload(self) -> None:
        try:
            self._policy = read(self._path, self._use_instead)
        except ConfigError as error:
            _log.error("web configuration not reloaded, the one before stays", error=str(error))
        else:
            _log.info("web configuration reloaded", file=str(self._path))

    def _use(self, config: WebConfig) -> Policy:
        tls = config.tls_server_config
        users, headers = config.basic_auth_users, config.http_server_config.headers
        directory = self._path.parent
        named = (tls.cert_file, tls.key_file, tls.client_ca_file)
        # Also if they cannot be used: they may be there the next time.
        self._files = (self._path, *(directory / name for name in named if name is not None))
        # Before they are read, so that a change during the read leads to another read.
        self._state = self._scan()
        return Policy(
            context=make_context(tls, directory),
            verifies_clients=tls.verifies_clients,
            client_names=frozenset(map(_canonical, tls.client_allowed_sans)),
            users={name.encode(): password.encode() for name, password in users.items()},
            headers={name: str(text) for name, text in headers.items()},
        )

    def _use_instead(self, config: WebConfig) -> Policy:
        old, new = self._policy, self._use(config)
        if (old.context is None) != (new.context is None):
            raise Unusable(
                "TLS cannot be switched on or off at run time: restart", "tls_server_config"
            )
        if old.verifies_clients and not new.verifies_clients:
            raise Unusable(
                "verification of clients cannot be switched off at run time: restart",
                "tls_server_config",
                "client_auth_type",
            )
        if old.users and not new.users:
            raise Unusable(
                "basic authentication cannot be switched off at run time: restart",
                "basic_auth_users",
            )
        return new


def policy_source(web_config: Path | None, named_in: Path | None) -> Callable[[], Policy]:
    """Return what answers with the policy of the moment.

    Args:
        web_config: The file that has the policy; None: everyone is served, in the clear.
        named_in: The configuration whose key ``web_config`` names that file.

    Raises:
        ConfigError: the file cannot be used. It ends with the line of that key.
    """
    if web_config is None:
        everyone = Policy()
        return lambda: everyone
    try:
        return PolicyFile(web_config).current
    except ConfigError as error:
        if named_in is None:
            raise
        name = str(named_in)
        line, _ = nearest(compose(read_text(named_in), name), ("web_config",))
        through = f"{name}:{line}: web_config: leads to {web_config}"
        raise ConfigError(f"{error}\n{through}", hint=error.hint) from error


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return values that change with a file's content; None: it cannot be read.

    Links are followed, because a mounted Kubernetes secret replaces its directory.
    """
    try:
        found: os.stat_result = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _canonical(name: str) -> str:
    try:
        return str(ip_address(name))
    except ValueError:
        return name
