# SPDX-License-Identifier: Apache-2.0
"""The ASGI application, which serves the values of an injected source."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from xdpscope.counters.clients import READER
from xdpscope.errors import ObserverBusyError
from xdpscope.formats import document
from xdpscope.probes.flows.query import FlowQuery
from xdpscope.web import parameters
from xdpscope.web.auth import BasicAuth
from xdpscope.web.encoding import Answer, expose
from xdpscope.web.guard import Guard
from xdpscope.web.headers import with_security
from xdpscope.web.limits import Limits
from xdpscope.web.page import render
from xdpscope.web.policy import Policy
from xdpscope.web.runbook import RUNBOOK
from xdpscope.web.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry
    from starlette.requests import Request

__all__ = ["Source", "create_app"]

_AGENT_LENGTH = 200  # characters of a User-Agent that are kept

_EVERYONE = Policy()
_FLOWS_ON_PAGE = 25


class Source(Protocol):
    """The source of the application's values.

    A thread calls every method except ``ready`` and ``problem``, so they may block. They may raise
    ObserverBusyError, which is answered by 503.
    """

    @property
    def registry(self) -> CollectorRegistry:
        """Collect the metrics for each scrape; several threads call this if scrapes coincide."""
        ...

    def ready(self) -> bool:
        """Return whether the first discovery has finished; called on the event loop, must not
        block.
        """
        ...

    def problem(self) -> str | None:
        """Return why the agent is not healthy, or None; called on the event loop, must not
        block.
        """
        ...

    def programs(self, cpus: bool = False) -> list[dict[str, object]]:
        """Return every XDP program, as ``xdpscope list --json`` shows it, with its ``counts``:
        JSON values only. With ``cpus``, these have the counts of each CPU, too.
        """
        ...

    def flows(self, query: FlowQuery) -> dict[str, Any]:
        """Return the flows in the table, as ``/api/v1/flows`` shows them; JSON values only."""
        ...

    def sockets(self) -> list[dict[str, object]]:
        """AF_XDP sockets that are open, as ``xdpscope list --json`` shows them: JSON values."""
        ...

    def events(self, limit: int, since: float | None) -> list[dict[str, object]]:
        """The newest ``limit`` changes of programs after ``since`` in Unix time, the oldest first:
        JSON values only.
        """
        ...

    def status(self) -> dict[str, object]:
        """Return a few facts for the page, in the order to show them."""
        ...


class _Endpoints:
    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        self._scrapes = Workers(limits.collections)
        # Apart from scrapes, so that the page answers while collectors hang.
        self._views = Workers(1)

    async def index(self, request: Request) -> Response:
        found = parameters.parameters_of(request, "verdict", "runbook")
        if "runbook" in found:
            answer = partial(Answer, request, RUNBOOK, "text/html; charset=utf-8")
            return await self._views.run(request, answer)
        verdict = parameters.verdict(found)

        def work() -> Response:
            source = self._source
            try:
                flows = source.flows(FlowQuery(limit=_FLOWS_ON_PAGE, verdict=verdict))["flows"]
                cpus = os.cpu_count() or 1
                programs, sockets = source.programs(cpus=cpus > 1), source.sockets()
                body = render(programs, flows, source.status(), verdict, sockets, cpus)
            except ObserverBusyError:
                body = render(None, (), source.status(), verdict)
            return Answer(request, body, "text/html; charset=utf-8")

        return await self._views.run(request, work)

    async def metrics(self, request: Request) -> Response:
        accept = ",".join(request.headers.getlist("accept"))
        names = parameters.metric_names(request)

        def work() -> Response:
            READER.set(_reader(request))
            body, content_type = expose(self._source.registry, accept, names)
            return Answer(request, body, content_type, vary="Accept")

        return await self._scrapes.run(request, work)

    async def programs(self, request: Request) -> Response:
        cpus = parameters.switch(parameters.parameters_of(request, "cpus"), "cpus")
        source = self._source
        return await self._json(
            request,
            lambda: document("programs", source.programs(cpus), sockets=source.sockets()),
        )

    async def flows(self, request: Request) -> Response:
        query = parameters.flow_query(request)
        return await self._json(request, lambda: self._source.flows(query))

    async def events(self, request: Request) -> Response:
        limit, since = parameters.event_query(request)
        return await self._json(
            request, lambda: document("events", self._source.events(limit, since))
        )

    async def _json(self, request: Request, found: Callable[[], dict[str, object]]) -> Response:
        def work() -> Response:
            return Answer(request, json.dumps(found()).encode() + b"\n", "application/json")

        return await self._views.run(request, work)

    async def healthz(self, request: Request) -> Response:
        parameters.parameters_of(request)
        problem = self._source.problem()
        return PlainTextResponse(f"{problem or 'ok'}\n", 503 if problem else 200)

    async def readyz(self, request: Request) -> Response:
        parameters.parameters_of(request)
        if self._source.ready():
            return PlainTextResponse("ready\n")
        return PlainTextResponse("the first discovery has not finished\n", 503)


def _reader(request: Request) -> str:
    host = request.client.host if request.client is not None else ""
    return f"{host} {request.headers.get('user-agent', '')[:_AGENT_LENGTH]}"


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for nothing else
    headers = {"allow": "GET, HEAD"} if error.status_code == 405 else None
    # Starlette's own details begin with a capital; ours repeat what was asked for.
    text = error.detail if error.status_code == 400 else error.detail.lower()
    return PlainTextResponse(f"{text}\n", error.status_code, headers)


async def _busy(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 503, {"retry-after": "10"})


def create_app(
    source: Source,
    limits: Limits | None = None,
    policy: Callable[[], Policy] = lambda: _EVERYONE,
) -> Starlette:
    """Return the application.

    It answers 405 for a known path with another method than GET and HEAD, and 404 for an unknown
    path with any method. If the source raises, it answers 500 and logs the error. If the source is
    busy, it answers 503. It calls ``policy`` for each request.
    """
    limits = limits or Limits()
    endpoints = _Endpoints(source, limits)
    app = Starlette(
        routes=[
            Route("/", endpoints.index),
            Route("/metrics", endpoints.metrics),
            Route("/healthz", endpoints.healthz),
            Route("/readyz", endpoints.readyz),
            Route("/api/v1/programs", endpoints.programs),
            Route("/api/v1/flows", endpoints.flows),
            Route("/api/v1/events", endpoints.events),
        ],
        middleware=[
            Middleware(
                Guard,
                in_flight=limits.in_flight,
                exempt=frozenset({"/healthz", "/readyz"}),
                headers=lambda: with_security(policy().headers),
            ),
            Middleware(BasicAuth, policy=policy),
        ],
        exception_handlers={HTTPException: _refused, ObserverBusyError: _busy},
    )
    # Else /metrics/ would be redirected, and every path but those above is to be a 404.
    app.router.redirect_slashes = False
    return app
