"""Calls made by hand, for tests of what stands on the request path."""

import json
from typing import Any

from tocsin.core.call import Call, Draft, Principal
from tocsin.core.interaction import Interaction
from tocsin.core.messages import chain, link, parse_message

_COUNT = iter(range(10**9))


def message(role: str, content: Any = "", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(
    messages: list[dict[str, Any]],
    *,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    feature: str = "default",
    key_id: str | None = None,
    end_user: str | None = None,
    at: int | None = None,
    call_id: str | None = None,
    response_ref: str | None = None,
    conversation_ref: str | None = None,
) -> Call:
    number = next(_COUNT)
    parsed = tuple(parse_message(json.dumps(m).encode()) for m in messages)
    return Call(
        id=call_id or f"call_{number:06d}",
        source="gateway",
        dialect="openai",
        operation="chat",
        method="POST",
        path="/v1/chat/completions",
        headers=headers,
        body=json.dumps({"model": "m", "messages": messages}).encode(),
        started_at=at if at is not None else 1_700_000_000_000_000 + number,
        feature=feature,
        principal=Principal(key_id=key_id),
        end_user=end_user,
        model="m",
        messages=parsed,
        nodes=chain(parsed),
        params=b'{"model":"m"}',
        draft=Draft(response_ref=response_ref, conversation_ref=conversation_ref),
    )


def answered(
    asked: Call, answer: dict[str, Any] | None, *, response_id: str | None = None
) -> Interaction:
    """The record of a call that was answered so; it also fills the draft's tool ids."""
    identity = asked.draft.identity
    assert identity is not None
    input_node = asked.nodes[-1].hash if asked.nodes else None
    output_node = None
    if answer is not None:
        output = parse_message(json.dumps(answer).encode())
        asked.draft.tool_ids = tuple(tool.id for tool in output.calls)
        output_node = link(input_node or bytes(16), output.hash)
    return Interaction(
        id=asked.id,
        source="gateway",
        dialect="openai",
        operation="chat",
        path=asked.path,
        started_at=asked.started_at,
        duration_us=1000,
        outcome="complete",
        feature=asked.feature,
        key_id=asked.principal.key_id,
        end_user=asked.end_user,
        run_id=identity.run_id,
        run_source=identity.run_source,
        conversation_id=identity.conversation_id,
        request_model="m",
        response_id=response_id,
        input_node=input_node,
        output_node=output_node,
    )
