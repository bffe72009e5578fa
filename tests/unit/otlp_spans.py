"""Builds OTLP requests for tests: one description, both encodings."""

from typing import Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

TRACE = "0af7651916cd43dd8448eb211c80319c"
SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND


def span(number: int, attributes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A span with the id ``number``; ``more`` may set parent, name, start, seconds, status, …"""
    return {"number": number, "attributes": attributes, **more}


def to_json(spans: list[dict[str, Any]], resource: dict[str, Any] | None = None) -> bytes:
    """OTLP JSON: hex ids, camelCase, int64 as text."""
    group = {
        "resource": {"attributes": _json_attributes(resource or {})},
        "scopeSpans": [{"scope": {"name": "test"}, "spans": [_json_span(s) for s in spans]}],
    }
    return msgspec.json.encode({"resourceSpans": [group]})


def to_protobuf(spans: list[dict[str, Any]], resource: dict[str, Any] | None = None) -> bytes:
    """The same in binary."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    _fill(group.resource.attributes, resource or {})
    scope = group.scope_spans.add()
    for given in spans:
        made = scope.spans.add()
        made.trace_id = bytes.fromhex(given.get("trace", TRACE))
        made.span_id = given["number"].to_bytes(8, "big")
        if given.get("parent"):
            made.parent_span_id = given["parent"].to_bytes(8, "big")
        made.name = given.get("name", "")
        made.start_time_unix_nano = _start(given)
        made.end_time_unix_nano = _end(given)
        made.status.code = given.get("status", 0)
        made.status.message = given.get("message", "")
        _fill(made.attributes, given["attributes"])
        for name, attributes in given.get("events", ()):
            event = made.events.add()
            event.name = name
            event.time_unix_nano = _start(given) + SECOND // 10
            _fill(event.attributes, attributes)
    return request.SerializeToString()


def _start(given: dict[str, Any]) -> int:
    return given.get("start", START + given["number"] * SECOND)


def _end(given: dict[str, Any]) -> int:
    return _start(given) + int(given.get("seconds", 0.5) * SECOND)


def _json_span(given: dict[str, Any]) -> dict[str, Any]:
    return {
        "traceId": given.get("trace", TRACE),
        "spanId": f"{given['number']:016x}",
        "parentSpanId": f"{given['parent']:016x}" if given.get("parent") else "",
        "name": given.get("name", ""),
        "kind": 3,
        "startTimeUnixNano": str(_start(given)),
        "endTimeUnixNano": str(_end(given)),
        "status": {"code": given.get("status", 0), "message": given.get("message", "")},
        "attributes": _json_attributes(given["attributes"]),
        "events": [
            {
                "name": name,
                "timeUnixNano": str(_start(given) + SECOND // 10),
                "attributes": _json_attributes(attributes),
            }
            for name, attributes in given.get("events", ())
        ],
    }


def _json_attributes(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _json_value(value)} for key, value in attributes.items()]


def _json_value(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [_json_value(item) for item in value]}}
        case dict():
            return {"kvlistValue": {"values": _json_attributes(value)}}
    raise TypeError(value)


def _fill(into: Any, attributes: dict[str, Any]) -> None:
    for key, value in attributes.items():
        pair = into.add()
        pair.key = key
        _set(pair.value, value)


def _set(into: AnyValue, value: Any) -> None:
    match value:
        case bool():
            into.bool_value = value
        case int():
            into.int_value = value
        case float():
            into.double_value = value
        case str():
            into.string_value = value
        case list():
            into.array_value.SetInParent()
            for item in value:
                _set(into.array_value.values.add(), item)
        case dict():
            into.kvlist_value.SetInParent()
            for key, item in value.items():
                pair = into.kvlist_value.values.add()
                pair.key = key
                _set(pair.value, item)
