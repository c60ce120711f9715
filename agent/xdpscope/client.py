# SPDX-License-Identifier: Apache-2.0
"""Reads the HTTP API of a running agent, and explains why that fails."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode, urlsplit

from xdpscope.errors import ConfigError, XdpscopeError
from xdpscope.log import printable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["AgentClient"]

# Seconds. A scan keeps the agent from answering for at most five of them.
_TIMEOUT = 30.0
_CREDENTIALS = (
    "give them as http://USER:PASSWORD@HOST:PORT, or in XDPSCOPE_USER and XDPSCOPE_PASSWORD"
)
_NO_CERTIFICATE = "the agent may ask for a client certificate: --cert FILE --key FILE"
_NO_TLS = "if the agent serves no TLS, use http://"
_NO_HTTPS = "if the agent serves TLS, use https://"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An agent redirects nobody; and whoever else does must not get the password."""

    def redirect_request(self, *_: object) -> None:
        return None


class AgentClient:
    """The API of one agent."""

    def __init__(
        self,
        url: str,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        """Prepare the client, without connecting.

        Args:
            url: Scheme, address and port, perhaps a path, a user and a password. XDPSCOPE_USER and
                XDPSCOPE_PASSWORD of the environment replace the last two if they are missing.
            ca: A file with the certificates of authorities to trust, instead of the system's.
            cert: A file with the client's certificate, for an agent that asks for one.
            key: A file with the key of ``cert``, if it is not in there.
            timeout: Seconds without a byte after which there is no answer.

        Raises:
            ConfigError: one of the files cannot be used.
        """
        self._timeout = timeout
        parts = urlsplit(url)
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/"
        user = unquote(parts.username or "") or os.environ.get("XDPSCOPE_USER", "")
        password = unquote(parts.password or "") or os.environ.get("XDPSCOPE_PASSWORD", "")
        self._headers = {"Accept": "application/json", "User-Agent": "xdpscope"}
        if user:
            token = b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        handlers: list[urllib.request.BaseHandler] = [
            _NoRedirect(),
            urllib.request.ProxyHandler({}),  # agents are on this host, or on its network
        ]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=_trust(ca, cert, key)))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        """Return the JSON document at a path.

        Raises:
            ConfigError: the agent refuses a parameter.
            XdpscopeError: there is no answer, or none that can be read.
        """
        query = f"?{urlencode(parameters)}" if parameters else ""
        request = urllib.request.Request(f"{self.url}{path}{query}", headers=self._headers)  # noqa: S310 - the scheme was checked
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                document = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error, path) from error
        except urllib.error.URLError as error:
            raise self._unreachable(error.reason) from error
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise self._not_an_agent("the answer is not JSON") from error
        if not isinstance(document, dict) or not isinstance(document.get("version"), int):
            raise XdpscopeError(
                f"the agent at {self.url} is older than this command: its answer has no version",
                hint="update the agent",
            )
        return document

    def _refused(self, error: urllib.error.HTTPError, path: str) -> XdpscopeError:
        text = ""
        if error.headers.get_content_type() == "text/plain":
            text = printable(error.read(1000).decode(errors="replace").partition("\n")[0])
        if error.code == 400:
            return ConfigError(f"the agent at {self.url} refuses the request: {text}")
        if error.code == 401:
            if "Authorization" in self._headers:
                return XdpscopeError(
                    f"the agent at {self.url} refuses this user or password",
                    hint="its users are in the file that its `web_config` names",
                )
            return XdpscopeError(
                f"the agent at {self.url} asks for a user and a password", hint=_CREDENTIALS
            )
        if error.code == 404:
            return self._not_an_agent(f"there is no {path} (404)")
        if error.code == 503:
            return XdpscopeError(
                f"the agent at {self.url} cannot answer now: {text}",
                hint="try again in some seconds; the agent's log says what it waits for",
            )
        if 300 <= error.code < 400:
            return XdpscopeError(
                f"{self.url} redirects to {printable(error.headers.get('location', '?'))}",
                hint="name that address with --connect",
            )
        return XdpscopeError(
            f"the agent at {self.url} answers {error.code} {text}".rstrip(),
            hint="see the agent's log",
        )

    def _not_an_agent(self, why: str) -> XdpscopeError:
        return XdpscopeError(
            f"no agent that this command knows is at {self.url}: {why}",
            hint="the agent may be an older version, or below a path: --connect URL/PATH",
        )

    def _unreachable(self, error: object) -> XdpscopeError:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = "start one with `xdpscope run`, or name another with --connect URL"
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted: {error.verify_message}"
            hint = "name its authority's certificate with --ca FILE, and an address that is in it"
        elif isinstance(error, ssl.SSLError):
            reason = error.reason or ""
            why = f"TLS fails: {reason.lower().replace('_', ' ') or why}"
            hint = _NO_CERTIFICATE if "CERTIFICATE" in reason else _NO_TLS
        elif isinstance(error, TimeoutError):
            why = f"nothing for {self._timeout:.0f} seconds"
        elif isinstance(error, ConnectionResetError | BrokenPipeError | HTTPException):
            # A server may close while the client still sends: BrokenPipeError.
            why = "the connection is closed without an answer"
            hint = _NO_CERTIFICATE if self.url.startswith("https:") else _NO_HTTPS
        return XdpscopeError(f"no agent answers at {self.url}: {why}", hint=hint)


def _trust(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigError(f"--ca {ca} cannot be used: {_problem(error)}") from error
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except OSError as error:
            names = f"--cert {cert}" + (f" --key {key}" if key else "")
            raise ConfigError(f"{names} cannot be used: {_problem(error)}") from error
    return context


def _problem(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not in PEM format").lower().replace("_", " ")
    return error.strerror or str(error)
