"""``POST /v1/responses/input_tokens``: how long a request is, before it is made.

An upstream that can count is asked, when somebody has a key for it: the number is its own then.
Every other number is an estimate from the shape of the text (``providers/tokens.py``), in which
images and files count nothing. The answer's ``tocsin.estimated`` says which it is.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from tocsin.core.errors import BadRequest, CallError
from tocsin.core.ids import new_id
from tocsin.core.wire.responses import (
    ResponseRequest,
    input_tokens_object,
    read_object,
    request_from,
    upstream_request,
)
from tocsin.providers.tokens import PER_MESSAGE, TokenCounter, text_of_message
from tocsin.responses.asking import needs_caller, whole
from tocsin.responses.deps import Answer, Deps, Place, Request
from tocsin.responses.history import History, Item, history_of, resolved

_COUNTERS = {
    "messages": (
        "/v1/messages/count_tokens",
        frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking"}),
    ),
    "responses": (
        "/v1/responses/input_tokens",
        frozenset(
            {
                "model", "input", "instructions", "tools", "tool_choice", "text", "reasoning",
                "parallel_tool_calls", "truncation",
            }
        ),
    ),
}  # fmt: skip
"""Who can count: the path, and the fields of a request that the path takes."""


async def input_tokens(deps: Deps, request: Request) -> Answer:
    """Answer ``POST /v1/responses/input_tokens``. Raises ``CallError``."""
    asked = request_from(read_object(request.body), lambda prefix: new_id(prefix, request.now))
    history = await history_of(deps, request.principal, asked)
    own = await resolved(deps, request.principal, asked.items, history.items)
    asked = msgspec.structs.replace(asked, items=tuple(own))
    counted = await _counted(deps, request, asked, history)
    tokens = estimate(asked, history.items) if counted is None else counted
    return Answer(body={**input_tokens_object(tokens), "tocsin": {"estimated": counted is None}})


async def _counted(
    deps: Deps, request: Request, asked: ResponseRequest, history: History
) -> int | None:
    """The upstream's own count; ``None`` where it has none to give."""
    try:
        place = deps.place_of(request.feature, asked.model)
    except CallError:
        return None
    counter = _COUNTERS.get(place.api)
    if counter is None or not _has_key(place, request):
        return None
    path, fields = counter
    body = msgspec.json.decode(upstream_request(asked, history.items, place.api, stream=False)[1])
    try:
        made = await whole(
            deps,
            path,
            msgspec.json.encode({k: v for k, v in body.items() if k in fields}),
            headers=request.headers,
            principal=request.principal,
            feature=request.feature,
            run_id=history.run_id,
            conversation_id=asked.conversation_id,
            facts={},
        )
    except CallError:
        return None
    return _number_in(made.body) if made.status == 200 else None


def _has_key(place: Place, request: Request) -> bool:
    return place.own_credential or needs_caller(request.headers)


def _number_in(body: bytes) -> int | None:
    try:
        value = msgspec.json.decode(body).get("input_tokens")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError):
        return None
    return value if isinstance(value, int) and value >= 0 else None


def estimate(asked: ResponseRequest, history: Sequence[Item]) -> int:
    """About how many tokens a request is with what came before it, tools and schema included."""
    body = _as_chat(asked, history)
    count = TokenCounter()
    encoded = [msgspec.json.encode(message) for message in body["messages"]]
    tokens = sum(PER_MESSAGE + count(text_of_message(message)) for message in encoded)
    for name in ("tools", "response_format"):
        if body.get(name):
            tokens += count(msgspec.json.encode(body[name]).decode())
    return tokens


def _as_chat(asked: ResponseRequest, history: Sequence[Item]) -> dict[str, Any]:
    """The request as chat messages; items that chat has no words for stand as they are."""
    try:
        body: dict[str, Any] = msgspec.json.decode(
            upstream_request(asked, history, "chat", stream=False)[1]
        )
    except BadRequest:
        body = msgspec.json.decode(upstream_request(asked, history, "responses", stream=False)[1])
        body["messages"] = [{"content": asked.instructions or ""}, *body["input"]]
    return body


__all__ = ["estimate", "input_tokens"]
