"""The admin API under ``/api``: what is recorded, who may call, what is configured.

``OPERATIONS`` is the one source: routes, roles, parameters and the OpenAPI document follow from it.
Handlers are plain functions that run in worker threads, because the store is synchronous.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tocsin.core.call import Principal
from tocsin.core.errors import (
    CallError,
    ConfigError,
    Forbidden,
    InputError,
    NotFound,
    StoreError,
    TocsinError,
)
from tocsin.core.interaction import Attempt, Interaction
from tocsin.core.messages import Hash, Message
from tocsin.gateway import admin_models as m
from tocsin.gateway.access import RouteRole, principal_in
from tocsin.gateway.admin_base import AdminDeps, Reloaded, actor_of, offer, readable
from tocsin.gateway.admin_input import BadArguments, read_args
from tocsin.gateway.admin_operations import WORK
from tocsin.gateway.admin_signals import SIGNALS
from tocsin.gateway.admin_supervision import SUPERVISION
from tocsin.gateway.openapi import Operation, document
from tocsin.gateway.problems import problem, problem_of
from tocsin.store.api import Filter

__all__ = ["OPERATIONS", "AdminDeps", "Reloaded", "actor_of", "operation_role", "routes", "table"]

DAY_US = 86_400_000_000
OPENAPI_PATH = "/api/openapi.json"


# -- records --


def _attempt(attempt: Attempt) -> m.AttemptView:
    view = m.AttemptView.model_validate(attempt)
    return view.model_copy(update={"cost_usd": m.usd(attempt.cost_nano_usd)})


def _interaction_fields(interaction: Interaction) -> dict[str, Any]:
    fields = {name: getattr(interaction, name) for name in _COPIED}
    fields["cost_usd"] = m.usd(interaction.cost_nano_usd)
    fields["attempts"] = [_attempt(attempt) for attempt in interaction.attempts]
    return fields


_COPIED = tuple(
    name for name in m.InteractionView.model_fields if name not in ("cost_usd", "attempts")
)


def _interaction(interaction: Interaction) -> m.InteractionView:
    return m.InteractionView.model_validate(_interaction_fields(interaction))


def _priced(row: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the store as plain values, its cost also as US dollars."""
    values = {name: getattr(row, name) for name in fields if name != "cost_usd"}
    return {**values, "cost_usd": m.usd(row.cost_nano_usd)}


def _run(row: Any) -> m.RunView:
    return m.RunView.model_validate(_priced(row, m.RunView.model_fields))


def _filter(args: m.Filters, **more: Any) -> Filter:
    names = m.Filters.model_fields
    return Filter(**{name: getattr(args, name) for name in names}, **more)


def list_interactions(
    deps: AdminDeps, args: m.ListInteractions, _principal: Principal
) -> m.InteractionPage:
    page = deps.store.interactions(
        _filter(args, text=args.text), limit=args.limit, cursor=args.cursor
    )
    return m.InteractionPage(rows=[_interaction(row) for row in page.rows], next=page.next)


def get_interaction(
    deps: AdminDeps, args: m.GetInteraction, _principal: Principal
) -> m.InteractionDetail:
    interaction = deps.store.interaction(args.id)
    if interaction is None:
        raise NotFound(f"no interaction {args.id!r}; retention may have deleted it")
    content = _content(deps, interaction) if args.content else None
    return m.InteractionDetail.model_validate(
        {**_interaction_fields(interaction), "content": content}
    )


def _content(deps: AdminDeps, interaction: Interaction) -> m.ContentView | None:
    entry = deps.store.entry(interaction.id)
    if entry is None:
        return None
    blobs = {blob.hash: blob.data for blob in entry.blobs}

    def blob(name: Hash | None) -> Any:
        return readable(blobs[name]) if name is not None and name in blobs else None

    return m.ContentView(
        messages=[_message(message) for message in entry.input],
        output=_message(entry.output) if entry.output is not None else None,
        params=blob(interaction.params),
        request_body=blob(interaction.request_body),
        response_body=blob(interaction.response_body),
    )


def _message(message: Message) -> m.MessageView:
    return m.MessageView(role=message.role, message=readable(message.raw))


def list_runs(deps: AdminDeps, args: m.ListRuns, _principal: Principal) -> m.RunPage:
    page = deps.store.runs(
        _filter(args, text=args.text),
        sort=args.sort,
        descending=args.descending,
        limit=args.limit,
        cursor=args.cursor,
    )
    return m.RunPage(rows=[_run(row) for row in page.rows], next=page.next)


def get_run(deps: AdminDeps, args: m.ById, _principal: Principal) -> m.RunView:
    row = deps.store.run(args.id)
    if row is None:
        raise NotFound(f"no run {args.id!r}; retention may have deleted it")
    return _run(row)


def list_steps(deps: AdminDeps, args: m.ListSteps, _principal: Principal) -> m.StepPage:
    if deps.store.run(args.id) is None:
        raise NotFound(f"no run {args.id!r}; retention may have deleted it")
    rows = deps.store.steps(args.id, offset=args.offset, limit=args.limit + 1)
    more = len(rows) > args.limit
    return m.StepPage(
        rows=[_interaction(row) for row in rows[: args.limit]],
        next_offset=args.offset + args.limit if more else None,
    )


# -- sums --


def _range(deps: AdminDeps, args: m.Filters) -> Filter:
    """The filter with both ends of the time range set; the last day by default."""
    until = args.until if args.until is not None else deps.clock.now_us()
    since = args.since if args.since is not None else max(0, until - DAY_US)
    # A range that ends before it begins holds nothing, and neither does one microsecond.
    return _filter(args.model_copy(update={"since": since, "until": max(until, since + 1)}))


def _feature(row: Any) -> dict[str, Any]:
    fields = _priced(row, m.FeatureView.model_fields)
    fields["series"] = [_priced(bucket, m.BucketView.model_fields) for bucket in row.series]
    return fields


def get_overview(deps: AdminDeps, args: m.GetOverview, _principal: Principal) -> m.OverviewView:
    found = deps.store.overview(_range(deps, args), buckets=args.buckets)
    return m.OverviewView.model_validate(
        {
            "since": found.since,
            "until": found.until,
            "bucket_us": found.bucket_us,
            "total": _feature(found.total),
            "features": [_feature(row) for row in found.features],
        }
    )


def get_spend(deps: AdminDeps, args: m.GetSpend, _principal: Principal) -> m.SpendView:
    found = deps.store.spend(_range(deps, args), args.by, buckets=args.buckets, top=args.top)
    return m.SpendView.model_validate(
        {
            "since": found.since,
            "until": found.until,
            "bucket_us": found.bucket_us,
            "by": found.by,
            "total": _priced(found.total, m.SpendRowView.model_fields),
            "rows": [_priced(row, m.SpendRowView.model_fields) for row in found.rows],
        }
    )


def get_facets(deps: AdminDeps, args: m.Filters, _principal: Principal) -> m.FacetsView:
    found = deps.store.facets(_filter(args))
    return m.FacetsView(
        facets={
            name: [m.FacetView(value=value, calls=calls) for value, calls in values]
            for name, values in found.items()
        }
    )


# -- keys, settings, care --


def list_keys(deps: AdminDeps, _args: m.Args, _principal: Principal) -> m.KeyList:
    rows = deps.keyring.keys()
    return m.KeyList(rows=[m.KeyView.model_validate(row) for row in rows])


def issue_key(deps: AdminDeps, args: m.IssueKey, principal: Principal) -> m.IssuedKeyView:
    new = args.body
    life = new.expires_in_s
    issued = deps.keyring.issue(
        new.name.strip(),
        new.role,
        features=new.features,
        expires_at=None if life is None else deps.clock.now_us() + life * 1_000_000,
        actor=actor_of(principal),
    )
    shown = m.KeyView.model_validate(issued.row).model_dump()
    return m.IssuedKeyView(**shown, secret=issued.secret)


def revoke_key(deps: AdminDeps, args: m.ById, principal: Principal) -> m.RevokedView:
    rows = deps.keyring.keys()
    if all(row.id != args.id for row in rows):
        raise NotFound(f"no key {args.id!r}; GET /api/keys lists them")
    if args.id == principal.key_id:
        # Whoever ends the key in hand by mistake is locked out of undoing it.
        raise Forbidden(
            "this is the key that you are using; end it with another admin key, or with "
            "`tocsin keys revoke` on the server",
            status=409,
            code="own_key",
        )
    revoked = deps.keyring.revoke(args.id, actor=actor_of(principal))
    return m.RevokedView(id=args.id, revoked=revoked)


def list_upstreams(deps: AdminDeps, _args: m.Args, _principal: Principal) -> m.UpstreamList:
    return m.UpstreamList(rows=[m.UpstreamView.model_validate(u) for u in deps.upstreams()])


def get_config(deps: AdminDeps, _args: m.Args, _principal: Principal) -> m.ConfigView:
    return m.ConfigView(config=dict(deps.config_view()))


def get_stats(deps: AdminDeps, _args: m.Args, _principal: Principal) -> m.StatsView:
    return m.StatsView.model_validate(deps.store.stats())


def list_audit(deps: AdminDeps, args: m.Limited, _principal: Principal) -> m.AuditList:
    rows = deps.store.audit(limit=args.limit)
    return m.AuditList(rows=[m.AuditView.model_validate(row) for row in rows])


def delete_end_user(deps: AdminDeps, args: m.ById, principal: Principal) -> m.SweptView:
    swept = deps.store.delete_end_user(args.id)
    deps.keyring.audit(
        actor_of(principal),
        "end_user.delete",
        args.id,
        f"{swept.interactions} interactions, {swept.operations} operations",
    )
    return m.SweptView.model_validate(swept)


async def reload(deps: AdminDeps, _args: m.Args, principal: Principal) -> m.ReloadedView:
    done = await deps.reload()
    await run_in_threadpool(
        deps.keyring.audit, actor_of(principal), "config.reload", "", " ".join(done.changed)
    )
    return m.ReloadedView.model_validate(done)


_RECORDS: tuple[Operation, ...] = (
    offer(
        "/api/interactions",
        "listInteractions",
        "Recorded calls, newest first.",
        m.ListInteractions,
        list_interactions,
    ),
    offer(
        "/api/interactions/{id}",
        "getInteraction",
        "One recorded call, with its messages when asked for.",
        m.GetInteraction,
        get_interaction,
        missing=True,
    ),
    offer("/api/runs", "listRuns", "Runs, by any order.", m.ListRuns, list_runs),
    offer("/api/runs/{id}", "getRun", "One run.", m.ById, get_run, missing=True),
    offer(
        "/api/runs/{id}/steps",
        "listSteps",
        "A run's calls in the order in which they started.",
        m.ListSteps,
        list_steps,
        missing=True,
    ),
    offer(
        "/api/overview",
        "getOverview",
        "Calls, outcomes, latency and cost by feature; the last day by default.",
        m.GetOverview,
        get_overview,
    ),
    offer("/api/spend", "getSpend", "Cost by one dimension.", m.GetSpend, get_spend),
    offer("/api/facets", "getFacets", "Values to filter by.", m.Filters, get_facets),
    offer("/api/upstreams", "listUpstreams", "Upstreams and their state.", m.Args, list_upstreams),
    offer("/api/stats", "getStats", "What the store holds.", m.Args, get_stats),
    offer("/api/keys", "listKeys", "Issued keys.", m.Args, list_keys, role="admin"),
    offer(
        "/api/keys",
        "issueKey",
        "Issue a key; its secret is shown this once.",
        m.IssueKey,
        issue_key,
        role="admin",
        method="POST",
        status=201,
    ),
    offer(
        "/api/keys/{id}",
        "revokeKey",
        "End a key.",
        m.ById,
        revoke_key,
        role="admin",
        method="DELETE",
        missing=True,
        conflict=True,
    ),
    offer("/api/config", "getConfig", "Running configuration.", m.Args, get_config, role="admin"),
    offer("/api/audit", "listAudit", "Who changed what.", m.Limited, list_audit, role="admin"),
    offer(
        "/api/end-users/{id:path}",
        "deleteEndUser",
        "Delete all records and content of one end user.",
        m.ById,
        delete_end_user,
        role="admin",
        method="DELETE",
    ),
    offer(
        "/api/reload",
        "reload",
        "Read the configuration file again.",
        m.Args,
        reload,
        role="admin",
        method="POST",
    ),
)

OPERATIONS: tuple[Operation, ...] = (*_RECORDS, *SUPERVISION, *SIGNALS, *WORK)
"""Every operation of the API."""


def table() -> tuple[RouteRole, ...]:
    """The role that each route of the API needs."""
    document_role = RouteRole(path=OPENAPI_PATH, methods=("GET",), role="viewer")
    return (document_role, *(operation_role(operation) for operation in OPERATIONS))


def operation_role(operation: Operation) -> RouteRole:
    """The row of the role table for one operation."""
    return RouteRole(path=operation.path, methods=(operation.method,), role=operation.role)


def routes(deps: AdminDeps) -> list[BaseRoute]:
    """The routes of the API, to be put behind ``Access.guard`` with ``table()``."""
    paths: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation
    made: list[BaseRoute] = [
        Route(path, _endpoint(deps, methods), methods=list(methods))
        for path, methods in paths.items()
    ]
    return [*made, Route(OPENAPI_PATH, _openapi, methods=["GET"])]


def _endpoint(
    deps: AdminDeps, methods: Mapping[str, Operation]
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        operation = methods["GET" if request.method == "HEAD" else request.method]
        try:
            args = await read_args(operation.args, request, operation.max_body)
        except BadArguments as bad:
            return problem(bad.status, bad.code, bad.detail, faults=bad.faults)
        principal = principal_in(request.scope)
        try:
            if inspect.iscoroutinefunction(operation.run):
                found = await operation.run(deps, args, principal)
            else:
                found = await run_in_threadpool(operation.run, deps, args, principal)
        except TocsinError as error:
            return _problem_of(error)
        if isinstance(found, Response):
            # What HEAD asks for ends with the headers, however long the stream would be.
            is_head = request.method == "HEAD"
            return Response(headers=found.headers) if is_head else found
        return _json(found.model_dump(), operation.status)

    return endpoint


def _json(value: Any, status: int = 200) -> Response:
    # Not pydantic's own writer: recorded JSON is passed through as it is (``msgspec.Raw``).
    return Response(
        msgspec.json.encode(value),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store"},
    )


def _problem_of(error: TocsinError) -> Response:
    match error:
        case CallError():
            return problem_of(error)
        case NotFound():
            return problem(404, "not_found", str(error))
        case ConfigError():
            return problem(422, "invalid_config", str(error))
        case InputError():
            return problem(404, "unknown_cursor", str(error))
        case StoreError():
            return problem(503, "store_unavailable", str(error), headers={"retry-after": "1"})
    return problem(500, "internal_error", str(error))


async def _openapi(_request: Request) -> Response:
    return _json(document(OPERATIONS))
