"""Chat completions as a response: the stream and the whole body."""

from typing import Any

import msgspec

from tocsin.core.interaction import Usage
from tocsin.core.wire.reading import decode_object, error_from, salvage
from tocsin.core.wire.responses.reading import UpstreamReader

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.Encoder().encode


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _Custom(msgspec.Struct):
    name: str | None = None
    input: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Words(msgspec.Struct):
    """A delta, or a whole message."""

    content: Any = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    annotations: Any = None


class _Logprobs(msgspec.Struct):
    content: list[Any] | None = None


class _Choice(msgspec.Struct):
    index: int | None = 0
    delta: _Words | None = None
    message: _Words | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Chunk(msgspec.Struct):
    """An event of a stream, or a whole body."""

    choices: list[_Choice] | None = None
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode


class ChatReader(UpstreamReader):
    """Reads ``/v1/chat/completions``; of several choices the first."""

    def event(self, payload: bytes) -> None:
        try:
            chunk = _decode(payload)
        except _UNREADABLE:
            if payload.strip() == b"[DONE]":
                self.terminal = True
                return
            chunk = salvage(_Chunk, decode_object(payload))
        choices = chunk.choices
        if choices and chunk.usage is None and chunk.model == self.model and not chunk.error:
            for choice in choices:
                self._choice(choice)
            return
        self._head(chunk)

    def whole(self, body: bytes) -> None:
        try:
            chunk = _decode(body)
        except _UNREADABLE:
            chunk = salvage(_Chunk, decode_object(body))
        self._head(chunk)
        self.terminal = self.error is None and bool(chunk.choices)

    def _head(self, chunk: _Chunk) -> None:
        if chunk.error:
            self.error = error_from(chunk.error)
        self.upstream_id = self.upstream_id or chunk.id
        self.model = chunk.model or self.model
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage)
        for choice in chunk.choices or ():
            self._choice(choice)

    def _choice(self, choice: _Choice) -> None:
        if choice.index:
            return
        said = choice.delta or choice.message
        if said is not None:
            logprobs = choice.logprobs
            self._words(said, logprobs.content if logprobs is not None else None)
        if choice.finish_reason:
            self._finish(choice.finish_reason)

    def _words(self, said: _Words, logprobs: list[Any] | None) -> None:
        writer = self.writer
        thought = said.reasoning_content or said.reasoning
        if thought and isinstance(thought, str):
            writer.reasoning(thought)
        content = said.content
        if content:
            text = content if isinstance(content, str) else _joined(content)
            if text:
                writer.text(text, [_logprob(entry) for entry in logprobs or ()])
        if said.annotations:
            self._annotations(said.annotations)
        if said.refusal:
            writer.refusal(said.refusal)
        if said.tool_calls:
            for place, call in enumerate(said.tool_calls):
                self._call(call, place if call.index is None else call.index)
        if said.function_call is not None:
            self._call(_Call(function=said.function_call), 0)

    def _call(self, call: _Call, key: int) -> None:
        writer = self.writer
        function, custom = call.function, call.custom
        name = (function and function.name) or (custom and custom.name) or ""
        if not writer.has_call(key) or (call.id and name and call.id != writer.call_id(key)):
            # Some servers give every call the same index; a new id is a new call.
            kind = "function_call" if custom is None else "custom_tool_call"
            writer.call(key, call.id or writer.fresh_call_id(), name, kind)
        piece = custom.input if custom is not None else function and function.arguments
        if piece:
            text = piece if isinstance(piece, str) else _encode(piece).decode()
            writer.arguments(key, text)

    def _annotations(self, found: Any) -> None:
        for entry in found if isinstance(found, list) else ():
            cited = entry.get("url_citation") if isinstance(entry, dict) else None
            if isinstance(cited, dict):
                self.writer.annotation(
                    {
                        "type": "url_citation",
                        "start_index": _whole(cited.get("start_index")),
                        "end_index": _whole(cited.get("end_index")),
                        "title": str(cited.get("title") or ""),
                        "url": str(cited.get("url") or ""),
                    }
                )


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _joined(content: Any) -> str:
    """The text of content that is a list of parts."""
    if not isinstance(content, list):
        return ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(part for part in parts if isinstance(part, str))


def _logprob(entry: Any) -> dict[str, Any]:
    found = _token(entry)
    top = entry.get("top_logprobs") if isinstance(entry, dict) else None
    found["top_logprobs"] = [_token(other) for other in top or ()]
    return found


def _token(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        entry = {}
    return {
        "token": str(entry.get("token") or ""),
        "bytes": entry.get("bytes") or [],
        "logprob": entry.get("logprob") or 0.0,
    }


def _usage(wire: _Usage) -> Usage:
    prompt, completion = wire.prompt_tokens_details, wire.completion_tokens_details
    return Usage(
        input_tokens=wire.prompt_tokens,
        output_tokens=wire.completion_tokens,
        cache_read_tokens=prompt.cached_tokens if prompt is not None else None,
        cache_write_tokens=prompt.cache_write_tokens if prompt is not None else None,
        reasoning_tokens=completion.reasoning_tokens if completion is not None else None,
        source="reported",
    )
