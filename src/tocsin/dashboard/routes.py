"""The table of pages: path, methods, the least role, endpoint. And how each one is guarded."""

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tocsin.core.errors import Forbidden, InputError, NotFound, StoreError, TocsinError
from tocsin.dashboard import fmt, render
from tocsin.dashboard.deps import DashboardDeps
from tocsin.dashboard.pages import (
    alerts,
    call,
    compare,
    feedback,
    operations,
    overview,
    run,
    runs,
    settings,
    signals,
    spend,
    supervisor,
)
from tocsin.dashboard.view import RANKS, PageRoute, View

_log = logging.getLogger("tocsin.dashboard")


async def _static(view: View) -> Response:
    name = view.request.path_params["name"]
    try:
        data, tag = await view.read(render.static_file, name)
    except KeyError:
        raise NotFound("There is no such file.") from None
    fresh = view.request.query_params.get("v") == tag
    headers = {
        "cache-control": "public, max-age=31536000, immutable" if fresh else "no-cache",
        "etag": f'"{tag}"',
        "x-content-type-options": "nosniff",
        "content-security-policy": render.CONTENT_SECURITY_POLICY,
    }
    if view.request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, 200, headers, render.STATIC_TYPES[name])


ROUTES: tuple[PageRoute, ...] = (
    PageRoute(path="/", role="viewer", endpoint=overview.overview, name="overview"),
    PageRoute(path="/runs", role="viewer", endpoint=runs.runs, name="runs"),
    PageRoute(path="/runs/{run_id}", role="viewer", endpoint=run.run, name="run"),
    PageRoute(
        path="/runs/{run_id}/markdown",
        role="viewer",
        endpoint=run.run_markdown,
        name="run-markdown",
    ),
    PageRoute(path="/runs/{run_id}/json", role="viewer", endpoint=run.run_json, name="run-json"),
    PageRoute(path="/calls", role="viewer", endpoint=runs.calls, name="calls"),
    PageRoute(path="/calls/{call_id}", role="viewer", endpoint=call.call, name="call"),
    PageRoute(
        path="/calls/{call_id}/markdown",
        role="viewer",
        endpoint=call.call_markdown,
        name="call-markdown",
    ),
    PageRoute(
        path="/calls/{call_id}/json", role="viewer", endpoint=call.call_json, name="call-json"
    ),
    PageRoute(
        path="/calls/{call_id}/curl", role="viewer", endpoint=call.call_curl, name="call-curl"
    ),
    PageRoute(
        path="/calls/{call_id}/feedback",
        methods=("POST",),
        role="viewer",
        endpoint=feedback.feedback,
        name="feedback",
    ),
    PageRoute(path="/signals/{feature}", role="viewer", endpoint=signals.feature, name="signals"),
    PageRoute(
        path="/signals/{feature}/{signal}", role="viewer", endpoint=signals.signal, name="signal"
    ),
    PageRoute(
        path="/signals/{feature}/{signal}/markdown",
        role="viewer",
        endpoint=signals.signal_markdown,
        name="signal-markdown",
    ),
    PageRoute(
        path="/signals/{feature}/{signal}/json",
        role="viewer",
        endpoint=signals.signal_json,
        name="signal-json",
    ),
    PageRoute(
        path="/signals/{feature}/{signal}/accept",
        methods=("POST",),
        role="operator",
        endpoint=signals.accept,
        name="accept",
    ),
    PageRoute(
        path="/signals/{feature}/{signal}/forget",
        methods=("POST",),
        role="operator",
        endpoint=signals.forget,
        name="forget",
    ),
    PageRoute(path="/compare", role="viewer", endpoint=compare.compare, name="compare"),
    PageRoute(
        path="/compare/markdown",
        role="viewer",
        endpoint=compare.compare_markdown,
        name="compare-markdown",
    ),
    PageRoute(
        path="/compare/json", role="viewer", endpoint=compare.compare_json, name="compare-json"
    ),
    PageRoute(path="/alerts", role="viewer", endpoint=alerts.alerts, name="alerts"),
    PageRoute(path="/alerts/{fingerprint}", role="viewer", endpoint=alerts.alert, name="alert"),
    PageRoute(
        path="/alerts/{fingerprint}/markdown",
        role="viewer",
        endpoint=alerts.alert_markdown,
        name="alert-markdown",
    ),
    PageRoute(path="/supervisor", role="viewer", endpoint=supervisor.supervisor, name="supervisor"),
    PageRoute(
        path="/supervisor/confirm", role="operator", endpoint=supervisor.confirm, name="confirm"
    ),
    PageRoute(
        path="/supervisor/act",
        methods=("POST",),
        role="operator",
        endpoint=supervisor.act,
        name="act",
    ),
    PageRoute(path="/operations", role="viewer", endpoint=operations.operations, name="operations"),
    PageRoute(
        path="/operations/{operation_id}",
        role="viewer",
        endpoint=operations.operation,
        name="operation",
    ),
    PageRoute(
        path="/operations/{operation_id}/json",
        role="viewer",
        endpoint=operations.operation_json,
        name="operation-json",
    ),
    PageRoute(
        path="/operations/{operation_id}/cancel",
        methods=("POST",),
        role="operator",
        endpoint=operations.cancel,
        name="operation-cancel",
    ),
    PageRoute(
        path="/operations/{operation_id}/answer",
        methods=("POST",),
        role="operator",
        endpoint=operations.answer,
        name="operation-answer",
    ),
    PageRoute(path="/spend", role="viewer", endpoint=spend.spend, name="spend"),
    PageRoute(path="/settings", role="viewer", endpoint=settings.settings, name="settings"),
    PageRoute(
        path="/settings/keys",
        methods=("POST",),
        role="admin",
        endpoint=settings.issue_key,
        name="issue-key",
    ),
    PageRoute(
        path="/settings/keys/{key_id}/revoke",
        methods=("POST",),
        role="admin",
        endpoint=settings.revoke_key,
        name="revoke-key",
    ),
    PageRoute(path="/live/runs", role="viewer", endpoint=runs.new_runs, name="new-runs"),
    PageRoute(path="/live/runs/{run_id}", role="viewer", endpoint=run.new_steps, name="new-steps"),
    PageRoute(path="/static/{name}", role="anonymous", endpoint=_static, name="static"),
)
"""Every route of the dashboard. ``/login`` and ``/logout`` belong to the gateway."""


def routes(deps: DashboardDeps) -> list[Route]:
    """The dashboard as Starlette routes, each guarded by its line of ``ROUTES``."""
    return [
        Route(line.path, _guarded(line, deps), methods=list(line.methods), name=f"page:{line.name}")
        for line in ROUTES
    ]


def _guarded(line: PageRoute, deps: DashboardDeps) -> Any:
    """The route's handler: who asks, whether they may, then the page, or one about what failed."""

    async def handle(request: Request) -> Response:
        principal = deps.principal(request.scope)
        view = View(request, deps, principal)
        if RANKS[principal.role] < RANKS[line.role]:
            return await _refused(view, line)
        try:
            return await line.endpoint(view)
        except TocsinError as error:
            return await failed(view, error)
        except Exception:
            _log.exception("page %s failed", line.name)
            return await error_page(
                view,
                500,
                "This page failed",
                "This is a fault in Tocsin. Its log has the details, under "
                f"“page {line.name} failed”.",
                "Calls go on and are recorded; nothing was lost.",
            )

    return handle


async def _refused(view: View, line: PageRoute) -> Response:
    if view.principal.role == "anonymous" and line.methods == ("GET",):
        query = view.request.scope.get("query_string", b"").decode("latin-1")
        target = view.request.scope["path"] + (f"?{query}" if query else "")
        login = "/login" if target == "/" else f"/login?next={quote(target, safe='')}"
        return RedirectResponse(login, 303, dict(render.PAGE_HEADERS))
    error = Forbidden(
        f"Your key “{view.principal.name}” has the role {view.principal.role}; this needs "
        f"{line.role}. Sign in with another key, or ask an admin for one."
    )
    if line.methods == ("GET",):
        return await error_page(view, 403, "You may not see this", str(error), "")
    return await failed(view, error)


_TITLES: Mapping[type[TocsinError], tuple[int, str, str]] = {
    NotFound: (404, "Nothing here", ""),
    Forbidden: (403, "You may not do this", "Nothing was changed."),
    InputError: (400, "This address cannot be read", ""),
    StoreError: (
        503,
        "The store cannot be read",
        "Calls go on, and what they record is kept in the journal until the store is back.",
    ),
}
_OTHER = (500, "This page failed", "Calls go on and are recorded; nothing was lost.")


async def failed(view: View, error: TocsinError) -> Response:
    """The page about an error: what happened, what was kept, the fix."""
    kinds = type(error).__mro__
    status, title, kept = next((_TITLES[k] for k in kinds if k in _TITLES), _OTHER)
    return await error_page(view, status, title, str(error), kept)


async def not_found(request: Request, deps: DashboardDeps) -> Response:
    """The page for an address that nothing answers; for the server's fallback."""
    view = View(request, deps, deps.principal(request.scope))
    path = fmt.one_line(request.scope["path"], 120)
    return await failed(view, NotFound(f"There is no page at {path}."))


async def error_page(view: View, status: int, title: str, what: str, kept: str) -> Response:
    """An error as a page in the dashboard's frame."""
    return await view.page(
        "error.html",
        status,
        section="",
        status_code=status,
        title=title,
        what=what,
        kept=kept,
        again=_address(view),
    )


def _address(view: View) -> str:
    """Where the asker wanted to go, with its query."""
    query = view.request.scope.get("query_string", b"").decode("latin-1")
    return quote(view.request.scope["path"]) + (f"?{query}" if query else "")
