"""Answers written on the wire of either dialect, for providers that are no HTTP API themselves."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tocsin.core.interaction import Dialect, Usage
from tocsin.core.messages import ToolCall
from tocsin.core.wire.errors import error_json, error_type

_encode = msgspec.json.Encoder().encode
_PIECES = re.compile(r"\s*\S+|\s+\Z")

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_FINISH_REASONS = {word: other for other, word in _STOP_REASONS.items()}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says. Without a ``usage`` none is reported.

    ``finish_reason`` is a word of either dialect; empty: ``stop``, or ``tool_calls`` with tools.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""
    usage: Usage | None = None
    id: str = "scripted-1"
    model: str = ""
    """The model that says it answered; empty: the one that was asked for."""
    created: int = 0


def json_body(
    dialect: Dialect, answer: Answer, model: str, *, status: int = 200, operation: str = "chat"
) -> bytes:
    """The whole reply as one JSON body; from status 400 an error that says ``answer.text``."""
    if status >= 400:
        return error_json(dialect, answer.text, kind=error_type(dialect, status))
    model = answer.model or model
    if operation == "models":
        entry = {"id": model, "object": "model", "created": answer.created, "owned_by": "tocsin"}
        return _encode({"object": "list", "data": [entry]})
    if operation == "count_tokens":
        return _encode({"input_tokens": (answer.usage or Usage()).input_tokens or 0})
    if operation == "embeddings":
        return _encode(_embeddings(answer, model))
    if dialect == "anthropic":
        return _encode(_message(answer, model))
    return _encode(_completion(answer, model, operation))


def sse_events(
    dialect: Dialect, answer: Answer, model: str, *, operation: str = "chat"
) -> Iterator[bytes]:
    """The reply as server-sent events, one word of text to an event, with its usage at the end."""
    model = answer.model or model
    if dialect == "anthropic":
        yield from _anthropic_events(answer, model)
    elif operation == "text_completion":
        yield from _completion_events(answer, model)
    else:
        yield from _chat_events(answer, model)


def words(text: str) -> list[str]:
    """``text`` cut into words that keep their leading space; joined they are ``text`` again."""
    return _PIECES.findall(text)


def _finish(answer: Answer) -> str:
    reason = answer.finish_reason or ("tool_calls" if answer.tool_calls else "stop")
    return _FINISH_REASONS.get(reason, reason)


def _stop(answer: Answer) -> str:
    reason = answer.finish_reason or ("tool_calls" if answer.tool_calls else "stop")
    return _STOP_REASONS.get(reason, reason)


# -- OpenAI --


def _openai_usage(usage: Usage) -> dict[str, Any]:
    asked, answered = usage.input_tokens or 0, usage.output_tokens or 0
    found: dict[str, Any] = {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
    }
    if usage.cache_read_tokens is not None:
        found["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tokens}
    if usage.reasoning_tokens is not None:
        found["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return found


def _wire_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _completion(answer: Answer, model: str, operation: str) -> dict[str, Any]:
    if operation == "text_completion":
        kind = "text_completion"
        choice: dict[str, Any] = {"index": 0, "text": answer.text, "logprobs": None}
    else:
        kind = "chat.completion"
        message: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.tool_calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [_wire_call(call) for call in answer.tool_calls]
        choice = {"index": 0, "message": message, "logprobs": None}
    choice["finish_reason"] = _finish(answer)
    body = {
        "id": answer.id,
        "object": kind,
        "created": answer.created,
        "model": model,
        "choices": [choice],
    }
    if answer.usage is not None:
        body["usage"] = _openai_usage(answer.usage)
    return body


def _embeddings(answer: Answer, model: str) -> dict[str, Any]:
    usage = answer.usage or Usage()
    vector = [0.1, 0.2, 0.3]
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "model": model,
        "usage": {
            "prompt_tokens": usage.input_tokens or 0,
            "total_tokens": usage.input_tokens or 0,
        },
    }


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _chat_events(answer: Answer, model: str) -> Iterator[bytes]:
    head = {
        "id": answer.id,
        "object": "chat.completion.chunk",
        "created": answer.created,
        "model": model,
    }

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**head, "choices": [choice]})

    yield chunk({"role": "assistant", "content": ""})
    for word in words(answer.text):
        yield chunk({"content": word})
    for index, call in enumerate(answer.tool_calls):
        begun = {**_wire_call(call), "index": index}
        begun["function"] = {"name": call.name, "arguments": ""}
        yield chunk({"tool_calls": [begun]})
        piece = {"index": index, "function": {"arguments": call.arguments}}
        yield chunk({"tool_calls": [piece]})
    yield chunk({}, _finish(answer))
    if answer.usage is not None:
        yield _data({**head, "choices": [], "usage": _openai_usage(answer.usage)})
    yield b"data: [DONE]\n\n"


def _completion_events(answer: Answer, model: str) -> Iterator[bytes]:
    head = {
        "id": answer.id,
        "object": "text_completion",
        "created": answer.created,
        "model": model,
    }
    for word in words(answer.text):
        choice = {"index": 0, "text": word, "logprobs": None, "finish_reason": None}
        yield _data({**head, "choices": [choice]})
    last = {"index": 0, "text": "", "logprobs": None, "finish_reason": _finish(answer)}
    usage = {"usage": _openai_usage(answer.usage)} if answer.usage is not None else {}
    yield _data({**head, "choices": [last], **usage})
    yield b"data: [DONE]\n\n"


# -- Anthropic --


def _anthropic_usage(usage: Usage) -> dict[str, Any]:
    """Anthropic's count, which leaves out of its input what the cache took or gave."""
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    found = {
        "input_tokens": max((usage.input_tokens or 0) - read - written, 0),
        "output_tokens": usage.output_tokens or 0,
    }
    if usage.cache_read_tokens is not None:
        found["cache_read_input_tokens"] = read
    if usage.cache_write_tokens is not None:
        found["cache_creation_input_tokens"] = written
    return found


def _input(call: ToolCall) -> Any:
    try:
        return msgspec.json.decode(call.arguments or "{}")
    except msgspec.DecodeError:
        return {"_text": call.arguments}


def _message(answer: Answer, model: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if answer.text or not answer.tool_calls:
        content.append({"type": "text", "text": answer.text})
    for call in answer.tool_calls:
        content.append(
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)}
        )
    return {
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": _stop(answer),
        "stop_sequence": None,
        "usage": _anthropic_usage(answer.usage or Usage()),
    }


def _named(event: dict[str, Any]) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\n" + _data(event)


def _anthropic_events(answer: Answer, model: str) -> Iterator[bytes]:
    usage = _anthropic_usage(answer.usage or Usage())
    message = _message(answer, model)
    blocks = message["content"]
    begun = {
        **message,
        "content": [],
        "stop_reason": None,
        "usage": {**usage, "output_tokens": min(usage["output_tokens"], 1)},
    }
    yield _named({"type": "message_start", "message": begun})
    for index, block in enumerate(blocks):
        yield from _block_events(index, block)
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    counted = {"output_tokens": usage["output_tokens"]}
    yield _named({"type": "message_delta", "delta": delta, "usage": counted})
    yield _named({"type": "message_stop"})


def _block_events(index: int, block: dict[str, Any]) -> Iterator[bytes]:
    is_text = block["type"] == "text"
    start = {**block, "text": ""} if is_text else {**block, "input": {}}
    yield _named({"type": "content_block_start", "index": index, "content_block": start})
    if is_text:
        deltas = [{"type": "text_delta", "text": word} for word in words(block["text"])]
    else:
        text = _encode(block["input"]).decode()
        deltas = [{"type": "input_json_delta", "partial_json": text}]
    for delta in deltas:
        yield _named({"type": "content_block_delta", "index": index, "delta": delta})
    yield _named({"type": "content_block_stop", "index": index})
