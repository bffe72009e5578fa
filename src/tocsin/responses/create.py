"""``POST /v1/responses``: a response is kept, then made, then given in the form that is wanted."""

import asyncio
import contextlib
import re
from collections.abc import Sequence

import msgspec

from tocsin.core.errors import BadRequest, CallError, Unavailable
from tocsin.core.ids import derived_id, is_safe_id, new_id
from tocsin.core.operations import Operation
from tocsin.core.wire.responses import ResponseRequest, Translator, parse_response, sse
from tocsin.responses.asking import needs_caller
from tocsin.responses.caller import Caller, Failure, Plan
from tocsin.responses.deps import Answer, Api, Deps, Pairs, Request, Wire, is_own, missing, off
from tocsin.responses.history import (
    RESPONSE,
    Asked,
    History,
    Item,
    ItemIds,
    body_for,
    fitted,
    history_of,
    resolved,
)
from tocsin.responses.kind import Responses
from tocsin.responses.turns import locked
from tocsin.responses.working import response_of
from tocsin.runtime.intake import ERROR_HEADER, answer_headers, take_in

DONE = b"data: [DONE]\n\n"
"""What ends a stream that is complete."""

SILENT_S = 15.0
"""After so long without an event a comment is sent."""
_REFUSAL_S = 0.05
"""How long a stream's head waits for an answer that is an error with a status of its own. Limits
and stops say so within a few milliseconds; what comes later is told as an event."""

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_SSE = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
)
_JSON = (b"content-type", b"application/json")
_TITLE = 160


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A response that is in the store, and at work."""

    operation: Operation
    caller: Caller
    response: bytes
    """JSON of the Response object as it is at first; empty where nobody is given it."""
    stream: bool


async def create(deps: Deps, responses: Responses, request: Request, wire: Wire) -> None:
    """Answer one request, errors included."""
    try:
        begun = await _begin(deps, request)
    except CallError as error:
        await _refuse(deps, request, wire, error)
        return
    operation = begun.operation
    if begun.stream:
        await _stream(deps, begun, wire)
    elif operation.background:
        await answer(wire, Answer(body=begun.response, headers=_named(operation)))
    else:
        await _wait(deps, responses, begun, wire)


async def _refuse(deps: Deps, request: Request, wire: Wire, error: CallError) -> None:
    """A request that goes no further is recorded as a call all the same."""
    call, refused = take_in(
        "gateway",
        request.method,
        request.path,
        b"",
        request.headers,
        request.principal,
        request.body,
        request.now,
    )
    deps.runtime().refuse(call, refused or error)
    more = [(ERROR_HEADER, error.code.encode("latin-1")), *answer_headers(call)]
    await wire.error("openai", error, more)


# -- keeping it --


async def _begin(deps: Deps, request: Request) -> Begun:
    """Check the request, keep it, and set the work going. Raises ``CallError``."""
    name = new_id("resp", request.now)
    ids = ItemIds(name)
    asked = parse_response(request.body, ids)
    _check(asked)
    history = await _history(deps, request, asked)
    before = () if history is None else history.items
    asked = msgspec.structs.replace(
        asked, items=tuple(await resolved(deps, request.principal, asked.items, before))
    )
    place = deps.place_of(request.feature, asked.model)
    if asked.background and history is not None and asked.compact_threshold is None:
        # Nobody waits for it: what cannot work is said now. What is compacted may fit yet.
        build = body_for(place.api, stream=True)
        fitted(asked, history.items, place.model or asked.model, build)
    operation = _operation(deps, request, asked, name, history)
    plan = _plan(request, asked, operation, place.api)
    translator = plan.translator
    events = translator.begin(queued=asked.background)
    if not asked.background and asked.conversation_id is None:
        events += translator.started()  # It waits for nothing.
    response = b""
    if asked.background and not asked.stream:
        response = msgspec.json.encode(translator.response)
    caller = Caller(request.headers, history if asked.conversation_id is None else None, plan)
    operation = await deps.operations.create(
        operation,
        msgspec.json.encode(plan.asked),
        principal=request.principal,
        context=caller,
        events=events,
    )
    return Begun(operation=operation, caller=caller, response=response, stream=asked.stream)


def _plan(request: Request, asked: ResponseRequest, operation: Operation, api: Api) -> Plan:
    raw = {field: value for field, value in asked.raw.items() if field != "input"}
    stored = Asked(request=raw, items=list(asked.items), bare=not needs_caller(request.headers))
    ids = ItemIds(operation.id, restarts=0)
    return Plan(
        asked=stored,
        request=msgspec.structs.replace(asked, raw=raw),
        ids=ids,
        api=api,
        translator=Translator(api, response_of(operation, asked), ids),
    )


def _check(asked: ResponseRequest) -> None:
    goes_on = asked.previous_response_id or asked.conversation_id or asked.raw.get("prompt")
    if not asked.items and not goes_on:
        raise BadRequest(
            "Missing required parameter: 'input'.", param="input", code="missing_required_parameter"
        )


async def _history(deps: Deps, request: Request, asked: ResponseRequest) -> History | None:
    """What the request goes on from; ``None`` where that is known only when its turn comes."""
    if asked.conversation_id is None:
        return await history_of(deps, request.principal, asked)
    name = asked.conversation_id
    book = deps.store.operations
    row = await off(book.conversation, name)
    if row is None or not is_own(row.key_id, request.principal):
        raise missing("Conversation", name, param="conversation")
    if deps.config().operations.busy_conversation == "refuse" and row.held_by is not None:
        holder = await off(book.operation, row.held_by)
        if holder is not None and holder.status != "ended":
            raise locked(name)
    if any(item.get("type") == "item_reference" for item in asked.items):
        return await history_of(deps, request.principal, asked)
    return None


def _operation(
    deps: Deps, request: Request, asked: ResponseRequest, name: str, history: History | None
) -> Operation:
    linger_us = round(deps.config().operations.linger_s * 1_000_000)
    principal = request.principal
    return Operation(
        id=name,
        kind=RESPONSE,
        feature=request.feature,
        title=_title(asked.items),
        key_id=principal.key_id,
        key_name=principal.name,
        end_user=_end_user(request, asked),
        run_id=_run(request, asked, history),
        previous_id=asked.previous_response_id,
        conversation_id=asked.conversation_id,
        background=asked.background,
        created_at=request.now,
        expires_at=None if asked.store else request.now + linger_us,
    )


def _run(request: Request, asked: ResponseRequest, history: History | None) -> str | None:
    """The run that it belongs to; ``None`` leaves it to the messages, as of any call."""
    named = request.header(b"tocsin-run")
    if named is not None and is_safe_id(text := named.decode("latin-1")):
        return text
    trace = request.header(b"traceparent")
    if trace is not None and (match := _TRACEPARENT.fullmatch(trace)):
        return derived_id("run", match[1])
    if history is not None and history.run_id is not None:
        return history.run_id
    if asked.conversation_id is not None:
        return derived_id("run", "conversation", asked.conversation_id)
    if any(item.get("role") == "assistant" or "call_id" in item for item in asked.items):
        return None
    return new_id("run", request.now)


def _end_user(request: Request, asked: ResponseRequest) -> str | None:
    said = request.header(b"tocsin-user")
    if said is not None:
        return said.decode("latin-1")[:512]
    for field in ("user", "safety_identifier"):
        value = asked.raw.get(field)
        if isinstance(value, str) and value:
            return value[:512]
    return None


def _title(items: Sequence[Item]) -> str:
    """The newest words of the user, on one line."""
    for item in reversed(items):
        if item.get("role") != "user":
            continue
        for part in item.get("content") or ():
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str) and text.strip():
                line = " ".join(text[: _TITLE * 4].split())
                return line if len(line) <= _TITLE else line[: _TITLE - 1] + "…"
    return ""


# -- answering --


async def _wait(deps: Deps, responses: Responses, begun: Begun, wire: Wire) -> None:
    """The answer to a caller that waits for the end."""
    operation, caller = begun.operation, begun.caller
    with deps.operations.attending(operation.id):
        operation = await deps.operations.ended(operation.id)
    headers = _headers(operation, caller)
    if caller.failure is not None:
        await fail(wire, caller.failure, headers)
        return
    if operation.outcome == "timeout":
        error = Unavailable(
            operation.error_message or "It was not done when its deadline came.",
            status=504,
            code="deadline",
            retryable=False,
        )
        await fail(wire, Failure(status=504, error=error), headers)
        return
    made = caller.result
    body: object = made[1] if made is not None and made[0] == operation.outcome else None
    if body is None:
        body = await responses.standing(operation)
    await answer(wire, Answer(body=body, headers=tuple(headers)))


async def _stream(deps: Deps, begun: Begun, wire: Wire) -> None:
    """The events, from the first to the last."""
    operation, caller = begun.operation, begun.caller
    with deps.operations.attending(operation.id):
        if not operation.background:
            await _opening(caller)
        if caller.failure is not None:
            await fail(wire, caller.failure, _headers(operation, caller))
            return
        await follow(deps, operation.id, wire, headers=_headers(operation, caller))


async def _opening(caller: Caller) -> None:
    try:
        async with asyncio.timeout(_REFUSAL_S):
            await caller.begun.wait()
    except TimeoutError:
        return


async def follow(
    deps: Deps, operation_id: str, wire: Wire, *, after: int = -1, headers: Pairs = ()
) -> None:
    """Send the events behind ``after`` as they come. A stream that is not complete when this
    process stops is broken off: its client can tell, and go on from where it was."""
    groups = deps.operations.groups(operation_id, after=after)
    await wire.start(200, [*_SSE, *headers])
    pulse = _Pulse(wire)
    try:
        async for group in groups:
            await wire.piece(b"".join(map(sse, group)))
            pulse.beat()
    except Unavailable:
        await wire.cut()
        return
    finally:
        pulse.stop()
    await wire.piece(DONE)
    await wire.end()


class _Pulse:
    """Comments in a stream that is silent for long, so that nothing on the way takes it for dead.
    Clients skip them; they are no events and have no numbers."""

    __slots__ = ("_last", "_loop", "_task", "_timer", "_wire")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(SILENT_S, self._look)

    def beat(self) -> None:
        """Something was sent."""
        self._last = self._loop.time()

    def stop(self) -> None:
        """The stream is over."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        quiet = self._loop.time() - self._last
        if quiet >= SILENT_S and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._say())
            self._last, quiet = self._loop.time(), 0.0
        self._timer = self._loop.call_later(max(0.0, SILENT_S - quiet), self._look)

    async def _say(self) -> None:
        # Whoever is gone is noticed by the connection, and by the next event.
        with contextlib.suppress(Exception):
            # No empty line behind it: the client of OpenAI takes that for an event without data.
            await self._wire.piece(b": at work\n")


async def answer(wire: Wire, made: Answer) -> None:
    """Send a whole answer."""
    headers = [*made.headers]
    if not any(name == b"content-type" for name, _ in headers):
        headers.insert(0, _JSON)
    await wire.whole(made.status, headers, made.data())


async def fail(wire: Wire, failure: Failure, headers: Pairs) -> None:
    """Tell why there is no answer."""
    error = failure.error
    if error is not None:
        await wire.error("openai", error, [(ERROR_HEADER, error.code.encode("latin-1")), *headers])
        return
    ours = {name for name, _ in headers}
    kept = [pair for pair in failure.headers if pair[0] not in ours]
    await wire.whole(failure.status, [*kept, *headers], failure.body)


def _named(operation: Operation) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"tocsin-operation-id", operation.id.encode()),)


def _headers(operation: Operation, caller: Caller) -> list[tuple[bytes, bytes]]:
    named = list(_named(operation))
    return named if caller.call is None else [*named, *answer_headers(caller.call)]


__all__ = ["DONE", "answer", "create", "fail", "follow"]
