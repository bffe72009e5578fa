"""Model calls that the managed routes and operations make: by the path of everybody's calls."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from tocsin.config.model import Config, Upstream
from tocsin.core.call import Call, Headers, Principal
from tocsin.core.credentials import is_ours
from tocsin.core.errors import BadRequest, CallError, Unavailable, UpstreamFailed
from tocsin.core.interaction import Interaction
from tocsin.core.operations import Answered, Operation
from tocsin.core.outcome import Outcome
from tocsin.core.policy import Provider, Reply
from tocsin.core.wire import error_body, error_json
from tocsin.core.wire.responses import Translator, parse_response, skeleton, upstream_request
from tocsin.operations.work import Ask
from tocsin.responses.deps import Api, Place, Tools, off
from tocsin.responses.history import ItemIds
from tocsin.runtime.intake import take_in
from tocsin.runtime.records import entry

_OURS = frozenset(
    {
        # Of the caller's own request: the call that is made of it has others.
        b"accept", b"accept-encoding", b"content-encoding", b"content-length", b"content-type",
        b"transfer-encoding", b"last-event-id", b"tocsin-run", b"tocsin-feature",
        b"tocsin-conversation", b"anthropic-version",
    }
)  # fmt: skip
_CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})
_KEYLESS = frozenset({"local", "replay", "scripted"})
_NOT_FORWARDED = frozenset({b"content-length", b"content-encoding", b"content-type"})

Operational = dict[str, str]


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was made, read to its end."""

    call: Call
    status: int
    headers: Headers
    body: bytes

    @property
    def record(self) -> Interaction | None:
        """What was recorded of it."""
        return self.call.draft.record


# -- where to --


class _Choice(msgspec.Struct, frozen=True):
    """One upstream that calls may go to, and the model that it is asked for."""

    upstream: str
    model: str = ""


def place_of(config: Config, providers: Mapping[str, Provider], feature: str, model: str) -> Place:
    """Where the calls of a feature for a model go. Raises ``BadRequest`` or ``Unavailable``.

    All choices of a feature are spoken to alike: in the dialect of the first, and by the responses
    API only where every one has it.
    """
    targets = _targets(config, providers, feature, model)
    first = targets[0]
    kind = _kind(config, providers, first.upstream)
    alike = [t for t in targets if _kind(config, providers, t.upstream) == kind]
    upstreams = [config.upstreams.get(t.upstream) for t in alike]
    api: Api = "messages" if kind == "anthropic" else "chat"
    if kind == "openai" and all(u is not None and u.api == "responses" for u in upstreams):
        api = "responses"
    return Place(
        api=api,
        upstream=first.upstream,
        model=first.model,
        background=api == "responses" and all(u is not None and u.background for u in upstreams),
        own_credential=all(_own_credential(config, providers, t.upstream) for t in alike),
    )


def _targets(
    config: Config, providers: Mapping[str, Provider], feature: str, model: str
) -> Sequence[_Choice]:
    settings = config.features.get(feature)
    if settings is not None and settings.targets:
        ordered = sorted(settings.targets, key=lambda target: target.tier)
        found = [t for t in ordered if t.weight > 0 and t.upstream in providers]
        if found:
            return [_Choice(t.upstream, t.model) for t in found]
        raise Unavailable(
            f"Feature {feature!r} has no upstream that is configured.", retryable=False
        )
    names = [*(n for n in config.upstreams if n in providers)]
    names += [name for name in providers if name not in config.upstreams]
    for name in names:
        globs = _settings(config, name).models
        if not model or any(fnmatchcase(model, glob) for glob in globs):
            return [_Choice(name)]
    if not names:
        raise Unavailable(
            "No upstream is configured. Add an [upstreams.NAME] table to tocsin.toml, or set "
            "OPENAI_API_KEY or ANTHROPIC_API_KEY.",
            retryable=False,
        )
    serve = "; ".join(f"{name}: {', '.join(_settings(config, name).models)}" for name in names)
    raise BadRequest(
        f"No upstream serves the model {model!r}. Configured: {serve}.",
        status=404,
        code="model_not_found",
        param="model",
    )


_DEFAULT = Upstream.model_validate({})


def _settings(config: Config, name: str) -> Upstream:
    return config.upstreams.get(name, _DEFAULT)


def _kind(config: Config, providers: Mapping[str, Provider], name: str) -> str:
    """``anthropic`` where only that dialect is spoken, else ``openai``."""
    dialects = getattr(providers[name], "dialects", None)
    return "anthropic" if dialects == frozenset({"anthropic"}) else "openai"


def _own_credential(config: Config, providers: Mapping[str, Provider], name: str) -> bool:
    if providers[name].kind in _KEYLESS:
        return True
    return bool(_settings(config, name).api_key_env)


# -- the call --


def needs_caller(headers: Headers) -> bool:
    """Whether a request brought a credential that is meant for the upstream."""
    return any(name in _CREDENTIALS and not is_ours(name, value) for name, value in headers)


def headers_for(
    headers: Headers,
    *,
    path: str,
    feature: str,
    run_id: str | None,
    conversation_id: str | None,
    end_user: str | None,
) -> Headers:
    """The headers of a call that is made for a caller: its own, as far as they concern it."""
    made = [(name, value) for name, value in headers if name not in _OURS]
    if path.startswith("/v1/messages"):
        made = [_for_anthropic(header) for header in made]
        made.append((b"anthropic-version", b"2023-06-01"))
    made.append((b"content-type", b"application/json"))
    made.append((b"tocsin-feature", feature.encode("latin-1")))
    if run_id is not None:
        made.append((b"tocsin-run", run_id.encode("latin-1", "replace")))
    if conversation_id is not None:
        made.append((b"tocsin-conversation", conversation_id.encode("latin-1", "replace")))
    if end_user and not any(name == b"tocsin-user" for name, _ in made):
        made.append((b"tocsin-user", end_user.encode("latin-1", "replace")))
    return tuple(made)


def _for_anthropic(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """A bearer token as that API's clients send a key."""
    name, value = header
    if name == b"authorization" and value[:7].lower() == b"bearer " and not is_ours(name, value):
        return b"x-api-key", value[7:].strip()
    return header


def call_for(
    deps: Tools,
    path: str,
    body: bytes,
    *,
    headers: Headers,
    principal: Principal,
    facts: Mapping[str, str],
    method: str = "POST",
) -> Call:
    """A call on the path of all calls. Raises what refuses it; that is recorded."""
    call, refused = take_in(
        "gateway", method, path, b"", headers, principal, body, deps.clock.now_us()
    )
    call.draft.facts = {**(call.draft.facts or {}), **facts}
    if refused is not None:
        raise deps.runtime().refuse(call, refused)
    return call


async def gathered(reply: Reply) -> bytes:
    """The whole body of a reply."""
    if reply.chunks is None:
        return reply.body or b""
    return b"".join([chunk async for chunk in reply.chunks])


async def whole(
    deps: Tools,
    path: str,
    body: bytes,
    *,
    headers: Headers,
    principal: Principal,
    feature: str,
    run_id: str | None = None,
    conversation_id: str | None = None,
    end_user: str | None = None,
    facts: Mapping[str, str],
    begun: Callable[[Call], None] = lambda call: None,
) -> Made:
    """Make one call and read its whole answer, of whatever status.

    ``headers`` are those of the request that it is made for; ``begun`` gets the call before it is
    made. Raises ``CallError`` where there is no answer; the call is recorded in any case.
    """
    call = call_for(
        deps,
        path,
        body,
        headers=headers_for(
            headers,
            path=path,
            feature=feature,
            run_id=run_id,
            conversation_id=conversation_id,
            end_user=end_user,
        ),
        principal=principal,
        facts=facts,
    )
    begun(call)
    async with deps.runtime().call(call) as reply:
        answer = await gathered(reply)
    return Made(call=call, status=reply.status, headers=tuple(reply.headers), body=answer)


# -- what came of it --


def forwarded(status: int, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    """An upstream's error as clients of OpenAI read it: status, headers, body."""
    kept = [(name, value) for name, value in headers if name not in _NOT_FORWARDED]
    kept.append((b"content-type", b"application/json"))
    return status, tuple(kept), _error_for_openai(body, status)


def _error_for_openai(body: bytes, status: int) -> bytes:
    error = _error_in(body)
    if error is None:
        text = body.decode("utf-8", "replace").strip()[:2000]
        return error_json(
            "openai", text or f"The upstream answered {status}.", kind="api_error", code=None
        )
    try:
        foreign = msgspec.json.decode(body).get("type") == "error"
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        foreign = False
    if not foreign:
        return body
    kind = str(error.get("type") or "api_error")
    return error_json("openai", str(error.get("message") or ""), kind=kind, code=kind)


def _error_in(body: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else None


def said_of(body: bytes, status: int) -> tuple[str, str]:
    """Code and message of an upstream's error."""
    error = _error_in(body) or {}
    code = error.get("code") or error.get("type") or f"http_{status}"
    message = error.get("message") or f"The upstream answered {status}."
    return str(code)[:200], str(message)[:2000]


def outcome_of_error(error: CallError) -> Outcome:
    """How work ends that such an error ends, where no record says it."""
    if isinstance(error, UpstreamFailed) and error.timeout:
        return "timeout"
    return "denied" if error.status in (401, 403, 409, 429) else "error"


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What a call used."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano_usd: int | None = None


def used(deps: Tools, record: Interaction | None) -> Used:
    """What a call used; the price is ``None`` where it is not known."""
    if record is None:
        return Used()
    usage = record.usage
    return Used(
        input_tokens=usage.input_tokens or 0,
        output_tokens=usage.output_tokens or 0,
        cost_nano_usd=deps.price(record),
    )


async def used_by(deps: Tools, call: Call) -> Used:
    """What a call used, as its record will say: estimated where the upstream did not."""
    record = call.draft.record
    spent = used(deps, record)
    if record is None or spent.cost_nano_usd is not None:
        return spent
    written = entry(
        record,
        messages=call.messages,
        nodes=call.nodes,
        params=call.params,
        body=call.body,
        output=call.draft.output,
        response=None,
    )
    full = (await off(deps.enrich, written)).interaction
    return msgspec.structs.replace(used(deps, full), cost_nano_usd=full.cost_nano_usd)


# -- for operations of any kind --


def asker(deps: Tools) -> Ask:
    """How the work of operations asks models. ``/v1/responses`` is answered by every upstream."""

    async def ask(
        operation: Operation, principal: Principal, path: str, body: bytes, context: Any
    ) -> Answered:
        if path == "/v1/responses":
            return await _ask_response(deps, operation, principal, body, context)
        made = await _make(deps, operation, principal, path, body, context)
        return await answered(deps, made.call, made.status, made.body)

    return ask


async def answered(deps: Tools, call: Call, status: int, body: bytes) -> Answered:
    """A call's end in the words of operations."""
    record = call.draft.record
    spent = await used_by(deps, call)
    return Answered(
        call_id=call.id,
        status=status,
        body=body,
        outcome="unknown" if record is None else record.outcome,
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        cost_nano_usd=spent.cost_nano_usd,
    )


async def _make(
    deps: Tools, operation: Operation, principal: Principal, path: str, body: bytes, context: Any
) -> Made:
    """One call in an operation's run; an error of ours is an answer too."""
    headers: Headers = getattr(context, "headers", ())
    call = _call_of(deps, operation, principal, path, body, headers)
    if isinstance(call, Made):
        return call
    try:
        async with deps.runtime().call(call) as reply:
            answer = await gathered(reply)
    except CallError as error:
        return Made(
            call=call, status=error.status, headers=(), body=error_body(call.dialect, error)
        )
    return Made(call=call, status=reply.status, headers=tuple(reply.headers), body=answer)


def _call_of(
    deps: Tools,
    operation: Operation,
    principal: Principal,
    path: str,
    body: bytes,
    headers: Headers,
) -> Call | Made:
    made_headers = headers_for(
        headers,
        path=path,
        feature=operation.feature,
        run_id=operation.run_id,
        conversation_id=operation.conversation_id,
        end_user=operation.end_user,
    )
    call, refused = take_in(
        "gateway", "POST", path, b"", made_headers, principal, body, deps.clock.now_us()
    )
    call.draft.facts = {**(call.draft.facts or {}), "operation": operation.id}
    if refused is None:
        return call
    deps.runtime().refuse(call, refused)
    return Made(
        call=call, status=refused.status, headers=(), body=error_body(call.dialect, refused)
    )


async def _ask_response(
    deps: Tools, operation: Operation, principal: Principal, body: bytes, context: Any
) -> Answered:
    """A Responses request, answered by whichever upstream the model has."""
    now = deps.clock.now_us()
    ids = ItemIds(operation.id, restarts=operation.restarts)
    request = parse_response(body, ids)
    place = deps.place_of(operation.feature, request.model)
    path, wire = upstream_request(request, (), place.api, stream=False)
    made = await _make(deps, operation, principal, path, wire, context)
    done = await answered(deps, made.call, made.status, made.body)
    if made.status >= 400:
        return msgspec.structs.replace(
            done, body=forwarded(made.status, made.headers, made.body)[2]
        )
    response = skeleton(
        request,
        response_id=f"resp_{made.call.id.removeprefix('call_')}",
        created_at=now // 1_000_000,
        status="in_progress",
        conversation=None,
    )
    translator = Translator(place.api, response, ids)
    translator.whole(made.body)
    record = made.record
    translator.end(done.outcome, () if record is None else record.checks)
    return msgspec.structs.replace(done, body=msgspec.json.encode(translator.response))


__all__ = [
    "Made",
    "Used",
    "answered",
    "asker",
    "call_for",
    "forwarded",
    "gathered",
    "headers_for",
    "needs_caller",
    "outcome_of_error",
    "place_of",
    "said_of",
    "used",
    "used_by",
    "whole",
]
