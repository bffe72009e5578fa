"""Everything that is no model call, as one ASGI app behind the Host check and the gate."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tocsin.core.errors import CallError, StoreError
from tocsin.gateway.access import Access, RouteRole, with_security_headers
from tocsin.gateway.hosts import HostCheck
from tocsin.gateway.problems import problem, problem_of

log = logging.getLogger("tocsin.gateway")

Handler = Callable[[Request, Exception], Awaitable[Response]]
NotFoundPage = Callable[[Request], Awaitable[Response]]


def site(
    *,
    access: Access,
    hosts: HostCheck,
    routes: Iterable[BaseRoute],
    table: Iterable[RouteRole],
    not_found: NotFoundPage | None = None,
) -> ASGIApp:
    """The app that serves ``routes``, each under the role that ``table`` gives it.

    ``not_found`` draws the page that somebody signed in sees at a wrong address; everybody else
    gets a problem. Raises ``ValueError`` for a route without a role: what nobody thought about is
    not served.
    """

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code != 404:
            detail = str(error.detail)
            return problem(error.status_code, "http_error", detail, headers=error.headers)
        if not_found is not None and "text/html" in request.headers.get("accept", ""):
            session = await access.sessions.read(request.scope["headers"])
            if session is not None:
                access.admit(request.scope, session.principal, session)
                return await not_found(request)
        return problem(404, "not_found", "there is nothing at this address")

    handlers: dict[Any, Handler] = {
        HTTPException: http_error,
        CallError: _call_error,
        StoreError: _store_error,
        Exception: _crash,
    }
    app = Starlette(routes=access.guard(routes, table), exception_handlers=handlers)
    # A redirect would be built from the Host header, and be a second way to every route.
    app.router.redirect_slashes = False
    secured = with_security_headers(app)

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                hosts.check(scope["headers"], scope.get("server"))
            except CallError as error:
                await problem_of(error)(scope, receive, send)
                return
        await secured(scope, receive, send)

    return checked


async def _call_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, CallError)
    return problem_of(error)


async def _store_error(_request: Request, error: Exception) -> Response:
    return problem(503, "store_unavailable", str(error), headers={"retry-after": "1"})


async def _crash(request: Request, _error: Exception) -> Response:
    # The path only: a query can hold a code. Starlette raises the error on to the server's log.
    log.error("%s %s crashed", request.method, request.scope["path"])
    return problem(
        500, "internal_error", "this is a fault of Tocsin; the server's log says more about it"
    )
