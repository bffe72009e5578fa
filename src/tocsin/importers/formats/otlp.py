"""OTLP in files: JSON (a line for each request, or one document) and protobuf.

Protobuf files hold one request, or many with a length before each: a varint, or four bytes as the
OpenTelemetry collector's file exporter writes.
"""

from collections.abc import Callable, Iterator

from tocsin.core.errors import InputError
from tocsin.importers.files import MAX_RECORD, BadRecord, Sample, Source
from tocsin.importers.formats.api import Format, Records
from tocsin.importers.otlp import Batch, Converter
from tocsin.importers.otlp_wire import Export, decode_json, decode_protobuf, varint

_ARRAYS = ("resourceSpans", "resource_spans")
_FIELD = 0x0A
"""Tag of field 1 of a request (a resource's spans), and of a resource inside it."""
_INNER = (0x0A, 0x12, 0x1A)


def matches_json(sample: Sample) -> bool:
    """Whether the first record is an export request in JSON."""
    return not sample.keys.isdisjoint(_ARRAYS)


def matches_protobuf(sample: Sample) -> bool:
    """Whether the bytes begin like an export request, framed or not."""
    return sample.container == "binary" and _framing(sample.head) is not None


def read_json(source: Source) -> Records:
    """Every span that is about a model, a tool or an agent, request by request."""
    converter = Converter()
    for record in source.records(_ARRAYS):
        if isinstance(record, BadRecord):
            yield record
            continue
        line, raw = record
        if source.sample.container == "object" or source.sample.unbroken:
            # The items of a wrapping object come one by one.
            raw = b'{"resourceSpans":[' + raw + b"]}"
        yield from _batch(source, line, raw, decode_json, converter)


def read_protobuf(source: Source) -> Records:
    """The same from binary files."""
    converter = Converter()
    number = 0
    try:
        for number, raw in enumerate(_requests(source), 1):
            yield from _batch(source, number, raw, decode_protobuf, converter)
    except InputError as error:
        yield source.bad(number + 1, str(error))


def _batch(
    source: Source,
    line: int,
    raw: bytes,
    decode: Callable[[bytes], Export],
    converter: Converter,
) -> Records:
    try:
        batch: Batch = converter.convert(decode(raw), received_at=source.tick())
    except InputError as error:
        yield source.bad(line, str(error))
        return
    yield from batch.entries
    for reason, count in batch.reasons.items():
        yield source.bad(line, f"{count} spans: {reason}")


# -- framing --


def _framing(head: bytes) -> str | None:
    """How requests stand in a binary file: ``single``, ``varint`` or ``big-endian``."""
    if len(head) > 6 and head[0] == 0 and head[4] == _FIELD:
        return "big-endian"
    if _is_request(head, 0):
        return "single"
    size, at = _varint(head, 0)
    return "varint" if size > 0 and _is_request(head, at) else None


def _is_request(data: bytes, at: int) -> bool:
    """Whether an export request's first field begins at ``at``."""
    if len(data) <= at + 2 or data[at] != _FIELD:
        return False
    size, inner = _varint(data, at + 1)
    return size > 0 and inner < len(data) and data[inner] in _INNER


def _varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A varint and where it ends; -1 when it is not whole, or too long for a size."""
    number = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    return -1, at


def _requests(source: Source) -> Iterator[bytes]:
    """Each request of a file. An unframed one comes in its parts, so that memory stays flat."""
    framing = _framing(source.sample.head)
    buffer = bytearray()
    for chunk in source.chunks():
        buffer += chunk
        while (cut := _cut(buffer, framing)) is not None:
            start, end = cut
            raw = bytes(buffer[start:end])
            del buffer[:end]
            yield b"\x0a" + varint(len(raw)) + raw if framing == "single" else raw
    if buffer:
        raise InputError("the file breaks off inside this request")


def _cut(buffer: bytearray, framing: str | None) -> tuple[int, int] | None:
    """Where the next request lies in the buffer; ``None`` when it is not whole yet."""
    if framing == "big-endian":
        if len(buffer) < 4:
            return None
        size, at = int.from_bytes(buffer[:4], "big"), 4
    elif framing == "single":
        if len(buffer) < 2:
            return None
        if buffer[0] != _FIELD:
            raise InputError("the bytes are no OTLP trace export from here on")
        size, at = _varint(buffer, 1)
    else:
        size, at = _varint(buffer, 0)
    if size < 0 and at > 5:
        raise InputError("the bytes are no OTLP trace export from here on")
    if size > MAX_RECORD:
        raise InputError(f"a request of {size} bytes is larger than {MAX_RECORD} bytes")
    return (at, at + size) if size >= 0 and len(buffer) >= at + size else None


JSON = Format(name="otlp-json", title="OTLP JSON", matches=matches_json, read=read_json)
PROTOBUF = Format(
    name="otlp-protobuf", title="OTLP protobuf", matches=matches_protobuf, read=read_protobuf
)
