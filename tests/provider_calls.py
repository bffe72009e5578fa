"""Calls for tests of providers, built as the gateway builds them."""

import json
from typing import Any

from tocsin.core.call import Call, Draft, Principal
from tocsin.core.interaction import Dialect, Operation
from tocsin.core.messages import chain
from tocsin.core.wire import parse_request

PATHS: dict[tuple[str, str], str] = {
    ("openai", "chat"): "/v1/chat/completions",
    ("openai", "text_completion"): "/v1/completions",
    ("openai", "embeddings"): "/v1/embeddings",
    ("openai", "models"): "/v1/models",
    ("openai", "other"): "/v1/files",
    ("anthropic", "chat"): "/v1/messages",
    ("anthropic", "count_tokens"): "/v1/messages/count_tokens",
}
HELLO = [{"role": "user", "content": "hello"}]


def make_call(
    messages: list[dict[str, Any]] | None = None,
    *,
    dialect: Dialect = "openai",
    operation: Operation = "chat",
    feature: str = "default",
    model: str = "gpt-4o",
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),),
    principal: Principal | None = None,
    path: str | None = None,
    query: bytes = b"",
    method: str = "POST",
    **fields: Any,
) -> Call:
    body = {"model": model, **fields}
    if operation in ("chat", "count_tokens"):
        body["messages"] = HELLO if messages is None else messages
    if operation == "models":
        method = "GET"
    data = b"" if method == "GET" else json.dumps(body).encode()
    parsed = parse_request(dialect, operation, data)
    return Call(
        id="call_1",
        source="gateway",
        dialect=dialect,
        operation=operation,
        method=method,
        path=path or PATHS[dialect, operation],
        query=query,
        headers=headers,
        body=data,
        started_at=1_700_000_000_000_000,
        feature=feature,
        principal=principal or Principal(),
        model=parsed.model or model,
        stream=parsed.stream,
        messages=parsed.messages,
        nodes=chain(parsed.messages),
        params=parsed.params,
        draft=Draft(),
    )
