"""``OutputReader``: reads an answer beside the stream, without touching the bytes on their way."""

import zlib
from typing import Any

import msgspec

from tocsin.core.interaction import Usage
from tocsin.core.messages import ToolCall
from tocsin.core.wire.sse import SseSplitter

MAX_OUTPUT = 16 * 1024 * 1024
"""Bytes of one answer that are kept for the record; the rest is counted and dropped."""


class _Content(msgspec.Struct):
    content: str | list[Any] | None = None


_decode_content = msgspec.json.Decoder(_Content).decode
_decode_any = msgspec.json.Decoder().decode


class UpstreamError(msgspec.Struct, frozen=True, kw_only=True):
    """An error that the upstream reported, in a body or in the middle of a stream."""

    message: str
    type: str | None = None
    code: str | None = None


class OutputReader:
    """What is known of one answer so far. Feed it the wire bytes; it never raises on them.

    ``feed`` takes pieces of a reply as they arrive (events, or a body in pieces), ``feed_body`` a
    whole body. Call ``finish`` once no more bytes come. Bytes that cannot be read only set
    ``malformed``.

    ``terminal`` tells whether the upstream said that the answer is complete. ``choices`` counts
    the alternatives (``n`` > 1); text and message are those of the first. ``clipped`` is set when
    the answer is larger than what is kept.
    """

    __slots__ = (
        "_body",
        "_inflate",
        "_kept",
        "_sniff",
        "_split",
        "choices",
        "clipped",
        "error",
        "finish_reason",
        "malformed",
        "response_id",
        "response_model",
        "terminal",
        "usage",
    )

    def __init__(self, *, stream: bool, content_encoding: bytes | None = None) -> None:
        self.choices = 0
        self.clipped = False
        self.error: UpstreamError | None = None
        self.finish_reason: str | None = None
        self.malformed = False
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.terminal = False
        self.usage: Usage | None = None
        self._kept = 0
        self._body: bytearray | None = None if stream else bytearray()
        self._sniff = stream
        self._split = SseSplitter()
        self._inflate = _Inflater(content_encoding) if content_encoding else None

    @property
    def text(self) -> str:
        """The text of the answer so far."""
        raise NotImplementedError

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the answer asks for so far."""
        raise NotImplementedError

    def output_message(self) -> bytes | None:
        """The answer as the message that a client sends back, as JSON; ``None`` without one."""
        raise NotImplementedError

    def _event(self, payload: bytes) -> None:
        """Take in the payload of one server-sent event."""
        raise NotImplementedError

    def _whole(self, body: bytes) -> None:
        """Take in a whole JSON body."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Take in the next piece of the reply."""
        if self._inflate is not None:
            data = self._inflated(data)
        if self._sniff and data:
            # A reply to a stream request that is no stream is JSON: an error, or an upstream
            # that does not know streams. An event never begins with a brace.
            self._sniff = False
            if data.lstrip()[:1] in (b"{", b"["):
                self._body = bytearray()
        if self._body is not None:
            self._collect(data)
            return
        for payload in self._split.feed(data):
            self._event(payload)

    def feed_body(self, data: bytes) -> None:
        """Take in a whole body, of an answer that is not streamed or of an error."""
        if self._inflate is not None:
            data = self._inflated(data)
        # A large body (embeddings) is read for its usage; its message is not kept.
        self.clipped = self.clipped or len(data) > MAX_OUTPUT
        self._whole(data)

    def finish(self) -> None:
        """Say that no more bytes come. Calling it again does nothing."""
        if self._body is not None:
            body, self._body = bytes(self._body), None
            self._sniff = False
            if body and not self.clipped:
                self._whole(body)
            return
        for payload in self._split.finish():
            self._event(payload)
        self.clipped = self.clipped or self._split.overflowed

    def _collect(self, data: bytes) -> None:
        assert self._body is not None
        if len(self._body) + len(data) > MAX_OUTPUT:
            self.clipped = True
            self._body.clear()
        elif not self.clipped:
            self._body += data

    def _keep(self, size: int) -> bool:
        """Whether ``size`` more characters fit under the cap."""
        self._kept += size
        if self._kept > MAX_OUTPUT:
            self.clipped = True
            return False
        return True

    def _inflated(self, data: bytes) -> bytes:
        assert self._inflate is not None
        plain = self._inflate(data)
        self.malformed = self.malformed or self._inflate.failed
        self.clipped = self.clipped or self._inflate.over
        return plain


class SilentReader(OutputReader):
    """For routes whose replies hold neither an answer nor usage: reads nothing."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(stream=False)

    @property
    def text(self) -> str:
        return ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return ()

    def output_message(self) -> bytes | None:
        return None

    def feed(self, data: bytes) -> None:
        pass

    def feed_body(self, data: bytes) -> None:
        pass

    def finish(self) -> None:
        pass


class _Inflater:
    """Decodes gzip or deflate up to ``MAX_OUTPUT`` bytes; anything else counts as failed."""

    __slots__ = ("_left", "_make", "_zlib", "failed", "over")

    def __init__(self, encoding: bytes) -> None:
        name = encoding.strip().lower()
        self.failed = self.over = False
        self._left = MAX_OUTPUT
        self._zlib: Any = None
        self._make = True
        if name in (b"", b"identity"):
            self._make = False
        elif name not in (b"gzip", b"x-gzip", b"deflate"):
            self.failed = True

    def __call__(self, data: bytes) -> bytes:
        if not self._make:
            return data
        if self.failed or self.over or not data:
            return b""
        if self._zlib is None:
            # 47: gzip or zlib by its header. "deflate" means zlib, but some send it bare.
            bare = data[0] & 0x0F != 8 and data[:1] != b"\x1f"
            self._zlib = zlib.decompressobj(-15 if bare else 47)
        try:
            plain: bytes = self._zlib.decompress(data, self._left)
        except zlib.error:
            self.failed = True
            return b""
        self._left -= len(plain)
        if self._left <= 0:
            self.over = True
        return plain


def decode_object(data: bytes) -> dict[str, Any] | None:
    """``data`` as a JSON object, ``None`` when it is anything else."""
    try:
        value = _decode_any(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def salvage(kind: type[Any], value: Any) -> Any:
    """A ``kind`` (a Struct whose fields all have defaults) made of the fields that fit.

    For events of an upstream that deviates in one field: the others still count.
    """
    found = {}
    for field in msgspec.structs.fields(kind):
        if not isinstance(value, dict) or field.encode_name not in value:
            continue
        try:
            found[field.name] = msgspec.convert(
                value[field.encode_name], field.type, strict=False, from_attributes=False
            )
        except (msgspec.ValidationError, RecursionError):
            continue
    return kind(**found)


def error_from(value: Any) -> UpstreamError:
    """The error that an upstream's ``error`` field states, whatever its shape."""
    if not isinstance(value, dict):
        return UpstreamError(message=str(value)[:2000])
    message = value.get("message")
    kind, code = value.get("type"), value.get("code")
    return UpstreamError(
        message=str(message if message is not None else value)[:2000],
        type=kind if isinstance(kind, str) else None,
        code=str(code) if isinstance(code, str | int) else None,
    )


def text_of(message: bytes | msgspec.Raw) -> str:
    """The text of a message of either dialect, without tool calls and thinking."""
    try:
        content = _decode_content(message).content
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(part for part in parts if isinstance(part, str))
