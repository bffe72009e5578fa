"""Reads answers in Anthropic's dialect: messages, streamed or whole, and their errors."""

from typing import Any

import msgspec

from tocsin.core.interaction import Usage
from tocsin.core.messages import ToolCall, parse_message
from tocsin.core.wire.reading import OutputReader, decode_object, error_from, salvage

_encode = msgspec.json.Encoder().encode
_ABSENT = msgspec.Raw()
MAX_BLOCKS = 10_000


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Delta(msgspec.Struct):
    """The fields of every kind of delta; one event sets one or two of them."""

    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    citation: Any = None
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: msgspec.Raw = _ABSENT
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Start(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: Any = None
    message: _Start | None = None
    usage: _Usage | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_message = msgspec.json.Decoder(_Message).decode


class AnthropicReader(OutputReader):
    """Reads a message as it is streamed, block by block, or whole.

    Anthropic's ``input_tokens`` leaves out what went through the cache; ``usage.input_tokens``
    here is the whole input.
    """

    __slots__ = ("_answers", "_blocks", "_content", "_counts")

    def __init__(
        self, *, stream: bool, content_encoding: bytes | None = None, answers: bool = True
    ) -> None:
        super().__init__(stream=stream, content_encoding=content_encoding)
        self._answers = answers
        self._blocks: dict[int, _Block] = {}
        self._content: msgspec.Raw | None = None
        self._counts = _Usage()

    @property
    def text(self) -> str:
        if self._content is None:
            blocks = [block.wire() for block in self._blocks.values()]
        else:
            try:
                decoded = msgspec.json.decode(self._content)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return ""
            blocks = decoded if isinstance(decoded, list) else [{"text": decoded}]
        parts = [
            b.get("text") for b in blocks if isinstance(b, dict) and b.get("type", "text") == "text"
        ]
        return "".join(part for part in parts if isinstance(part, str))

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
        if self._content is not None:
            return b'{"role":"assistant","content":' + bytes(self._content) + b"}"
        if not self.choices:
            return None
        content = [self._blocks[index].wire() for index in sorted(self._blocks)]
        return _encode({"role": "assistant", "content": content})

    def _event(self, payload: bytes) -> None:
        try:
            event = _decode_event(payload)
        except msgspec.ValidationError:
            self.malformed = True
            event = salvage(_Event, decode_object(payload))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.malformed = self.malformed or bool(payload.strip())
            return
        kind = event.type
        if kind == "content_block_delta":
            if event.delta is not None:
                self._delta(event.index, event.delta)
        elif kind == "content_block_start":
            if len(self._blocks) < MAX_BLOCKS:
                self._blocks[event.index] = _Block(event.content_block)
            else:
                self.clipped = True
        elif kind == "message_start":
            self._start(event.message)
        elif kind == "message_delta":
            if event.delta is not None and event.delta.stop_reason:
                self.finish_reason = event.delta.stop_reason
            self._count(event.usage)
        elif kind == "message_stop":
            self.terminal = True
        elif kind == "error" or event.error:
            self.error = error_from(event.error or {"message": "the stream reported an error"})

    def _start(self, message: _Start | None) -> None:
        self.choices = 1
        if message is not None:
            self.response_id = message.id
            self.response_model = message.model
            self._count(message.usage)

    def _delta(self, index: int, delta: _Delta) -> None:
        block = self._blocks.get(index)
        if block is None:
            if len(self._blocks) >= MAX_BLOCKS:
                self.clipped = True
                return
            self.malformed = True
            block = self._blocks[index] = _Block({"type": "text", "text": ""})
        piece = delta.text or delta.partial_json or delta.thinking or delta.signature
        if piece:
            if self._keep(len(piece)):
                block.add(delta)
        elif delta.citation is not None and self._keep(64):
            block.citations.append(delta.citation)

    def _count(self, usage: _Usage | None) -> None:
        """Take in a count. The counts are cumulative, and each event names only some of them."""
        if usage is None:
            return
        counts = self._counts
        if usage.input_tokens is not None:
            counts.input_tokens = usage.input_tokens
        if usage.output_tokens is not None:
            counts.output_tokens = usage.output_tokens
        if usage.cache_read_input_tokens is not None:
            counts.cache_read_input_tokens = usage.cache_read_input_tokens
        if usage.cache_creation_input_tokens is not None:
            counts.cache_creation_input_tokens = usage.cache_creation_input_tokens
        self.usage = _usage(counts)

    def _whole(self, body: bytes) -> None:
        try:
            parsed = _decode_message(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.malformed = self._answers
            value = decode_object(body) if isinstance(error, msgspec.ValidationError) else None
            if value is None:
                return
            if value.get("content") is not None:
                value["content"] = msgspec.Raw(_encode(value["content"]))
            parsed = salvage(_Message, value)
        self.response_id = parsed.id
        self.response_model = parsed.model
        self.finish_reason = parsed.stop_reason
        if parsed.error:
            self.error = error_from(parsed.error)
            return
        self.terminal = True
        if not self._answers:
            return
        self._count(parsed.usage)
        if parsed.content:
            self.choices = 1
            self._content = None if self.clipped else parsed.content


class _Block:
    """A content block that is being streamed."""

    __slots__ = ("citations", "json", "signature", "start", "text", "thinking")

    def __init__(self, start: Any) -> None:
        self.start: dict[str, Any] = start if isinstance(start, dict) else {}
        self.text: list[str] = []
        self.thinking: list[str] = []
        self.signature: list[str] = []
        self.json: list[str] = []
        self.citations: list[Any] = []

    def add(self, delta: _Delta) -> None:
        if delta.text:
            self.text.append(delta.text)
        elif delta.partial_json:
            self.json.append(delta.partial_json)
        elif delta.thinking:
            self.thinking.append(delta.thinking)
        elif delta.signature:
            self.signature.append(delta.signature)

    def wire(self) -> dict[str, Any]:
        """The block as a whole answer would have it."""
        block = dict(self.start)
        for field, pieces in (
            ("text", self.text),
            ("thinking", self.thinking),
            ("signature", self.signature),
        ):
            if pieces:
                block[field] = f"{block.get(field) or ''}{''.join(pieces)}"
        if self.citations:
            block["citations"] = [*(block.get("citations") or ()), *self.citations]
        if self.json:
            block["input"] = _input("".join(self.json))
        return block


def _input(text: str) -> Any:
    """A tool's input; the text itself when the stream was cut before it was whole JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _usage(counts: _Usage) -> Usage:
    read, written = counts.cache_read_input_tokens, counts.cache_creation_input_tokens
    fresh = counts.input_tokens
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=counts.output_tokens,
        cache_read_tokens=read,
        cache_write_tokens=written,
        source="reported",
    )
