"""Says in words what a setting allows: for the documentation and for error messages alike."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
    "null": "`false`",
    "array": "a list",
    "object": "a table",
}


def schema_of(model: type[BaseModel]) -> Mapping[str, Any]:
    """The JSON schema of a section, with everything that it refers to in place."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    inlined: Mapping[str, Any] = _inline(schema, definitions)
    return inlined


def schema_at(schema: Mapping[str, Any], path: Sequence[str | int]) -> Mapping[str, Any] | None:
    """The schema of the setting at ``path`` below ``schema``; ``None`` when there is no such."""
    found: Any = schema
    for part in path:
        if "properties" in found:
            found = found["properties"].get(part)
        elif found.get("type") == "object":
            found = found.get("additionalProperties")
        else:
            found = found.get("items")
        if not isinstance(found, dict):
            return None
    return cast("Mapping[str, Any]", found)


def allowed(schema: Mapping[str, Any]) -> str:
    """What a setting may be, such as ``a whole number from 0 to 65,535``."""
    if "anyOf" in schema:
        return " or ".join(allowed(part) for part in schema["anyOf"])
    if "enum" in schema:
        return _choice(schema["enum"])
    if "const" in schema:
        return f"`{toml(schema['const'])}`"
    kind = schema.get("type", "")
    words = _TYPES.get(kind, "any value")
    if kind in ("integer", "number"):
        return words + _range(schema)
    if kind == "array":
        items = schema.get("items", {})
        return "a list of tables" if items.get("type") == "object" else "a list of texts"
    if kind == "object" and "additionalProperties" in schema:
        inner = schema["additionalProperties"]
        if isinstance(inner, dict) and inner.get("type") != "object":
            return f"a table of names, each {allowed(inner)}"
    return words


def default(schema: Mapping[str, Any]) -> str:
    """The default as it would be written in the file; empty when the setting must be given."""
    if "default" not in schema:
        return ""
    value = schema["default"]
    return "not set" if value is None else f"`{toml(value)}`"


def _inline(part: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with its references replaced by what they name."""
    if isinstance(part, dict):
        if "$ref" in part:
            target = _inline(definitions[part["$ref"].rsplit("/", 1)[1]], definitions)
            return {**target, **{k: v for k, v in part.items() if k != "$ref"}}
        return {key: _inline(value, definitions) for key, value in part.items()}
    if isinstance(part, list):
        return [_inline(value, definitions) for value in part]
    return part


def _choice(values: list[Any]) -> str:
    shown = [f"`{toml(value)}`" for value in values]
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _range(schema: Mapping[str, Any]) -> str:
    """Bounds in words, with a space before them; empty without bounds."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if low is not None:
        return f" from {low:,g} to {high:,g}" if high is not None else f", {low:,g} or more"
    parts = [f"above {above:,g}"] if above is not None else []
    parts += [f"up to {high:,g}"] if high is not None else []
    parts += [f"below {below:,g}"] if below is not None else []
    return " " + " and ".join(parts) if parts else ""


def toml(value: Any) -> str:
    """A value as it stands in a TOML file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{}"
    return f"{value:g}" if isinstance(value, float) else str(value)
