"""A request as one of Anthropic's messages.

A JSON schema goes into ``output_config.format``, the API's own way since structured outputs left
their beta; it takes closed objects and few constraints, so the others are told in the description
(as Anthropic's client does). ``json_object`` has no such way and becomes an instruction.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tocsin.core.wire.responses.request import ResponseRequest
from tocsin.core.wire.responses.schemas import closed
from tocsin.core.wire.responses.upstream_items import (
    is_silent,
    no_part,
    no_tool,
    no_words,
    summary_of,
    text_of_parts,
    unseal,
)

Item = Mapping[str, Any]
Body = dict[str, Any]

CUSTOM_FIELD = "input"
"""The one field of the input of a tool that takes plain text."""

_API = "messages"
_JSON_ONLY = "Answer with one JSON object and nothing else."
_OPENING = "(The conversation so far.)"
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9_-]")
_DATA_URL = re.compile(r"data:([^;,]+)(?:;[^,]*)?;base64,(.*)\Z", re.DOTALL)
_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
_decode = msgspec.json.Decoder().decode


def messages_body(
    request: ResponseRequest, items: Sequence[Item], *, stream: bool, max_tokens: int
) -> Body:
    """The body of ``/v1/messages``. Raises ``BadRequest`` for what it has no words for."""
    raw = request.raw
    system, rest = _system(request, items)
    body: Body = {
        "model": request.model,
        "max_tokens": request.max_output_tokens or max_tokens,
        "messages": _messages(rest),
    }
    if system:
        body["system"] = system
    if stream:
        body["stream"] = True
    tools = [_tool(tool, index) for index, tool in enumerate(request.tools)]
    if tools:
        choice, tools = _choice(request, tools)
        body["tools"] = tools
        if choice is not None:
            body["tool_choice"] = choice
    _add_thinking(body, raw.get("reasoning") or {})
    if "thinking" not in body:
        if raw.get("temperature") is not None:
            body["temperature"] = min(raw["temperature"], 1)
        if raw.get("top_p") is not None:
            body["top_p"] = raw["top_p"]
    if request.schema is not None:
        output = body.setdefault("output_config", {})
        output["format"] = {"type": "json_schema", "schema": closed(request.schema)}
    user = raw.get("safety_identifier") or raw.get("user")
    if isinstance(user, str):
        body["metadata"] = {"user_id": user}
    return body


def _add_thinking(body: Body, reasoning: Mapping[str, Any]) -> None:
    effort = _EFFORTS.get(reasoning.get("effort") or "")
    if effort is None:
        return
    body["output_config"] = {"effort": effort}
    if (body.get("tool_choice") or {}).get("type") not in ("any", "tool"):
        # A model that must call a tool may not think first.
        body["thinking"] = {"type": "adaptive", "display": "summarized"}


def _system(request: ResponseRequest, items: Sequence[Item]) -> tuple[str, Sequence[Item]]:
    """Instructions with the system messages that begin the history, and what follows them."""
    said = [request.instructions] if request.instructions else []
    place = 0
    for item in items:
        if item.get("type") != "message" or item.get("role") not in ("system", "developer"):
            break
        said.append(text_of_parts(item.get("content")))
        place += 1
    if request.format["type"] == "json_object":
        said.append(_JSON_ONLY)
    return "\n\n".join(text for text in said if text), items[place:]


# -- messages --


def _messages(items: Sequence[Item]) -> list[Body]:
    """Messages whose roles alternate, the user's first."""
    messages: list[Body] = []
    for item in items:
        role, blocks = _blocks(item)
        if not blocks:
            continue
        if not messages and role == "assistant":
            messages.append({"role": "user", "content": [{"type": "text", "text": _OPENING}]})
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    for message in messages:
        if message["role"] == "user":
            # Tool results have to come first; the sort keeps the order of the others.
            message["content"].sort(key=lambda block: block["type"] != "tool_result")
    return messages


def _blocks(item: Item) -> tuple[str, list[Body]]:
    """Who says an item, and its content blocks; none where there is nothing to say."""
    kind = item.get("type")
    if kind == "message":
        if item.get("role") == "assistant":
            return "assistant", _said(item.get("content") or ())
        return "user", _parts(item.get("content") or ())
    if kind in ("function_call", "custom_tool_call"):
        return "assistant", [_call(item)]
    if kind in ("function_call_output", "custom_tool_call_output"):
        return "user", [_result(item)]
    if kind == "reasoning":
        return "assistant", _thinking(item)
    if kind == "compaction":
        return "user", [{"type": "text", "text": summary_of(item, _API)}]
    if is_silent(item):
        return "user", []
    raise no_words(item, _API)


def _said(parts: Sequence[Mapping[str, Any]]) -> list[Body]:
    texts = [part.get("text") or part.get("refusal") for part in parts]
    return [{"type": "text", "text": text} for text in texts if text]


def _parts(parts: Sequence[Mapping[str, Any]]) -> list[Body]:
    # The API refuses an empty text block.
    return [_part(part) for part in parts if part.get("type") != "input_text" or part.get("text")]


def _thinking(item: Item) -> list[Body]:
    sealed = unseal(item)
    if sealed is None:
        return []
    kind, data = sealed
    if kind == "redacted":
        return [{"type": "redacted_thinking", "data": data}]
    text = text_of_parts(item.get("summary"))
    return [{"type": "thinking", "thinking": text, "signature": data}]


def _call(item: Item) -> Body:
    if item["type"] == "custom_tool_call":
        given: Any = {CUSTOM_FIELD: item["input"]}
    else:
        try:
            given = _decode(item["arguments"] or "{}")
        except (msgspec.DecodeError, RecursionError):
            given = None
        if not isinstance(given, dict):
            given = {"_text": item["arguments"]}
    return {"type": "tool_use", "id": _id(item), "name": item["name"], "input": given}


def _result(item: Item) -> Body:
    output = item.get("output")
    content = output if isinstance(output, str) else _parts(output or ())
    return {"type": "tool_result", "tool_use_id": _id(item), "content": content}


def _id(item: Item) -> str:
    return _NOT_IN_ID.sub("_", item["call_id"]) or "call"


def _part(part: Mapping[str, Any]) -> Body:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": part.get("text", "")}
    if kind == "input_image":
        source = _source(part.get("image_url"), part.get("file_id"))
        if source is None:
            raise no_part(part, _API, "send it as image_url")
        return {"type": "image", "source": source}
    if kind == "input_file":
        url = part.get("file_data") or part.get("file_url")
        source = _source(url, part.get("file_id"))
        if source is None:
            raise no_part(part, _API, "send it as file_url, or as a data URL in file_data")
        title = {"title": part["filename"]} if part.get("filename") else {}
        return {"type": "document", "source": source, **title}
    raise no_part(part, _API, "it has no words for it")


def _source(url: Any, file_id: Any) -> Body | None:
    if isinstance(url, str):
        data = _DATA_URL.match(url)
        if data is not None:
            return {"type": "base64", "media_type": data[1], "data": data[2]}
        if url.startswith(("https://", "http://")):
            return {"type": "url", "url": url}
    return {"type": "file", "file_id": file_id} if isinstance(file_id, str) else None


# -- tools --


def _tool(tool: Mapping[str, Any], index: int) -> Body:
    kind = tool["type"]
    if kind == "function":
        schema = {"type": "object", "properties": {}, **(tool.get("parameters") or {})}
    elif kind == "custom":
        schema = {
            "type": "object",
            "properties": {CUSTOM_FIELD: {"type": "string"}},
            "required": [CUSTOM_FIELD],
        }
    else:
        raise no_tool(index, kind, _API)
    found = {"name": tool["name"], "input_schema": schema}
    if tool.get("description"):
        found["description"] = tool["description"]
    return found


def _choice(request: ResponseRequest, tools: list[Body]) -> tuple[Body | None, list[Body]]:
    """Which tool to use, and the tools that are left to choose from."""
    choice: Any = request.tool_choice
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        names = {tool.get("name") for tool in choice.get("tools") or ()}
        tools = [tool for tool in tools if tool["name"] in names]
        choice = choice.get("mode", "auto")
    if isinstance(choice, dict):
        found: Body = {"type": "tool", "name": choice.get("name")}
    else:
        found = {"type": {"required": "any", "none": "none"}.get(choice, "auto")}
    if request.raw.get("parallel_tool_calls") is False and found["type"] != "none":
        found["disable_parallel_tool_use"] = True
    return (None if found == {"type": "auto"} else found), tools
