"""Other systems' messages in OpenAI's shape.

One shape for all makes the same message the same content: a history that is sent again in the next
span (or was recorded by the gateway) is stored once. Values come from strangers, so every access
checks its type and nothing raises.
"""

from typing import Any

import msgspec

from tocsin.core.wire import exceeds_depth

Wire = dict[str, Any]
"""A message in OpenAI's shape."""

MAX_DEPTH = 64
"""Arrays and objects inside each other in message JSON."""
MAX_MESSAGES = 20_000
_MAX_PARTS = 10_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def decoded(value: Any) -> Any:
    """A structured attribute: as it is, or decoded where it was sent as JSON text."""
    if isinstance(value, str):
        if value[:1] not in "[{" or not value:
            return None
        if exceeds_depth(value.encode(errors="replace"), MAX_DEPTH):
            return None
        try:
            return _decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
    return value


def as_text(value: Any) -> str:
    """Text as it is; anything else as JSON; nothing as empty text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    try:
        return _encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return str(value)


def messages_of(value: Any, role: str = "user") -> list[Wire]:
    """Messages from a list, an object, JSON text or bare text; ``role`` where none is said."""
    plain = decoded(value)
    if isinstance(plain, dict):
        inner = plain.get("messages")
        if isinstance(inner, list):
            plain = inner
        elif not _SAYING.isdisjoint(plain):
            plain = [plain]
    if not isinstance(plain, list):
        text = as_text(value)
        return [{"role": role, "content": text}] if text else []
    messages: list[Wire] = []
    for item in plain[:MAX_MESSAGES]:
        if isinstance(item, dict):
            messages.extend(message_of(item, role))
        elif isinstance(item, list):
            # LangChain nests one list of messages for each prompt of a batch.
            messages.extend(m for one in item if isinstance(one, dict) for m in message_of(one))
        elif isinstance(item, str):
            messages.append({"role": role, "content": item})
    return messages


_SAYING = frozenset({"role", "content", "parts", "tool_calls"})
"""Fields one of which makes an object a message; any other object is content itself."""
ROLES = {"human": "user", "ai": "assistant", "model": "assistant", "function": "tool"}
_SAME = ("name", "tool_call_id", "reasoning_content")


def message_of(item: Wire, role: str = "user") -> list[Wire]:
    """One message of OpenTelemetry's shape, or of a provider's own, as one or more of OpenAI's.

    A message that carries several tool results becomes one message for each.
    """
    said_role = item.get("role")
    role = said_role.lower() if isinstance(said_role, str) and said_role else role
    role = ROLES.get(role, role)
    parts = item.get("parts")
    if not isinstance(parts, list):
        if _SAYING.isdisjoint(item):
            item = {"content": as_text(item)}
        return [plain_message(item, role)]
    results = [part for part in parts[:_MAX_PARTS] if kind_of(part) in _RESULT_KINDS]
    messages: list[Wire] = [
        {"role": "tool", "tool_call_id": as_text(part.get("id")), "content": _result(part)}
        for part in results
    ]
    if results and len(results) == len(parts):
        return messages
    message: Wire = {"role": role, "content": content_of(parts) or None}
    if isinstance(name := item.get("name"), str) and name:
        message["name"] = name
    calls = [_call(part) for part in parts[:_MAX_PARTS] if kind_of(part) == "tool_call"]
    if calls:
        message["tool_calls"] = calls
    thought = [p.get("content") for p in parts[:_MAX_PARTS] if kind_of(p) in _THOUGHT_KINDS]
    if thought:
        message["reasoning_content"] = "\n".join(t for t in thought if isinstance(t, str))
    if message["content"] is None and not calls:
        message["content"] = ""
    return [*messages, message]


_RESULT_KINDS = ("tool_call_response", "tool_result")
_THOUGHT_KINDS = ("reasoning", "thinking")
_NO_CONTENT = ("tool_call", *_RESULT_KINDS, *_THOUGHT_KINDS)


def kind_of(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else ""


def _result(part: Wire) -> str:
    for name in ("response", "result", "content"):
        if name in part:
            return as_text(part[name])
    return ""


def _call(part: Wire) -> Wire:
    function = {"name": as_text(part.get("name")), "arguments": as_text(part.get("arguments"))}
    return {"id": as_text(part.get("id")), "type": "function", "function": function}


def content_of(parts: list[Any]) -> str | list[Any]:
    """Content of OpenTelemetry parts: bare text where there is nothing else."""
    blocks: list[Any] = []
    for part in parts[:_MAX_PARTS]:
        kind = kind_of(part)
        if kind in _NO_CONTENT:
            continue
        if kind == "text" or (not kind and isinstance(part, str)):
            text = part if isinstance(part, str) else part.get("content", part.get("text"))
            blocks.append({"type": "text", "text": as_text(text)})
        elif isinstance(part, dict):
            blocks.append(_media(part, kind))
    if all(block.get("type") == "text" for block in blocks) and len(blocks) <= 1:
        return blocks[0]["text"] if blocks else ""
    return blocks


def _media(part: Wire, kind: str) -> Wire:
    """Images and files in OpenAI's shape; what it has no shape for stays as it came."""
    modality = part.get("modality")
    if kind == "uri" and modality == "image":
        return {"type": "image_url", "image_url": {"url": as_text(part.get("uri"))}}
    if kind == "blob" and modality == "image":
        url = f"data:{as_text(part.get('mime_type'))};base64,{as_text(part.get('content'))}"
        return {"type": "image_url", "image_url": {"url": url}}
    if kind == "file":
        return {"type": "file", "file": {"file_id": as_text(part.get("file_id"))}}
    return part


def plain_message(item: Wire, role: str) -> Wire:
    """A provider's own message without the keys that no model reads."""
    content = item.get("content")
    if not isinstance(content, str | list | None):
        content = as_text(content)
    if isinstance(content, list):
        content = [block for block in content if isinstance(block, dict)] or as_text(content)
    message: Wire = {"role": role, "content": content}
    for name in _SAME:
        if isinstance(value := item.get(name), str) and value:
            message[name] = value
    if role == "tool" and "tool_call_id" not in message and isinstance(item.get("id"), str):
        message["tool_call_id"] = item["id"]
    calls = item.get("tool_calls")
    if isinstance(calls, str):
        calls = decoded(calls)
    if isinstance(calls, list) and calls:
        message["tool_calls"] = [tool_call(call) for call in calls if isinstance(call, dict)]
    return message


def tool_call(call: Wire) -> Wire:
    """A tool call in OpenAI's shape, whether or not its function is nested."""
    function = call.get("function")
    inner = function if isinstance(function, dict) else call
    arguments = inner.get("arguments", inner.get("args", inner.get("input")))
    return {
        "id": as_text(call.get("id")),
        "type": "function",
        "function": {"name": as_text(inner.get("name")), "arguments": as_text(arguments)},
    }
