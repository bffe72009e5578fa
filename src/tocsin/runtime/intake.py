"""How a request becomes a ``Call``: the routes, what its headers say, what its body asks.

Every front door takes its calls in here, so that one app gets the same record and the same rules
whichever door it came through.
"""

from typing import NamedTuple

from tocsin.core.call import Call, Draft, Headers, Principal
from tocsin.core.credentials import PREFIX
from tocsin.core.errors import BadRequest, CallError, Forbidden
from tocsin.core.ids import is_safe_id, new_id
from tocsin.core.interaction import Dialect, Operation, Source
from tocsin.core.messages import chain
from tocsin.core.wire import ParsedRequest, parse_request
from tocsin.runtime.meaning import headers_of

ROUTES: dict[str, tuple[Dialect, Operation]] = {
    "/v1/chat/completions": ("openai", "chat"),
    "/v1/completions": ("openai", "text_completion"),
    "/v1/embeddings": ("openai", "embeddings"),
    "/v1/responses": ("openai", "generate_content"),
    "/v1/models": ("openai", "models"),
    "/v1/messages": ("anthropic", "chat"),
    "/v1/messages/count_tokens": ("anthropic", "count_tokens"),
}
"""Paths whose bodies are read; any other under ``/v1/`` passes through, operation ``other``."""

ERROR_HEADER = b"tocsin-error"
"""Header of an answer that is an error of ours, whatever the dialect: its code."""

_NOTHING = ParsedRequest()


def dialect_of(path: str, headers: Headers) -> Dialect:
    """Of a path that both dialects may have: clients of Anthropic always send their version."""
    known = ROUTES.get(path)
    if known is not None and known[1] != "models":
        return known[0]
    for name, _ in headers:
        if name == b"anthropic-version":
            return "anthropic"
    return "openai"


def take_in(
    source: Source,
    method: str,
    path: str,
    query: bytes,
    headers: Headers,
    principal: Principal,
    body: bytes,
    now_us: int,
) -> tuple[Call, CallError | None]:
    """The call, and what is wrong with it: a call that is refused is recorded all the same.

    ``headers`` have their names in lower case; ``body`` is whole and decompressed.
    """
    dialect, operation = ROUTES.get(path) or (dialect_of(path, headers), "other")
    if operation == "models":
        dialect = dialect_of(path, headers)
    said = _said(headers)
    name_of = _feature(said.feature, principal)
    refused: CallError | None = None
    parsed = _NOTHING
    try:
        _check_request(name_of, query, principal)
        if body or method == "POST":
            parsed = parse_request(dialect, operation, body)
    except CallError as error:
        refused = error
    call = Call(
        id=new_id("call", now_us),
        source=source,
        dialect=dialect,
        operation=operation,
        method=method,
        path=path,
        query=query,
        headers=headers,
        body=body,
        started_at=now_us,
        feature=name_of or "default",
        principal=principal,
        end_user=said.user or parsed.end_user,
        release=said.release,
        agent=said.agent,
        model=parsed.model,
        stream=parsed.stream,
        max_output_tokens=parsed.max_output_tokens,
        messages=parsed.messages,
        nodes=chain(parsed.messages),
        params=parsed.params,
        draft=_draft(parsed, said),
    )
    return call, refused


def _draft(parsed: ParsedRequest, said: "_Said") -> Draft:
    refs = parsed.response_ref, parsed.conversation_ref
    return Draft(response_ref=refs[0], conversation_ref=refs[1], facts=said.facts)


def feature_of(headers: Headers, query: bytes, principal: Principal) -> str:
    """The feature of a request that is no call itself.

    Raises ``BadRequest`` or ``Forbidden`` unless it is one that the key may call, as ``take_in``
    finds it.
    """
    name = _feature(_said(headers).feature, principal)
    _check_request(name, query, principal)
    return name or "default"


def _check_request(name: str | None, query: bytes, principal: Principal) -> None:
    _check_feature(name, principal)
    if PREFIX in query:
        raise BadRequest(
            "A Tocsin key stands in the URL, where logs of others would keep it. Send it "
            "as a header, and revoke this one.",
            code="key_in_url",
        )


def answer_headers(call: Call) -> list[tuple[bytes, bytes]]:
    """What Tocsin adds to an answer's head: the call, its run, and what policies have to say.

    Of a whole answer also what it means; of a stream that is known only after its head has gone.
    """
    headers = [(b"tocsin-call-id", call.id.encode())]
    draft = call.draft
    if draft.identity is not None:
        headers.append((b"tocsin-run-id", draft.identity.run_id.encode()))
    if draft.notices:
        headers += draft.notices
    record = draft.record
    if record is not None and record.checks:
        headers += headers_of(record.outcome, record.checks)
    return headers


class _Said(NamedTuple):
    """What the caller's ``tocsin-`` headers say."""

    feature: bytes | None = None
    user: str | None = None
    agent: str | None = None
    release: str | None = None
    facts: dict[str, str] | None = None
    """Attributes of the record by which its feature's signals are sliced."""


_NOTHING_SAID = _Said()


def _said(headers: Headers) -> _Said:
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name[:7] == b"tocsin-":
            found[name] = value
    if not found:
        return _NOTHING_SAID
    facts = {
        name: text
        for name, header in (("cohort", b"tocsin-cohort"), ("prompt", b"tocsin-prompt"))
        if (text := _text(found, header, 120))
    }
    return _Said(
        feature=found.get(b"tocsin-feature"),
        user=_text(found, b"tocsin-user", 512),
        agent=_text(found, b"tocsin-agent", 200),
        release=_text(found, b"tocsin-release", 120) or None,
        facts=facts or None,
    )


def _text(found: dict[bytes, bytes], name: bytes, most: int) -> str | None:
    value = found.get(name)
    return None if value is None else value.decode("latin-1")[:most]


def _check_feature(feature: str | None, principal: Principal) -> None:
    """Raises ``BadRequest`` or ``Forbidden`` unless this is a feature that the key may call."""
    if feature is None:
        raise BadRequest("tocsin-feature: 1 to 128 letters, digits, '.', '_', ':' or '-'.")
    if not principal.may_call(feature):
        allowed = ", ".join(principal.features)
        raise Forbidden(f"this key may not call the feature '{feature}', only: {allowed}")


def _feature(said: bytes | None, principal: Principal) -> str | None:
    """The feature of a call; ``None`` when the header cannot be a feature's name."""
    if said is not None:
        text = said.decode("latin-1")
        return text if is_safe_id(text) else None
    return principal.features[0] if len(principal.features) == 1 else "default"
