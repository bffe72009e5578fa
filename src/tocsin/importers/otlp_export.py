"""OpenTelemetry out: interactions as OTLP spans with the latest GenAI attribute names.

Pure: bytes in, bytes out; the worker sends them. A call that came in as a span goes out under its
own ids; any other gets ids derived from its run and call, the same each time.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from tocsin.core.interaction import Entry, Interaction, Usage
from tocsin.core.messages import Message
from tocsin.importers.messages import decoded

_encode = msgspec.json.Encoder().encode
_NOT_SENT = frozenset({"trace_id", "span_id", "parent_span_id", "span_name", "time"})
_HEX = frozenset("0123456789abcdef")
_BAD = frozenset({"error", "timeout", "cancelled", "denied", "invalid"})
_KIND_INTERNAL, _KIND_CLIENT = 1, 3
_STATUS_ERROR = 2
_INTERNAL = frozenset({"execute_tool", "invoke_workflow", "plan"})


def encode(
    entries: Iterable[Entry],
    *,
    content: bool = False,
    resource: Mapping[str, str] | None = None,
) -> bytes:
    """A binary ``ExportTraceServiceRequest`` with one span for each entry.

    ``content`` adds messages, tool arguments and results; without it no text that a user or a
    model wrote leaves. ``resource`` describes the sender (``service.name`` is ``tocsin`` unless it
    says otherwise).
    """
    # Imported here because it takes 60 ms and 15 MB, and most processes export nothing.
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    for key, value in {"service.name": "tocsin", **(resource or {})}.items():
        _put(group.resource.attributes, key, value)
    scope = group.scope_spans.add()
    scope.scope.name = "tocsin"
    for entry in entries:
        _span(scope.spans.add(), entry, content)
    encoded: bytes = request.SerializeToString()
    return encoded


def trace_id(interaction: Interaction) -> bytes:
    """16 bytes: the trace that the call came from, else derived from its run."""
    own = interaction.attributes.get("trace_id", "")
    return _from_hex(own, 16) or blake2b(interaction.run_id.encode(), digest_size=16).digest()


def span_id(interaction: Interaction) -> bytes:
    """8 bytes: the span that the call came from, else derived from its id."""
    own = interaction.attributes.get("span_id", "")
    return _from_hex(own, 8) or _derived(interaction.id)


def _derived(call_id: str) -> bytes:
    return blake2b(call_id.encode(), digest_size=8).digest()


def _from_hex(text: str, size: int) -> bytes | None:
    if len(text) != 2 * size or not _HEX.issuperset(text):
        return None
    return bytes.fromhex(text)


def _span(into: Any, entry: Entry, content: bool) -> None:
    call = entry.interaction
    into.trace_id, into.span_id = trace_id(call), span_id(call)
    parent = _from_hex(call.attributes.get("parent_span_id", ""), 8)
    if parent is not None:
        into.parent_span_id = parent
    elif call.parent_id is not None:
        into.parent_span_id = _derived(call.parent_id)
    into.name = f"{call.operation} {_subject(call)}".rstrip()
    into.kind = _KIND_INTERNAL if call.operation in _INTERNAL else _KIND_CLIENT
    into.start_time_unix_nano = max(0, call.started_at) * 1000
    into.end_time_unix_nano = max(0, call.started_at + call.duration_us) * 1000
    if call.outcome in _BAD:
        into.status.code = _STATUS_ERROR
        into.status.message = call.error_message or call.outcome
    for key, value in {**_facts(call), **(_said(entry) if content else {})}.items():
        if value is not None:
            _put(into.attributes, key, value)


def _subject(call: Interaction) -> str:
    """What a span's name says after the operation: the tool, the agent or the model."""
    if call.operation == "execute_tool":
        return call.attributes.get("gen_ai.tool.name", "")
    return call.agent or "" if call.operation in _INTERNAL else call.request_model


def _facts(call: Interaction) -> dict[str, Any]:
    """Everything but content, under the conventions' names where they have one."""
    usage: Usage = call.usage
    kept = {key: text for key, text in call.attributes.items() if key not in _NOT_SENT}
    cost = call.cost_nano_usd
    return {
        **kept,
        "gen_ai.operation.name": call.operation,
        "gen_ai.provider.name": call.provider or call.upstream,
        "gen_ai.request.model": call.request_model or None,
        "gen_ai.request.stream": call.stream or None,
        "gen_ai.response.model": call.response_model,
        "gen_ai.response.id": call.response_id,
        "gen_ai.response.finish_reasons": [call.finish_reason] if call.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": _seconds(call.first_chunk_us),
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_write.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "gen_ai.conversation.id": call.conversation_id,
        "gen_ai.agent.name": call.agent,
        "user.id": call.end_user,
        "error.type": (call.error_type or call.outcome) if call.outcome in _BAD else None,
        "http.response.status_code": call.status,
        "tocsin.run": call.run_id,
        "tocsin.feature": call.feature,
        "tocsin.release": call.release,
        "tocsin.outcome": call.outcome,
        "tocsin.checks": [f"{c.name}={c.verdict}" for c in call.checks] or None,
        "tocsin.usage.source": usage.source,
        "tocsin.cost.usd": cost / 1e9 if cost is not None else None,
        "tocsin.attempts": len(call.attempts) or None,
    }


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6


def _said(entry: Entry) -> dict[str, Any]:
    """The content: messages as parts, and a tool's arguments and result."""
    call = entry.interaction
    found: dict[str, Any] = {}
    if entry.input:
        found["gen_ai.input.messages"] = _encode([_message(m) for m in entry.input]).decode()
    if entry.output is not None:
        answer = {**_message(entry.output), "finish_reason": call.finish_reason or "stop"}
        found["gen_ai.output.messages"] = _encode([answer]).decode()
    blobs = {blob.hash: blob.data.decode(errors="replace") for blob in entry.blobs}
    if call.operation == "execute_tool":
        found["gen_ai.tool.call.arguments"] = blobs.get(call.request_body or b"")
        found["gen_ai.tool.call.result"] = blobs.get(call.response_body or b"")
    tools = decoded(blobs.get(call.params or b"", ""))
    if isinstance(tools, dict) and tools.get("tools"):
        found["gen_ai.tool.definitions"] = _encode(tools["tools"]).decode()
    return found


def _message(message: Message) -> dict[str, Any]:
    """A message as the conventions' role and parts."""
    wire = msgspec.json.decode(message.raw)
    wire = wire if isinstance(wire, dict) else {"content": wire}
    parts: list[Any] = []
    content = wire.get("content")
    if message.role == "tool":
        call_id = message.answers[0] if message.answers else ""
        part = {"type": "tool_call_response", "id": call_id, "response": content}
        return {"role": "tool", "parts": [part]}
    if isinstance(content, str):
        parts = [{"type": "text", "content": content}] if content else []
    elif isinstance(content, list):
        parts = [_part(block) for block in content if not _is_call(block)]
    for call in message.calls:
        arguments = decoded(call.arguments)
        parts.append(
            {
                "type": "tool_call",
                "id": call.id,
                "name": call.name,
                "arguments": call.arguments if arguments is None else arguments,
            }
        )
    return {"role": message.role, "parts": parts}


def _is_call(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_use"


def _part(block: Any) -> Any:
    """A content block of either provider dialect as a part."""
    if not isinstance(block, dict):
        return {"type": "text", "content": str(block)}
    kind = block.get("type")
    if kind in ("text", "input_text", "output_text"):
        return {"type": "text", "content": block.get("text")}
    if kind == "tool_result":
        call_id = block.get("tool_use_id")
        return {"type": "tool_call_response", "id": call_id, "response": block.get("content")}
    image = block.get("image_url")
    if kind == "image_url" and isinstance(image, dict):
        return {"type": "uri", "modality": "image", "uri": image.get("url")}
    return block


def _put(attributes: Any, key: str, value: Any) -> None:
    pair = attributes.add()
    pair.key = key
    if isinstance(value, bool):
        pair.value.bool_value = value
    elif isinstance(value, int):
        pair.value.int_value = value
    elif isinstance(value, float):
        pair.value.double_value = value
    elif isinstance(value, list):
        for item in value:
            pair.value.array_value.values.add().string_value = item
    else:
        pair.value.string_value = value
