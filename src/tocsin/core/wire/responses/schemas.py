"""``closed``: a JSON schema in the narrower form that Anthropic's structured outputs take."""

from collections.abc import Mapping
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode
_FORMATS = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "uri",
        "ipv4",
        "ipv6",
        "uuid",
    }
)
_KEPT = frozenset({"$ref", "const", "default", "description", "enum", "title", "type", "required"})


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` with every object closed. What it cannot state is told in descriptions, so that
    the model may keep to it; whether it did is a check of the answer."""
    found: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _KEPT:
            found[name] = value
        elif name in ("properties", "$defs", "definitions") and isinstance(value, dict):
            found[name] = {key: _inner(inner) for key, inner in value.items()}
        elif name in ("anyOf", "oneOf", "allOf") and isinstance(value, list):
            word = "anyOf" if name == "oneOf" else name
            found[word] = [_inner(inner) for inner in value]
        elif name == "items" and isinstance(value, dict):
            found[name] = closed(value)
        elif (name == "format" and value in _FORMATS) or (name == "minItems" and value in (0, 1)):
            found[name] = value
        elif name not in ("additionalProperties", "$schema", "$id"):
            told[name] = value
    if found.get("type") == "object" or "properties" in found:
        found["additionalProperties"] = False
    if told:
        before = found.get("description")
        rest = _encode(told).decode()
        found["description"] = f"{before}\n\n{rest}" if before else rest
    return found


def _inner(value: Any) -> Any:
    return closed(value) if isinstance(value, dict) else value
