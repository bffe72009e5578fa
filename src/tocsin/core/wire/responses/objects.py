"""The objects of the Responses and Conversations APIs, whole: every field that clients ask for."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tocsin.core.interaction import Usage
from tocsin.core.wire.responses.request import ResponseRequest, items_of

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode

_OURS = "tocsin-summary-1."
"""What a compaction item's content begins with when we wrote it."""

_ECHOED = (
    "prompt",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "user",
)
"""Fields that a response repeats from its request when they were in it."""


def skeleton(
    request: ResponseRequest,
    *,
    response_id: str,
    created_at: int,
    status: str,
    conversation: str | None = None,
) -> dict[str, Any]:
    """A response to ``request`` before there is anything in it. ``created_at`` is in seconds."""
    raw = request.raw
    text = raw.get("text") or {}
    reasoning = raw.get("reasoning") or {}
    response: dict[str, Any] = {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": status,
        "background": request.background,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": raw.get("max_tool_calls"),
        "metadata": request.metadata,
        "model": request.model,
        "output": [],
        "parallel_tool_calls": raw.get("parallel_tool_calls") is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "service_tier": _tier(raw.get("service_tier")),
        "store": request.store,
        "temperature": _or(raw.get("temperature"), 1.0),
        "text": {**text, "format": _format(request.format)},
        "tool_choice": request.tool_choice,
        "tools": [_tool(tool) for tool in request.tools],
        "top_logprobs": _or(raw.get("top_logprobs"), 0),
        "top_p": _or(raw.get("top_p"), 1.0),
        "presence_penalty": _or(raw.get("presence_penalty"), 0.0),
        "frequency_penalty": _or(raw.get("frequency_penalty"), 0.0),
        "truncation": request.truncation,
        "usage": None,
        "prompt_cache_key": None,
        "safety_identifier": None,
        "user": None,
    }
    response.update({name: raw[name] for name in _ECHOED if raw.get(name) is not None})
    if conversation is not None:
        response["conversation"] = {"id": conversation}
    return response


def _or(value: Any, default: float) -> Any:
    return default if value is None else value


def _tier(value: Any) -> str:
    known = ("default", "flex", "scale", "priority", "fast", "ultrafast")
    return value if value in known else "default"


def _format(value: dict[str, Any]) -> dict[str, Any]:
    if value["type"] != "json_schema":
        return value
    return {"description": None, "strict": None, **value}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def usage_object(usage: Usage | None) -> dict[str, Any]:
    """``usage`` as the API writes it, every detail present; what nobody counted is 0."""
    known = usage or Usage()
    asked, answered = known.input_tokens or 0, known.output_tokens or 0
    return {
        "input_tokens": asked,
        "input_tokens_details": {
            "cached_tokens": known.cache_read_tokens or 0,
            "cache_write_tokens": known.cache_write_tokens or 0,
        },
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": known.reasoning_tokens or 0},
        "total_tokens": asked + answered,
    }


# -- lists, conversations --


def item_list(items: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of items. The ids of its ends are empty strings when it has none."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0].get("id", "") if items else "",
        "last_id": items[-1].get("id", "") if items else "",
        "has_more": has_more,
    }


def conversation_object(
    conversation_id: str, *, created_at: int, metadata: Mapping[str, str]
) -> dict[str, Any]:
    """A conversation. ``created_at`` is in seconds."""
    return {
        "id": conversation_id,
        "object": "conversation",
        "created_at": created_at,
        "metadata": dict(metadata),
    }


def deleted(object_id: str, kind: str) -> dict[str, Any]:
    """What a deletion answers: ``kind`` is ``response`` or ``conversation``."""
    name = "response" if kind == "response" else f"{kind}.deleted"
    return {"id": object_id, "object": name, "deleted": True}


def input_tokens_object(tokens: int) -> dict[str, Any]:
    """What ``/v1/responses/input_tokens`` answers."""
    return {"object": "response.input_tokens", "input_tokens": tokens}


# -- compaction --


def compaction_object(
    response_id: str, *, created_at: int, output: Sequence[Mapping[str, Any]], usage: Usage | None
) -> dict[str, Any]:
    """What ``/v1/responses/compact`` answers: ``output`` is all user messages and one compaction
    item. ``created_at`` is in seconds."""
    return {
        "id": response_id,
        "object": "response.compaction",
        "created_at": created_at,
        "output": list(output),
        "usage": usage_object(usage),
    }


def compaction_item(
    item_id: str,
    summary: str,
    *,
    window: tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """An item that stands for the history that ``summary`` sums up.

    With a ``window`` it stands for everything before it: the summary is read between these items
    (see ``unfolded``). Its content is opaque to clients, as the API has it, but no secret: whoever
    has the item had the history.
    """
    said: dict[str, Any] = {"summary": summary}
    if window is not None:
        said["window"] = window
    content = _OURS + urlsafe_b64encode(_encode(said)).decode()
    return {"id": item_id, "type": "compaction", "encrypted_content": content}


def compaction_summary(item: Mapping[str, Any]) -> str | None:
    """The summary in a compaction item that we wrote; ``None`` for anybody else's."""
    summary = _said_in(item).get("summary")
    return summary if isinstance(summary, str) else None


def _said_in(item: Mapping[str, Any]) -> dict[str, Any]:
    content = item.get("encrypted_content")
    if not isinstance(content, str) or not content.startswith(_OURS):
        return {}
    try:
        return _decode(urlsafe_b64decode(content.removeprefix(_OURS)))
    except (Base64Error, ValueError, RecursionError, msgspec.DecodeError):
        return {}


def unfolded(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items as a model is shown them: the last compaction item with a window stands for all that
    is before it. Raises ``BadRequest`` for one whose window holds no items."""
    for index in range(len(items) - 1, -1, -1):
        if items[index].get("type") != "compaction":
            continue
        said = _said_in(items[index])
        window, summary = said.get("window"), said.get("summary")
        if isinstance(window, list) and len(window) == 2 and isinstance(summary, str):
            # Whoever sends it may have written it: its items are checked like any other.
            first, last = (items_of(part, _unnamed, f"input[{index}]") for part in window)
            made = compaction_item(str(items[index].get("id")), summary)
            return [*first, made, *last, *items[index + 1 :]]
    return list(items)


def _unnamed(prefix: str) -> str:
    return f"{prefix}_0"
