"""Reads answers in OpenAI's dialect: chat, text completions, responses, and bodies with a usage."""

from contextlib import suppress
from typing import Any

import msgspec

from tocsin.core.interaction import Usage
from tocsin.core.messages import ToolCall, parse_message
from tocsin.core.wire.items import merge_output
from tocsin.core.wire.reading import (
    OutputReader,
    decode_object,
    error_from,
    salvage,
    text_of,
)

_encode = msgspec.json.Encoder().encode
_ABSENT = msgspec.Raw()
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Reasoning(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    """Chat and completions say ``prompt``/``completion``; responses say ``input``/``output``."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoning | None = None
    input_tokens_details: _Cached | None = None
    output_tokens_details: _Reasoning | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _ToolDelta(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_ToolDelta] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None


class _ChunkChoice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    """One event of any OpenAI stream; ``type`` is set by the responses API alone."""

    id: str | None = None
    model: str | None = None
    choices: list[_ChunkChoice] | None = None
    usage: _Usage | None = None
    error: Any = None
    type: str | None = None
    delta: Any = None
    item: Any = None
    response: Any = None
    message: str | None = None
    code: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: msgspec.Raw = _ABSENT
    text: str | None = None
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    output: list[Any] | None = None
    status: str | None = None
    incomplete_details: Any = None


class _Role(msgspec.Struct):
    role: str | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_role = msgspec.json.Decoder(_Role).decode

_ENDS = {
    "response.completed": "stop",
    "response.incomplete": "length",
    "response.failed": "error",
    "response.cancelled": "cancelled",
}


class OpenAIReader(OutputReader):
    """Reads every OpenAI shape; which one it is shows in the fields themselves.

    ``answers`` is false for routes whose replies hold no answer (embeddings, files): those need
    not be JSON, and only a usage is looked for.
    """

    __slots__ = (
        "_answers",
        "_calls",
        "_items",
        "_message",
        "_reasoning",
        "_refusal",
        "_text",
    )

    def __init__(
        self, *, stream: bool, content_encoding: bytes | None = None, answers: bool = True
    ) -> None:
        super().__init__(stream=stream, content_encoding=content_encoding)
        self._answers = answers
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, _PendingCall] = {}
        self._items: list[Any] = []
        self._message: bytes | msgspec.Raw | None = None

    @property
    def text(self) -> str:
        if self._message is None:
            return "".join(self._text)
        return text_of(self._message)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        message = self.output_message()
        if message is None:
            return ()
        try:
            return parse_message(message).calls
        except msgspec.DecodeError:
            return ()

    def output_message(self) -> bytes | None:
        if self._message is not None:
            return bytes(self._message)
        if self._items:
            return merge_output([*self._items, *self._unfinished_item()])
        text, calls = "".join(self._text), self._calls
        if not (text or calls or self._refusal or self._reasoning or self.choices):
            return None
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if calls:
            message["content"] = text or None
            message["tool_calls"] = [calls[index].wire() for index in sorted(calls)]
        if self._refusal:
            message["content"] = text or None
            message["refusal"] = "".join(self._refusal)
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        return _encode(message)

    def _event(self, payload: bytes) -> None:
        try:
            chunk = _decode_chunk(payload)
        except _UNREADABLE as error:
            if payload.strip() == b"[DONE]":
                self.terminal = True
                return
            self.malformed = self.malformed or bool(payload.strip())
            if not isinstance(error, msgspec.ValidationError):
                return
            chunk = salvage(_Chunk, decode_object(payload))
        if chunk.type is not None:
            self._response_event(chunk.type, chunk)
        elif chunk.error:
            self.error = error_from(chunk.error)
        if self.response_id is None:
            self.response_id = chunk.id
        if chunk.model:
            self.response_model = chunk.model
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage)
        for choice in chunk.choices or ():
            self._choice(choice)

    def _choice(self, choice: _ChunkChoice) -> None:
        index = choice.index
        if index >= self.choices:
            self.choices = index + 1
        if index:
            return
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
        delta = choice.delta
        if delta is None:
            if choice.text and self._keep(len(choice.text)):
                self._text.append(choice.text)
            return
        if delta.content and self._keep(len(delta.content)):
            self._text.append(delta.content)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._call(call)
        if delta.refusal and self._keep(len(delta.refusal)):
            self._refusal.append(delta.refusal)
        if delta.reasoning_content and self._keep(len(delta.reasoning_content)):
            self._reasoning.append(delta.reasoning_content)

    def _call(self, delta: _ToolDelta) -> None:
        pending = self._calls.get(delta.index)
        if pending is None:
            if len(self._calls) >= 1000:
                self.clipped = True
                return
            pending = self._calls[delta.index] = _PendingCall()
        if delta.id:
            pending.id = delta.id
        function = delta.function
        if function is None:
            return
        if function.name:
            # Whole names are the rule; a few servers repeat the name on every delta.
            pending.name = function.name
        arguments = function.arguments
        if arguments:
            piece = arguments if isinstance(arguments, str) else _encode(arguments).decode()
            if self._keep(len(piece)):
                pending.arguments.append(piece)

    def _response_event(self, kind: str, event: _Chunk) -> None:
        """One event of ``/v1/responses``."""
        if kind == "response.output_text.delta":
            if isinstance(event.delta, str) and self._keep(len(event.delta)):
                self._text.append(event.delta)
                self.choices = 1
        elif kind == "response.output_item.done":
            self.choices = 1
            self._items.append(event.item)
            if isinstance(event.item, dict) and event.item.get("type") == "message":
                self._text.clear()
        elif kind == "error":
            self.error = error_from(
                event.error or {"message": event.message, "type": "error", "code": event.code}
            )
        elif isinstance(event.response, dict):
            body = salvage(_Body, event.response)
            self._take_head(body)
            if kind in _ENDS:
                self.terminal = True
                self._response_end(body, _ENDS[kind])

    def _response_end(self, body: _Body, reason: str) -> None:
        details = body.incomplete_details
        if reason == "length" and isinstance(details, dict):
            reason = "content_filter" if details.get("reason") == "content_filter" else "length"
        if body.output is not None:
            self.choices = 1
            self._message = merge_output(body.output)
        self.finish_reason = reason

    def _unfinished_item(self) -> list[Any]:
        """The message that was being written when the stream ended."""
        return [{"type": "message", "content": "".join(self._text)}] if self._text else []

    def _take_head(self, body: _Body) -> None:
        if body.id is not None:
            self.response_id = body.id
        if body.model:
            self.response_model = body.model
        if body.usage is not None:
            self.usage = _usage(body.usage)
        if body.error:
            self.error = error_from(body.error)

    def _whole(self, body: bytes) -> None:
        try:
            parsed = _decode_body(body)
        except msgspec.ValidationError:
            # A list or a bare value (several routes answer so) is no defect of an answer's shape.
            value = decode_object(body)
            self.malformed = self._answers
            parsed = _whole_again(value)
        except _UNREADABLE:
            self.malformed = self._answers
            return
        self._take_head(parsed)
        if self.error is None:
            self.terminal = True
        if parsed.output is not None and self._answers:
            ended = _ENDS.get(f"response.{parsed.status}")
            if ended is not None:
                self._response_end(parsed, ended)
            return
        choices = parsed.choices
        if not choices:
            return
        self.choices = len(choices)
        first = choices[0]
        self.finish_reason = first.finish_reason
        if self.clipped:
            return
        if first.message:
            self._message = _with_role(first.message)
        elif first.text is not None:
            self._message = _encode({"role": "assistant", "content": first.text})


class _PendingCall:
    """A tool call that is being streamed."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def wire(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


def _whole_again(value: Any) -> _Body:
    """A body that deviates somewhere, with the fields that can be read."""
    if isinstance(value, dict) and isinstance(value.get("choices"), list):
        # Raw fields cannot be converted from values: pass each message through as JSON again.
        choices = [
            {**choice, "message": msgspec.Raw(_encode(choice["message"]))}
            if isinstance(choice, dict) and choice.get("message") is not None
            else choice
            for choice in value["choices"]
        ]
        value = {**value, "choices": [salvage(_Choice, choice) for choice in choices]}
    body: _Body = salvage(_Body, value)
    return body


def _with_role(message: msgspec.Raw) -> bytes | msgspec.Raw | None:
    """The message as it came; with the role that is implied where an upstream omits it. ``None``
    for what is no message at all."""
    with suppress(*_UNREADABLE):
        if _decode_role(message).role:
            return message
    fields = decode_object(bytes(message))
    return None if fields is None else _encode({**fields, "role": "assistant"})


def _usage(wire: _Usage) -> Usage:
    """The upstream's own count. Reasoning is part of the output, cached tokens of the input."""
    cached = wire.prompt_tokens_details or wire.input_tokens_details
    reasoning = wire.completion_tokens_details or wire.output_tokens_details
    prompt, completion = wire.prompt_tokens, wire.completion_tokens
    return Usage(
        input_tokens=wire.input_tokens if prompt is None else prompt,
        output_tokens=wire.output_tokens if completion is None else completion,
        cache_read_tokens=cached.cached_tokens if cached is not None else None,
        cache_write_tokens=cached.cache_write_tokens if cached is not None else None,
        reasoning_tokens=reasoning.reasoning_tokens if reasoning is not None else None,
        source="reported",
    )
