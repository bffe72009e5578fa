"""Real JSON documents, the schemas that they fit, and one planted fault at a time."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FEW, _OFTEN = 8, 20
"""A text of so few values, seen so often, is taken for an enumeration."""
_FIELDS = 40
"""An object with more different fields than that is a map."""

Place = tuple[Any, ...]


@dataclass(frozen=True)
class Document:
    """A document that fits its schema. ``tool``: whose arguments it is; empty for an answer."""

    kind: str
    tool: str
    value: Any
    schema: dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """A document's text with one thing wrong. ``meant``: the allowed value that was changed."""

    text: str
    meant: str = ""


def documents(folder: Path) -> list[Document]:
    """tau-bench airline: arguments of the agents' tool calls, and what the tools answered.

    The schema of a kind is the narrowest that all of its documents fit.
    """
    runs = json.loads((folder / "agents/tau-bench-airline-gpt-4o.json").read_text())
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for run in runs:
        for message in run["traj"]:
            for call in message.get("tool_calls") or ():
                function = call["function"]
                value = json.loads(function["arguments"])
                found[f"arguments of {function['name']}", function["name"]].append(value)
            if message["role"] == "tool" and message["content"][:1] in ("{", "["):
                try:
                    value = json.loads(message["content"])
                except ValueError:
                    continue
                found[f"result of {message['name']}", ""].append(value)
    made = []
    for (kind, tool), values in sorted(found.items()):
        if len(values) < _OFTEN:
            continue
        schema = schema_of(values)
        made += [Document(kind, tool, value, schema) for value in values]
    return made


def schema_of(values: list[Any]) -> dict[str, Any]:
    """The narrowest schema that all values fit."""
    kinds: dict[str, list[Any]] = defaultdict(list)
    for value in values:
        kinds[_kind(value)].append(value)
    parts = [_part(kind, found) for kind, found in sorted(kinds.items())]
    return parts[0] if len(parts) == 1 else {"anyOf": parts}


def _kind(value: Any) -> str:
    names = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"))
    if value is None:
        return "null"
    for kind, name in names:
        if isinstance(value, kind):
            return name
    return "array" if isinstance(value, list) else "object"


def _part(kind: str, values: list[Any]) -> dict[str, Any]:
    if kind == "object":
        fields: dict[str, list[Any]] = defaultdict(list)
        for value in values:
            for name, inner in value.items():
                fields[name].append(inner)
        if len(fields) > _FIELDS:
            every = [inner for found in fields.values() for inner in found]
            return {"type": "object", "additionalProperties": schema_of(every)}
        return {
            "type": "object",
            "properties": {name: schema_of(found) for name, found in fields.items()},
            "required": [name for name, found in fields.items() if len(found) == len(values)],
            "additionalProperties": False,
        }
    if kind == "array":
        items = [item for value in values for item in value]
        return {"type": "array", **({"items": schema_of(items)} if items else {})}
    few = sorted(set(values)) if kind == "string" else []
    if few and len(few) <= _FEW and len(values) >= _OFTEN and max(map(len, few)) <= 40:
        return {"enum": few}
    return {"type": kind}


# -- faults --

Plant = Callable[[Document, random.Random], "Fault | None"]


def _places(value: Any, schema: dict[str, Any], at: Place = ()) -> Iterator[tuple[Place, Any, Any]]:
    yield at, value, schema
    if isinstance(value, dict):
        for name, inner in value.items():
            of = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(of, dict):
                yield from _places(inner, of, (*at, name))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, inner in enumerate(value):
            yield from _places(inner, schema["items"], (*at, number))


def _changed(value: Any, at: Place, new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = _changed(copy[at[0]], at[1:], new)
    return copy


def _enums(document: Document) -> list[tuple[Place, str, list[str]]]:
    return [
        (at, value, of["enum"])
        for at, value, of in _places(document.value, document.schema)
        if "enum" in of
    ]


def other_case(document: Document, rng: random.Random) -> Fault | None:
    """``MEDIUM`` becomes ``Medium``."""
    return _drifted(document, rng, lambda v: [v.upper(), v.lower(), v.title(), v.capitalize()])


def other_marks(document: Document, rng: random.Random) -> Fault | None:
    """``one_way`` becomes ``one way``."""
    return _drifted(document, rng, lambda v: [v.replace("_", m) for m in (" ", "-", "")])


def misspelt(document: Document, rng: random.Random) -> Fault | None:
    """One letter is missing."""
    return _drifted(document, rng, lambda v: [v[:i] + v[i + 1 :] for i in range(1, len(v))])


def _drifted(
    document: Document, rng: random.Random, ways: Callable[[str], list[str]]
) -> Fault | None:
    able = [
        (at, value, new)
        for at, value, allowed in _enums(document)
        for new in ways(value)
        if new not in allowed
    ]
    if not able:
        return None
    at, value, new = rng.choice(able)
    return Fault(json.dumps(_changed(document.value, at, new)), value)


def missing(document: Document, rng: random.Random) -> Fault | None:
    """A required field is left out."""
    able = [
        (at, value, name)
        for at, value, of in _places(document.value, document.schema)
        if isinstance(value, dict)
        for name in of.get("required", ())
    ]
    if not able:
        return None
    at, value, name = rng.choice(able)
    return Fault(
        json.dumps(_changed(document.value, at, {k: v for k, v in value.items() if k != name}))
    )


def added(document: Document, rng: random.Random) -> Fault | None:
    """A field that nobody knows."""
    able = [
        (at, value)
        for at, value, of in _places(document.value, document.schema)
        if isinstance(value, dict) and of.get("additionalProperties") is False
    ]
    if not able:
        return None
    at, value = rng.choice(able)
    return Fault(json.dumps(_changed(document.value, at, {**value, "note_to_self": "checked"})))


def other_type(document: Document, rng: random.Random) -> Fault | None:
    """A number in quotation marks, a text as a number, a list as its first item."""
    able = [
        (at, value)
        for at, value, of in _places(document.value, document.schema)
        if of.get("type") in ("string", "integer", "number", "boolean")
    ]
    if not able:
        return None
    at, value = rng.choice(able)
    new: Any = len(value) if isinstance(value, str) else str(value)
    return Fault(json.dumps(_changed(document.value, at, new)))


def _around(before: str, after: str) -> Plant:
    return lambda document, rng: Fault(f"{before}{json.dumps(document.value)}{after}")


def cut(document: Document, rng: random.Random) -> Fault | None:
    """It breaks off, although the finish reason says that it does not."""
    text = json.dumps(document.value)
    return Fault(text[: rng.randrange(1, len(text))]) if len(text) > 1 else None


PLANTS: dict[str, Plant] = {
    "allowed value in other case": other_case,
    "allowed value, other separator": other_marks,
    "allowed value, a letter missing": misspelt,
    "field missing": missing,
    "field added": added,
    "other type": other_type,
    "text before it": _around("Here is the JSON you asked for:\n", ""),
    "text after it": _around("", "\n\nLet me know if you need anything else!"),
    "in a code block": _around("```json\n", "\n```"),
    "breaks off": cut,
}


def untouched(document: Document) -> dict[str, str]:
    """The same document in other bytes: all of them fit."""
    value = document.value
    turned = dict(reversed(value.items())) if isinstance(value, dict) else value
    return {
        "as it is": json.dumps(value),
        "indented": json.dumps(value, indent=2),
        "compact, no escapes": json.dumps(value, separators=(",", ":"), ensure_ascii=False),
        "fields in other order": json.dumps(turned),
        "white space around it": f"\n  {json.dumps(value)}\n\n",
    }
