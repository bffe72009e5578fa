"""The admin API of durable work: operations, effects of tools, messages to webhooks.

A caller sees and cancels its own operations; a viewer sees everybody's, an operator ends and
answers them. What an operator does is written to the audit log.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tocsin.core.call import Principal
from tocsin.core.errors import BadRequest, Forbidden, InputError, NotFound, Unavailable
from tocsin.core.ids import new_id
from tocsin.core.operations import Operation as Work
from tocsin.core.operations import Step
from tocsin.core.wire.responses import sse
from tocsin.gateway import admin_operations_models as m
from tocsin.gateway.admin_base import AdminDeps, actor_of, offer, readable
from tocsin.gateway.admin_models import Args, usd
from tocsin.gateway.auth import RANKS
from tocsin.gateway.openapi import EVENTS, Operation
from tocsin.operations.effects import Turn, begin_effect, hold, settle_effect
from tocsin.store.operations_api import Delivery, OperationFilter

MAX_INPUT = 4 * 1024 * 1024
"""Bytes of a request that starts an operation."""
_DONE = b"data: [DONE]\n\n"
_NEXT: Mapping[str, Turn] = {"done": "done", "failed": "act", "unknown": "unknown"}
"""What whoever asks for a settled effect next is told."""


# -- operations --


def list_operations(
    deps: AdminDeps, args: m.ListOperations, _principal: Principal
) -> m.OperationPage:
    fields = args.model_dump(exclude={"limit", "cursor"})
    found = deps.store.operations.operations(
        OperationFilter(**fields), limit=args.limit, cursor=args.cursor
    )
    return m.OperationPage(rows=[_operation(row) for row in found.rows], next=found.next)


async def start_operation(
    deps: AdminDeps, args: m.StartOperation, principal: Principal
) -> m.OperationView:
    asked, now = args.body, deps.clock.now_us()
    feature = asked.feature or (principal.features[0] if principal.features else "default")
    if not principal.may_call(feature):
        raise Forbidden(f"this key may not call the feature {feature!r}")
    kind = deps.operations.kinds.get(asked.kind)
    if kind is None or not kind.offered:
        offered = sorted(k.name for k in deps.operations.kinds.values() if k.offered)
        raise BadRequest(
            f"there is no kind {asked.kind!r}; offered: {', '.join(offered) or 'none'}",
            param="kind",
            status=404,
            code="unknown_kind",
        )
    if asked.callback is not None:
        await _check(deps, asked.callback)
    row = Work(
        id=new_id("op", now),
        kind=asked.kind,
        feature=feature,
        title=" ".join(asked.title.split())[:160],
        key_id=principal.key_id,
        key_name=principal.name,
        end_user=asked.end_user,
        run_id=new_id("run", now),
        background=True,
        created_at=now,
        deadline_at=None if asked.deadline_s is None else now + int(asked.deadline_s * 1e6),
        callback=asked.callback,
    )
    body = msgspec.json.encode(asked.input)
    return _operation(await deps.operations.create(row, body, principal=principal))


async def _check(deps: AdminDeps, callback: str) -> None:
    try:
        await deps.check_callback(callback)
    except BadRequest as error:
        raise Forbidden(error.message, code=error.code, param=error.param) from None


async def get_operation(
    deps: AdminDeps, args: m.OperationId, principal: Principal
) -> m.OperationDetail:
    row = await _theirs(deps, args.id, principal)
    steps = await run_in_threadpool(deps.store.operations.steps, row.id)
    return m.OperationDetail.model_validate({**_fields(row), "steps": [_step(s) for s in steps]})


async def get_events(deps: AdminDeps, args: m.GetEvents, principal: Principal) -> m.EventList:
    row = await _theirs(deps, args.id, principal)
    found = await run_in_threadpool(
        deps.store.operations.events, row.id, after=args.after, limit=args.limit
    )
    last = found[-1].number if found else args.after
    rows = [
        m.EventView(number=e.number, type=e.type, at=e.at, data=readable(e.data)) for e in found
    ]
    return m.EventList(rows=rows, ended=row.status == "ended" and last >= row.events - 1)


async def stream_events(deps: AdminDeps, args: m.StreamEvents, principal: Principal) -> Response:
    row = await _theirs(deps, args.id, principal)
    after = args.after if args.last_event_id is None else args.last_event_id
    return _Stream(
        _streamed(deps, row.id, after),
        headers={"content-type": EVENTS, "cache-control": "no-store", "x-accel-buffering": "no"},
    )


class _Stream(StreamingResponse):
    """A stream that a stopping server ends, not complete but whole as HTTP."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _streamed(deps: AdminDeps, operation_id: str, after: int) -> AsyncIterator[bytes]:
    """The events as they come, then ``[DONE]``. A stream without it is not complete: this process
    stops, or the operation was deleted."""
    with contextlib.suppress(Unavailable, NotFound):
        events = deps.operations.follow(operation_id, after=after)
        async with contextlib.aclosing(events):  # type: ignore[type-var]  # a generator it is
            async for event in events:
                yield sse(event)
        yield _DONE


async def get_result(deps: AdminDeps, args: m.GetResult, principal: Principal) -> m.ResultView:
    row = await _theirs(deps, args.id, principal)
    if args.wait and row.status != "ended":
        try:
            row = await deps.operations.ended(row.id, float(args.wait))
        except TimeoutError:
            row = await deps.operations.get(row.id)
    result = await deps.operations.result(row.id)
    return m.ResultView(
        id=row.id, status=row.status, outcome=row.outcome, result=_raw(result) if result else None
    )


async def cancel_operation(
    deps: AdminDeps, args: m.OperationId, principal: Principal
) -> m.OperationDetail:
    row = await _theirs(deps, args.id, principal, least="operator")
    ended = await deps.operations.cancel(row.id, actor_of(principal))
    if row.status != "ended":
        await _write_down(deps, principal, "operation.cancel", row.id)
    steps = await run_in_threadpool(deps.store.operations.steps, row.id)
    return m.OperationDetail.model_validate({**_fields(ended), "steps": [_step(s) for s in steps]})


async def answer_operation(
    deps: AdminDeps, args: m.AnswerOperation, principal: Principal
) -> m.OperationView:
    said, by = args.body, actor_of(principal)
    try:
        row = await deps.operations.answer(args.id, approved=said.approved, note=said.note, by=by)
    except InputError as error:
        raise _conflict("waits_for_nothing", error) from error
    word = "approved" if said.approved else "refused"
    await _write_down(deps, principal, f"operation.{word}", row.id, said.note)
    return _operation(row)


async def delete_operation(
    deps: AdminDeps, args: m.DeleteOperation, principal: Principal
) -> m.ResultView:
    row = await _theirs(deps, args.id, principal, least="operator")
    await deps.operations.delete(row.id)
    await _write_down(deps, principal, "operation.delete", row.id)
    return m.ResultView(id=row.id, status=row.status, outcome=row.outcome, result=None)


# -- effects --


def ask_effect(deps: AdminDeps, args: m.BeginEffect, principal: Principal) -> m.EffectView:
    asked, book = args.body, deps.store.operations
    owner = f"{_owner_of(principal)}{new_id('req', deps.clock.now_us())}"
    hold(book, deps.clock, owner, asked.hold_s)
    found = begin_effect(
        book,
        deps.clock,
        _scope(deps, asked.scope, principal),
        asked.name,
        asked.arguments,
        owner,
        can_find=asked.can_find,
    )
    step, is_theirs = found.step, found.turn in ("act", "find")
    if not is_theirs:
        book.retire(owner)
    return m.EffectView(
        key=step.key,
        turn=found.turn,
        state=step.state,
        owner=owner if is_theirs else None,
        result=_raw(step.result),
        asked=step.asked,
    )


def settle(deps: AdminDeps, args: m.SettleEffect, principal: Principal) -> m.EffectView:
    said, book = args.body, deps.store.operations
    by_hand = said.owner is None
    if by_hand and RANKS[principal.role] < RANKS["operator"]:
        raise Forbidden("owner: say the one that you were given; only operators settle without")
    if said.owner is not None and not said.owner.startswith(_owner_of(principal)):
        raise Forbidden("owner: this is none that your key was given")
    result = None if said.result is None else msgspec.json.encode(said.result)
    try:
        step = settle_effect(book, deps.clock, args.key, said.state, result, owner=said.owner)
    except InputError as error:
        raise _conflict("stands_otherwise", error) from error
    if said.owner is None:
        deps.keyring.audit(actor_of(principal), f"effect.{said.state}", step.key, step.name)
    else:
        book.retire(said.owner)
    return m.EffectView(
        key=step.key,
        turn=_NEXT[said.state],
        state=step.state,
        owner=None,
        result=_raw(step.result),
        asked=step.asked,
    )


def list_effects(deps: AdminDeps, args: m.ListEffects, _principal: Principal) -> m.EffectList:
    book = deps.store.operations
    if args.scope is not None:
        found = book.steps(args.scope)[: args.limit]
    else:
        found = book.steps_in(args.state, limit=args.limit)
    return m.EffectList(rows=[_step(step) for step in found])


def _owner_of(principal: Principal) -> str:
    """How the owners begin that requests of this key are given."""
    return f"own_http_{principal.key_id or 'anonymous'}_"


def _scope(deps: AdminDeps, said: str, principal: Principal) -> str:
    """An operation of the caller's, else a name within what belongs to its key."""
    row = deps.store.operations.operation(said)
    if row is not None and row.key_id == principal.key_id:
        return said
    return f"{principal.key_id or 'anonymous'}:{said}"


# -- webhooks --


def list_deliveries(
    deps: AdminDeps, args: m.ListDeliveries, _principal: Principal
) -> m.DeliveryList:
    book = deps.store.operations
    found = book.deliveries(state=args.state, operation_id=args.operation_id, limit=args.limit)
    disabled = [m.EndpointView.model_validate(row) for row in book.disabled_endpoints()]
    return m.DeliveryList(rows=[_delivery(row) for row in found], disabled=disabled)


def replay_delivery(deps: AdminDeps, args: m.DeliveryId, principal: Principal) -> m.DeliveryView:
    try:
        row = deps.webhooks.replay(args.id)
    except InputError as error:
        raise _conflict("endpoint_disabled", error) from error
    deps.keyring.audit(actor_of(principal), "webhook.replay", row.id, row.type)
    return _delivery(row)


def enable_endpoint(deps: AdminDeps, args: m.EnableEndpoint, principal: Principal) -> m.EnabledView:
    deps.webhooks.enable(args.body.url)
    deps.keyring.audit(actor_of(principal), "webhook.enable", args.body.url, "")
    return m.EnabledView(url=args.body.url)


def get_secret(deps: AdminDeps, _args: Args, principal: Principal) -> m.SecretView:
    return m.SecretView(secret=deps.webhooks.callback_secret(principal.key_id))


# -- parts --


async def _theirs(
    deps: AdminDeps, operation_id: str, principal: Principal, least: str = "viewer"
) -> Work:
    """An operation that the principal may touch: its own, or anybody's from the role ``least`` on.

    Raises ``NotFound``, also for somebody else's.
    """
    anybodys = RANKS[principal.role] >= RANKS[least]  # type: ignore[index]  # a role's word
    return await deps.operations.get(operation_id, None if anybodys else principal)


async def _write_down(
    deps: AdminDeps, principal: Principal, action: str, target: str, detail: str = ""
) -> None:
    await run_in_threadpool(deps.keyring.audit, actor_of(principal), action, target, detail)


def _conflict(code: str, error: Exception) -> Forbidden:
    return Forbidden(str(error), status=409, code=code)


def _raw(data: bytes | None) -> Any:
    return None if data is None else readable(data)


def _fields(row: Work) -> dict[str, Any]:
    names = m.OperationView.model_fields
    fields = {name: getattr(row, name) for name in names if name != "cost_usd"}
    return {**fields, "cost_usd": usd(row.cost_nano_usd)}


def _operation(row: Work) -> m.OperationView:
    return m.OperationView.model_validate(_fields(row))


def _step(step: Step) -> m.StepView:
    fields = {name: getattr(step, name) for name in m.StepView.model_fields}
    return m.StepView.model_validate(
        {**fields, "arguments": _raw(step.arguments or b"null"), "result": _raw(step.result)}
    )


def _delivery(row: Delivery) -> m.DeliveryView:
    fields = {name: getattr(row, name) for name in m.DeliveryView.model_fields}
    return m.DeliveryView.model_validate({**fields, "payload": _raw(row.payload)})


WORK: tuple[Operation, ...] = (
    offer("/api/operations", "listOperations", "Durable work, newest first.", m.ListOperations,
          list_operations),
    offer("/api/operations", "startOperation", "Start work that outlives this request.",
          m.StartOperation, start_operation, role="caller", method="POST", status=202,
          missing=True, max_body=MAX_INPUT),
    offer("/api/operations/{id}", "getOperation", "One operation and its steps.", m.OperationId,
          get_operation, role="caller", missing=True),
    offer("/api/operations/{id}", "deleteOperation", "End an operation and forget it.",
          m.DeleteOperation, delete_operation, role="caller", method="DELETE", missing=True),
    offer("/api/operations/{id}/events", "getEvents", "Its events, from any point.", m.GetEvents,
          get_events, role="caller", missing=True),
    offer("/api/operations/{id}/stream", "streamEvents",
          "Its events as they come, until it has ended.", m.StreamEvents, stream_events,
          role="caller", missing=True),
    offer("/api/operations/{id}/result", "getResult", "What came of it.", m.GetResult, get_result,
          role="caller", missing=True),
    offer("/api/operations/{id}/cancel", "cancelOperation",
          "End it; says what it had changed by then.", m.OperationId, cancel_operation,
          role="caller", method="POST", missing=True),
    offer("/api/operations/{id}/answer", "answerOperation", "Answer what it waits for.",
          m.AnswerOperation, answer_operation, role="operator", method="POST", missing=True,
          conflict=True),
    offer("/api/effects", "listEffects", "Side effects; those of unknown fate by default.",
          m.ListEffects, list_effects),
    offer("/api/effects", "beginEffect", "Ask for a side effect that must happen once.",
          m.BeginEffect, ask_effect, role="caller", method="POST"),
    offer("/api/effects/{key}", "settleEffect", "Say what became of a side effect.",
          m.SettleEffect, settle, role="caller", method="POST", missing=True, conflict=True),
    offer("/api/deliveries", "listDeliveries", "Messages to webhooks, newest first.",
          m.ListDeliveries, list_deliveries),
    offer("/api/deliveries/{id}/replay", "replayDelivery",
          "Send a message again, under its webhook-id.", m.DeliveryId, replay_delivery,
          role="operator", method="POST", missing=True, conflict=True),
    offer("/api/callback-secret", "getCallbackSecret",
          "What messages to this key's callbacks are signed with.", Args, get_secret,
          role="caller"),
    offer("/api/endpoints/enable", "enableEndpoint", "Tell a receiver again that answered 410.",
          m.EnableEndpoint, enable_endpoint, role="operator", method="POST", missing=True),
)  # fmt: skip
"""Every operation of this part of the API."""
