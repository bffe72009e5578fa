"""Anthropic's messages as a response: the stream and the whole body."""

from typing import Any

import msgspec

from tocsin.core.interaction import Usage
from tocsin.core.wire.reading import decode_object, error_from, salvage
from tocsin.core.wire.responses.events import EventWriter
from tocsin.core.wire.responses.reading import UpstreamReader, custom_tools
from tocsin.core.wire.responses.upstream_items import seal
from tocsin.core.wire.responses.upstream_messages import CUSTOM_FIELD

_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Details(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    content: list[Any] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: _Delta | None = None
    content_block: Any = None
    message: _Message | None = None
    usage: _Usage | None = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_message = msgspec.json.Decoder(_Message).decode


class MessagesReader(UpstreamReader):
    """Reads ``/v1/messages``. Text blocks are parts of one message; thinking becomes a reasoning
    item with a summary, its signature the item's encrypted content."""

    def __init__(self, writer: EventWriter) -> None:
        super().__init__(writer)
        self._counts = _Usage()
        self._signature = ""
        self._blocks: dict[int, str] = {}
        """The types of the open blocks."""
        self._custom = custom_tools(writer.response)
        self._stopped: int | None = None
        """A call whose block has ended. Whether it was cut shows only when something follows."""
        self._inputs: dict[int, list[str]] = {}
        """JSON so far of calls whose input is one text inside of it."""

    def event(self, payload: bytes) -> None:
        try:
            event = _decode_event(payload)
        except _UNREADABLE:
            event = salvage(_Event, decode_object(payload))
        kind = event.type
        if kind == "content_block_delta":
            if event.delta is not None:
                self._delta(event.index, event.delta)
        elif kind == "content_block_start":
            if isinstance(event.content_block, dict):
                self._start(event.index, event.content_block)
        elif kind == "content_block_stop":
            self._stop(event.index)
        elif kind == "message_start":
            if event.message is not None:
                self._head(event.message)
        elif kind == "message_delta":
            self._count(event.usage)
            if event.delta is not None and event.delta.stop_reason:
                self._finish(event.delta.stop_reason)
        elif kind == "message_stop":
            self.terminal = True
        elif kind == "error" or event.error:
            self.error = error_from(event.error or {"message": "the stream reported an error"})

    def whole(self, body: bytes) -> None:
        try:
            message = _decode_message(body)
        except _UNREADABLE:
            message = salvage(_Message, decode_object(body))
        self._head(message)
        if message.error:
            self.error = error_from(message.error)
            return
        blocks = [block for block in message.content or () if isinstance(block, dict)]
        for index, block in enumerate(blocks):
            self._start(index, block)
            if block.get("type") == "tool_use" and not block.get("input"):
                self._input(index, "{}")
            # A call that was cut is left open: how it ended is said by the stop reason.
            if index < len(blocks) - 1 or block.get("type") == "thinking":
                self._stop(index)
        if message.stop_reason:
            self._finish(message.stop_reason)
        self.terminal = message.content is not None

    def _head(self, message: _Message) -> None:
        self.upstream_id = message.id or self.upstream_id
        self.model = message.model or self.model
        self._count(message.usage)

    def _start(self, index: int, block: dict[str, Any]) -> None:
        kind = str(block.get("type"))
        self._blocks[index] = kind
        writer = self.writer
        if self._stopped is not None:
            writer.close_call(self._stopped)
            self._stopped = None
        if kind == "text":
            self._text(block.get("text"))
        elif kind == "thinking":
            self._signature = _string(block.get("signature"))
            if thinking := _string(block.get("thinking")):
                writer.reasoning(thinking, summary=True)
        elif kind == "redacted_thinking":
            writer.sealed(seal("redacted", _string(block.get("data"))))
        elif kind == "tool_use":
            name = _string(block.get("name"))
            custom = name in self._custom
            writer.call(
                index,
                _string(block.get("id")) or writer.fresh_call_id(),
                name,
                "custom_tool_call" if custom else "function_call",
            )
            if custom:
                self._inputs[index] = []
            if block.get("input"):
                self._input(index, _encode(block["input"]).decode())

    def _delta(self, index: int, delta: _Delta) -> None:
        if delta.text:
            self.writer.text(delta.text)
        elif delta.partial_json:
            self._input(index, delta.partial_json)
        elif delta.thinking:
            self.writer.reasoning(delta.thinking, summary=True)
        elif delta.signature:
            self._signature += delta.signature

    def _text(self, text: Any) -> None:
        if text and isinstance(text, str):
            self.writer.text(text)

    def _input(self, index: int, piece: str) -> None:
        pieces = self._inputs.get(index)
        if pieces is None:
            self.writer.arguments(index, piece)
        else:
            pieces.append(piece)

    def _stop(self, index: int) -> None:
        kind = self._blocks.pop(index, "")
        if kind == "text":
            self.writer.close_part()
        elif kind == "thinking":
            if self._signature:
                self.writer.sealed(seal("signed", self._signature))
            self._signature = ""
        elif kind == "tool_use":
            self._plain_input(index)
            self._stopped = index

    def _plain_input(self, index: int) -> None:
        pieces = self._inputs.pop(index, None)
        if pieces is None:
            return
        text = "".join(pieces)
        try:
            value = _decode_any(text)
        except _UNREADABLE:
            value = None
        plain = value.get(CUSTOM_FIELD) if isinstance(value, dict) else None
        self.writer.arguments(index, plain if isinstance(plain, str) else text)

    def _finish(self, reason: str) -> None:
        for index in list(self._inputs):
            self._plain_input(index)
        super()._finish(reason)

    def _count(self, usage: _Usage | None) -> None:
        """Take in a count. The counts are cumulative, and each event names only some of them."""
        if usage is None:
            return
        for name in usage.__struct_fields__:
            value = getattr(usage, name)
            if value is not None:
                setattr(self._counts, name, value)
                self.usage = _usage(self._counts)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _usage(counts: _Usage) -> Usage:
    read, written = counts.cache_read_input_tokens, counts.cache_creation_input_tokens
    fresh, details = counts.input_tokens, counts.output_tokens_details
    thought = None
    if details is not None:
        thought = details.thinking_tokens or details.reasoning_tokens
    return Usage(
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=counts.output_tokens,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=thought,
        source="reported",
    )
