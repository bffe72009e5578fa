"""OTLP/HTTP bodies as plain values: decompression, protobuf, JSON, and a cap on everything.

Both encodings become the same ``WireSpan``, so that the dialects (``otlp_spans``) are written once.
Nothing here trusts its input: sizes are capped while they grow, and what has the wrong type is
left out instead of raising.
"""

import base64
import binascii
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import msgspec

from tocsin.core.errors import InputError

Value = str | int | float | bool | bytes | list[Any] | dict[str, Any] | None

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

MAX_DEPTH = 16
"""Arrays and maps inside each other in one attribute; what is deeper is left out."""
MAX_ATTRIBUTES = 10_000
"""Attributes read of one span: instrumentations spread messages over numbered attributes."""
MAX_KEY = 256
"""Characters of an attribute's name; one with a longer name is left out and counted."""
MAX_EVENTS = 2_000
"""Events read of one span."""
MAX_VALUE = 8 * 1024 * 1024
"""Characters of one attribute's value; a longer one is left out and counted."""
MAX_SPANS = 50_000
"""Spans taken of one request."""
_MAX_MEMBERS = 1000


class ExportError(InputError):
    """An OTLP request that cannot be taken. ``status`` is the HTTP status to answer with."""

    def __init__(self, message: str, status: Literal[400, 413, 415] = 400) -> None:
        super().__init__(message)
        self.status = status


class WireEvent(msgspec.Struct, gc=False):
    """One event of a span."""

    name: str
    at_ns: int
    attributes: dict[str, Value]


class WireSpan(msgspec.Struct, gc=False):
    """One span in plain values. Ids are lower-case hex; ``parent_id`` is empty for a root.

    ``dropped`` counts attributes and events that were over a limit, ``fault`` says why the span
    cannot be taken at all (then nothing else counts).
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    failed: bool
    message: str
    attributes: dict[str, Value]
    events: list[WireEvent]
    resource: dict[str, Value]
    dropped: int = 0
    fault: str = ""


class Export(Protocol):
    """A decoded export request."""

    def spans(self) -> Iterator[WireSpan]:
        """Every span in the order sent; one that cannot be read has a ``fault``."""
        ...


def decode_export(
    body: bytes, content_type: str, content_encoding: str | None = None, *, max_bytes: int
) -> Export:
    """Read an OTLP/HTTP traces request.

    ``max_bytes`` caps the body after decompression. Raises ``ExportError``: status 413 when it is
    larger, 415 for another content type or encoding, 400 for bytes that are no export request.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media not in (PROTOBUF, JSON):
        raise ExportError(
            f"Content-Type {media[:80] or 'is missing'!r}: send {PROTOBUF} or {JSON}.", 415
        )
    body = decompress(body, content_encoding, max_bytes=max_bytes)
    return decode_protobuf(body) if media == PROTOBUF else decode_json(body)


def decompress(body: bytes, encoding: str | None, *, max_bytes: int) -> bytes:
    """``body`` without its content encoding (gzip, deflate or none), at most ``max_bytes``."""
    name = (encoding or "").strip().lower()
    if name in ("", "identity"):
        if len(body) > max_bytes:
            raise ExportError(f"The request body is larger than {max_bytes} bytes.", 413)
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        raise ExportError(f"Content-Encoding {name[:40]!r}: send gzip, deflate or none.", 415)
    # 47 reads gzip and zlib by their headers; some send deflate without one.
    bare = bool(body) and body[0] & 0x0F != 8 and not body.startswith(b"\x1f\x8b")
    return _inflate(body, -15 if bare else 47, max_bytes)


def _inflate(body: bytes, window: int, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    left = max_bytes + 1
    try:
        for _ in range(_MAX_MEMBERS):
            if not body or left <= 0:
                break
            member = zlib.decompressobj(window)
            plain = member.decompress(body, left)
            parts.append(plain)
            left -= len(plain)
            if left > 0 and not member.eof:
                raise ExportError("The compressed request body breaks off in the middle.")
            body = member.unused_data
        else:
            raise ExportError(f"The request body has more than {_MAX_MEMBERS} gzip members.")
    except zlib.error as error:
        raise ExportError(f"The request body cannot be decompressed: {error}.") from None
    if left <= 0:
        raise ExportError(f"The request body expands to more than {max_bytes} bytes.", 413)
    return b"".join(parts)


# -- protobuf --


def decode_protobuf(body: bytes) -> Export:
    """Read a binary ``ExportTraceServiceRequest``. Raises ``ExportError``."""
    # Imported here because it takes 60 ms and 15 MB, and most processes never see a span.
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    try:
        message = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
    except (DecodeError, RecursionError, ValueError) as error:
        raise ExportError(f"The body is no OTLP trace export in protobuf: {error}.") from None
    return _Protobuf(message)


class _Protobuf:
    __slots__ = ("_message",)

    def __init__(self, message: Any) -> None:
        self._message = message

    def spans(self) -> Iterator[WireSpan]:
        for group in self._message.resource_spans:
            resource: dict[str, Value] = {}
            _read_attributes(group.resource.attributes, resource)
            for scope in group.scope_spans:
                for span in scope.spans:
                    yield _span(span, resource)


def _span(span: Any, resource: dict[str, Value]) -> WireSpan:
    attributes: dict[str, Value] = {}
    dropped = _read_attributes(span.attributes, attributes)
    events: list[WireEvent] = []
    if span.events:
        for event in span.events:
            if len(events) >= MAX_EVENTS:
                dropped += 1
                continue
            found: dict[str, Value] = {}
            dropped += _read_attributes(event.attributes, found)
            events.append(WireEvent(event.name, event.time_unix_nano, found))
    trace_id, span_id = span.trace_id, span.span_id
    status = span.status
    return WireSpan(
        trace_id.hex(),
        span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        status.code == 2,
        status.message,
        attributes,
        events,
        resource,
        dropped,
        _id_fault(trace_id, span_id),
    )


def _id_fault(trace_id: bytes, span_id: bytes) -> str:
    if len(trace_id) != 16 or not any(trace_id):
        return "trace id is not 16 bytes"
    if len(span_id) != 8 or not any(span_id):
        return "span id is not 8 bytes"
    return ""


def _read_attributes(pairs: Sequence[Any], into: dict[str, Value]) -> int:
    """Put protobuf key-values into a dict; returns how many were over a limit."""
    dropped = max(0, len(pairs) - MAX_ATTRIBUTES)
    for pair in pairs if not dropped else pairs[:MAX_ATTRIBUTES]:
        key, value = pair.key, pair.value
        # Text is the usual case, and reading it without asking for the kind is twice as quick.
        text: str = value.string_value
        if len(text) > MAX_VALUE or len(key) > MAX_KEY:
            dropped += 1
        else:
            into[key] = text or _value(value, 0)
    return dropped


def _value(value: Any, depth: int) -> Value:
    kind = value.WhichOneof("value")
    if kind == "array_value" or kind == "kvlist_value":
        if depth >= MAX_DEPTH:
            return None
        if kind == "array_value":
            return [_value(item, depth + 1) for item in value.array_value.values]
        return {pair.key: _value(pair.value, depth + 1) for pair in value.kvlist_value.values}
    found: Value = getattr(value, kind) if kind else None
    return found


# -- JSON --


def decode_json(body: bytes) -> Export:
    """Read an ``ExportTraceServiceRequest`` in OTLP's JSON encoding. Raises ``ExportError``."""
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise ExportError("The JSON nests too deep.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ExportError(f"The body is not valid JSON: {error}.") from None
    if not isinstance(value, dict) or not ({"resourceSpans", "resource_spans"} & value.keys()):
        raise ExportError('The JSON is no OTLP trace export: it has no "resourceSpans".')
    return _Json(_list(_get(value, "resourceSpans", "resource_spans")))


class _Json:
    __slots__ = ("_groups",)

    def __init__(self, groups: list[Any]) -> None:
        self._groups = groups

    def spans(self) -> Iterator[WireSpan]:
        for group in self._groups:
            resource: dict[str, Value] = {}
            _read_json_attributes(_get(_get(group, "resource"), "attributes"), resource)
            scopes = _get(group, "scopeSpans", "scope_spans", "instrumentationLibrarySpans")
            for scope in _list(scopes):
                for span in _list(_get(scope, "spans")):
                    yield _json_span(span, resource)


def _json_span(span: Any, resource: dict[str, Value]) -> WireSpan:
    attributes: dict[str, Value] = {}
    dropped = _read_json_attributes(_get(span, "attributes"), attributes)
    events: list[WireEvent] = []
    for event in _list(_get(span, "events")):
        if len(events) >= MAX_EVENTS:
            dropped += 1
            continue
        found: dict[str, Value] = {}
        dropped += _read_json_attributes(_get(event, "attributes"), found)
        at = _nanoseconds(_get(event, "timeUnixNano", "time_unix_nano"))
        events.append(WireEvent(_text(_get(event, "name")), at, found))
    trace_id = _json_id(_get(span, "traceId", "trace_id"), 16)
    span_id = _json_id(_get(span, "spanId", "span_id"), 8)
    status = _get(span, "status")
    return WireSpan(
        trace_id.hex(),
        span_id.hex(),
        _json_id(_get(span, "parentSpanId", "parent_span_id"), 8).hex(),
        _text(_get(span, "name")),
        _nanoseconds(_get(span, "startTimeUnixNano", "start_time_unix_nano")),
        _nanoseconds(_get(span, "endTimeUnixNano", "end_time_unix_nano")),
        _get(status, "code") in (2, "2", "STATUS_CODE_ERROR"),
        _text(_get(status, "message")),
        attributes,
        events,
        resource,
        dropped,
        _id_fault(trace_id, span_id) if isinstance(span, dict) else "span is no JSON object",
    )


def _get(value: Any, *names: str) -> Any:
    """The first of the fields that an object has. OTLP says camelCase; some write snake_case."""
    if isinstance(value, dict):
        for name in names:
            if name in value:
                return value[name]
    return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _nanoseconds(value: Any) -> int:
    number = _integer(value)
    return number if number is not None and 0 <= number < 1 << 64 else 0


def _integer(value: Any) -> int | None:
    """An int64, which JSON writes as text; ``None`` when it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and len(value) <= 20:
        try:
            return int(value)
        except ValueError:
            return None
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _json_id(value: Any, size: int) -> bytes:
    """An id: hex by the standard; base64 from generic protobuf-to-JSON converters."""
    if not isinstance(value, str) or len(value) > 64:
        return b""
    try:
        return bytes.fromhex(value) if len(value) == 2 * size else base64.b64decode(value)
    except (ValueError, binascii.Error):
        return b""


def _read_json_attributes(pairs: Any, into: dict[str, Value]) -> int:
    pairs = _list(pairs)
    dropped = max(0, len(pairs) - MAX_ATTRIBUTES)
    for pair in pairs if not dropped else pairs[:MAX_ATTRIBUTES]:
        if not isinstance(pair, dict) or not isinstance(key := pair.get("key"), str):
            dropped += 1
            continue
        value = pair.get("value")
        text = value.get("stringValue") if isinstance(value, dict) else None
        plain = text if isinstance(text, str) else _json_value(value, 0)
        if len(key) > MAX_KEY or (isinstance(plain, str) and len(plain) > MAX_VALUE):
            dropped += 1
        else:
            into[key] = plain
    return dropped


def _json_value(value: Any, depth: int) -> Value:
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        return None
    for name, plain in value.items():
        match name:
            case "stringValue" | "string_value":
                return plain if isinstance(plain, str) else None
            case "intValue" | "int_value":
                return _integer(plain)
            case "boolValue" | "bool_value":
                return plain if isinstance(plain, bool) else None
            case "doubleValue" | "double_value":
                return _double(plain)
            case "arrayValue" | "array_value":
                return [_json_value(item, depth + 1) for item in _list(_get(plain, "values"))]
            case "kvlistValue" | "kvlist_value":
                return {
                    pair["key"]: _json_value(pair.get("value"), depth + 1)
                    for pair in _list(_get(plain, "values"))
                    if isinstance(pair, dict) and isinstance(pair.get("key"), str)
                }
            case "bytesValue" | "bytes_value":
                return _json_bytes(plain)
            case _:
                continue
    return None


def _double(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    # The protobuf JSON mapping writes these three as text.
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else None


def _json_bytes(value: Any) -> bytes | None:
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value)
    except (ValueError, binascii.Error):
        return None


# -- answers --


def encode_reply(content_type: str, *, rejected: int = 0, message: str = "") -> bytes:
    """The body of the 200 that answers an export, in the encoding that it came in.

    ``rejected`` spans were not taken and shall not be sent again; ``message`` says why.
    """
    if content_type.partition(";")[0].strip().lower() == JSON:
        partial = {"rejectedSpans": str(rejected), "errorMessage": message}
        return msgspec.json.encode({"partialSuccess": partial} if rejected or message else {})
    if not rejected and not message:
        return b""
    text = message.encode()
    inner = b"\x08" + varint(rejected) + b"\x12" + varint(len(text)) + text
    return b"\x0a" + varint(len(inner)) + inner


def encode_failure(content_type: str, message: str) -> bytes:
    """The body of a 4xx or 5xx: a ``google.rpc.Status`` with ``message``, as OTLP/HTTP asks."""
    if content_type.partition(";")[0].strip().lower() == JSON:
        return msgspec.json.encode({"message": message})
    text = message.encode()
    return b"\x12" + varint(len(text)) + text


def varint(number: int) -> bytes:
    """A protobuf varint; written here so that an answer needs no protobuf import."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
