"""What a span says of messages, in each of the dialects that instrumentations write."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from tocsin.importers.messages import (
    MAX_MESSAGES,
    ROLES,
    Wire,
    as_text,
    content_of,
    decoded,
    kind_of,
    message_of,
    messages_of,
    plain_message,
)
from tocsin.importers.otlp_wire import Value, WireEvent, WireSpan


class Said(msgspec.Struct):
    """What went in and what came out. ``finish`` is the answer's own finish reason."""

    input: list[Wire] = msgspec.field(default_factory=list)
    output: list[Wire] = msgspec.field(default_factory=list)
    finish: str | None = None


def said(span: WireSpan) -> Said:
    """The messages of a span, from the first dialect in which it has any."""
    found = Said()
    for read in _READERS:
        if read(span, found):
            break
    return found


# -- OpenTelemetry GenAI 1.37 and later: parts --


def _structured(span: WireSpan, found: Said) -> bool:
    """``gen_ai.input.messages`` and friends, on the span or on its details event."""
    for attributes in _places(span):
        asked = attributes.get("gen_ai.input.messages")
        answered = attributes.get("gen_ai.output.messages")
        system = attributes.get("gen_ai.system_instructions")
        if asked is None and answered is None and system is None:
            continue
        found.input = messages_of(asked)
        if system is not None and not (found.input and found.input[0].get("role") == "system"):
            found.input[:0] = _system(system)
        found.output = _answers(answered, found)
        return True
    return False


def _places(span: WireSpan) -> Iterator[dict[str, Value]]:
    yield span.attributes
    for event in span.events:
        if event.name in (
            "gen_ai.client.inference.operation.details",
            "gen_ai.client.operation.details",
        ):
            yield event.attributes


def _system(value: Value) -> list[Wire]:
    parts = decoded(value)
    if isinstance(parts, list):
        content = content_of(parts)
        return [{"role": "system", "content": content}] if content else []
    text = as_text(value)
    return [{"role": "system", "content": text}] if text else []


def _answers(value: Value, found: Said) -> list[Wire]:
    items = decoded(value)
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and isinstance(reason := item.get("finish_reason"), str):
            found.finish = reason
            break
    return messages_of(items if items is not None else value, role="assistant")


# -- OpenInference and OpenLLMetry: one attribute for each field --


@lru_cache(4096)
def _split(key: str, skip: int) -> tuple[int, str] | None:
    """``prefix.N.rest`` as ``(N, rest)``; the same keys come with every span."""
    number, dot, rest = key[skip:].partition(".")
    if not dot or not number.isdecimal() or len(number) > 6:
        return None
    return int(number), rest


def numbered(attributes: dict[str, Value], prefix: str) -> list[dict[str, Value]]:
    """``prefix0.a``, ``prefix0.b``, ``prefix1.a`` … as a list of dicts, in order of their number.

    ``prefix`` ends with a dot.
    """
    skip = len(prefix)
    found: dict[int, dict[str, Value]] = {}
    for key, value in attributes.items():
        if key.startswith(prefix) and (split := _split(key, skip)) is not None:
            found.setdefault(split[0], {})[split[1]] = value
    return [found[number] for number in sorted(found)]


@lru_cache(8192)
def _place(key: str) -> tuple[bool, int, str] | None:
    """Of a message's field: whether it was asked (or answered), its number, the field."""
    for prefix, asked in (("llm.input_messages.", True), ("llm.output_messages.", False)):
        if key.startswith(prefix):
            split = _split(key, len(prefix))
            return None if split is None else (asked, *split)
    return None


def _openinference(span: WireSpan, found: Said) -> bool:
    asked: dict[int, dict[str, Value]] = {}
    answered: dict[int, dict[str, Value]] = {}
    for key, value in span.attributes.items():
        place = _place(key)
        if place is not None:
            into = asked if place[0] else answered
            into.setdefault(place[1], {})[place[2]] = value
    found.input = [_from_openinference(asked[n], "user") for n in sorted(asked)]
    found.output = [_from_openinference(answered[n], "assistant") for n in sorted(answered)]
    reason = span.attributes.get("llm.finish_reason")
    found.finish = reason if isinstance(reason, str) else None
    return bool(asked or answered)


def _from_openinference(fields: dict[str, Value], role: str) -> Wire:
    said_role = fields.get("message.role")
    role = said_role.lower() if isinstance(said_role, str) and said_role else role
    content = fields.get("message.content")
    message: Wire = {"role": ROLES.get(role, role), "content": None}
    if content is not None:
        message["content"] = as_text(content)
    elif len(fields) > 1:
        message["content"] = _openinference_blocks(numbered(fields, "message.contents."))
    if len(fields) > 2:
        _openinference_tools(fields, message)
    return message


def _openinference_tools(fields: dict[str, Value], message: Wire) -> None:
    for name in ("tool_call_id", "name"):
        if isinstance(value := fields.get(f"message.{name}"), str) and value:
            message[name] = value
    calls = [
        {
            "id": as_text(call.get("tool_call.id")),
            "type": "function",
            "function": {
                "name": as_text(call.get("tool_call.function.name")),
                "arguments": as_text(call.get("tool_call.function.arguments")),
            },
        }
        for call in numbered(fields, "message.tool_calls.")
    ]
    if isinstance(called := fields.get("message.function_call_name"), str):
        arguments = as_text(fields.get("message.function_call_arguments_json"))
        function = {"name": called, "arguments": arguments}
        calls.append({"id": "", "type": "function", "function": function})
    if calls:
        message["tool_calls"] = calls


def _openinference_blocks(parts: list[dict[str, Value]]) -> str | list[Any] | None:
    blocks: list[Any] = []
    for part in parts:
        kind = part.get("message_content.type")
        if kind == "image":
            url = as_text(part.get("message_content.image.image.url"))
            blocks.append({"type": "image_url", "image_url": {"url": url}})
        elif kind == "reasoning":
            blocks.append({"type": "thinking", "text": as_text(part.get("message_content.text"))})
        elif kind in (None, "text"):
            blocks.append({"type": "text", "text": as_text(part.get("message_content.text"))})
        else:
            blocks.append({key.removeprefix("message_content."): v for key, v in part.items()})
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        return str(blocks[0]["text"])
    return blocks or None


def _openllmetry(span: WireSpan, found: Said) -> bool:
    """``gen_ai.prompt.N.role`` and ``gen_ai.completion.N.content``."""
    asked = numbered(span.attributes, "gen_ai.prompt.")
    answered = numbered(span.attributes, "gen_ai.completion.")
    found.input = [_from_openllmetry(fields, "user") for fields in asked]
    found.output = [_from_openllmetry(fields, "assistant") for fields in answered]
    for fields in answered:
        if isinstance(reason := fields.get("finish_reason"), str):
            found.finish = reason
            break
    return bool(asked or answered)


def _from_openllmetry(fields: dict[str, Value], role: str) -> Wire:
    calls = [{**call} for call in numbered(fields, "tool_calls.")]
    content = fields.get("content")
    blocks = decoded(content) if isinstance(content, str) and content.startswith("[{") else None
    item: Wire = {**fields, "tool_calls": calls or None}
    if isinstance(blocks, list) and all(kind_of(block) for block in blocks):
        item["content"] = blocks
    said_role = fields.get("role")
    role = said_role.lower() if isinstance(said_role, str) and said_role else role
    return plain_message(item, ROLES.get(role, role))


# -- OpenTelemetry GenAI up to 1.36: events --

_EVENT_ROLES = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
}


def _events(span: WireSpan, found: Said) -> bool:
    """One event for each message, on the span, or as the list that some put in an attribute."""
    bodies = [(event.name, _body(event)) for event in span.events if "gen_ai" in event.name]
    for name in ("events", "all_messages_events"):
        listed = decoded(span.attributes.get(name)) if not bodies else None
        for item in listed if isinstance(listed, list) else ():
            if isinstance(item, dict):
                bodies.append((as_text(item.get("event.name")), item))
    for name, body in bodies[:MAX_MESSAGES]:
        if name == "gen_ai.choice":
            _choice(body, found)
        elif name in _EVENT_ROLES:
            found.input.extend(message_of(body, _EVENT_ROLES[name]))
        elif name == "gen_ai.content.prompt":
            found.input.extend(messages_of(body.get("gen_ai.prompt")))
        elif name == "gen_ai.content.completion":
            found.output.extend(messages_of(body.get("gen_ai.completion"), "assistant"))
    return bool(found.input or found.output)


def _body(event: WireEvent) -> Wire:
    """An event's body: in its attributes, or as JSON in ``gen_ai.event.content``."""
    inner = decoded(event.attributes.get("gen_ai.event.content"))
    return inner if isinstance(inner, dict) else dict(event.attributes)


def _choice(body: Wire, found: Said) -> None:
    message = body.get("message")
    message = decoded(message) if isinstance(message, str) and message[:1] == "{" else message
    if isinstance(message, str):
        message = {"content": message}
    fields = {**body, **message} if isinstance(message, dict) else body
    found.output.extend(message_of(fields, "assistant"))
    if found.finish is None and isinstance(reason := body.get("finish_reason"), str):
        found.finish = reason


# -- the oldest form, and the last resort --


def _single(span: WireSpan, found: Said) -> bool:
    """All messages in one attribute: ``gen_ai.prompt`` and ``gen_ai.completion``."""
    found.input = messages_of(span.attributes.get("gen_ai.prompt"))
    found.output = messages_of(span.attributes.get("gen_ai.completion"), "assistant")
    return bool(found.input or found.output)


def _values(span: WireSpan, found: Said) -> bool:
    """``input.value`` and ``output.value``: a provider's request and response, or plain text."""
    found.input = messages_of(span.attributes.get("input.value"))
    answer = span.attributes.get("output.value")
    body = decoded(answer)
    choices = body.get("choices") if isinstance(body, dict) else None
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        _choice(choices[0], found)
    else:
        found.output = messages_of(answer, "assistant")
    return bool(found.input or found.output)


_READERS: tuple[Callable[[WireSpan, Said], bool], ...] = (
    _structured,
    _openinference,
    _openllmetry,
    _events,
    _single,
    _values,
)
