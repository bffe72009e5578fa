"""Answers that must be JSON: the schemas that requests give, checked in bounded time.

Schemas come from whoever calls, so they are hostile: references to other documents are never
followed, patterns run in linear time (those that need more are not judged), and a schema that
unfolds to more steps than allowed for its answer is not judged, nor one whose references cannot
be followed by their paths.
"""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from hashlib import blake2b
from itertools import islice
from typing import Any

import msgspec

LARGEST = 1024 * 1024
"""Characters of an answer that is checked."""
_UNFOLDED = 50_000
"""Parts that a schema may have once its references are followed."""
_STEPS = 100_000_000
"""Parts of a schema times characters of an answer: one step takes some 10 ns at worst."""
_DEEP = 100
_FAULTS = 3
"""Faults of one value that are named."""
_SHOWN = 80
"""Characters of a value that a fault shows."""
_OPTIONS = 200
"""Allowed values among which the nearest is looked for."""

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder().decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def loaded(data: bytes | str) -> Any:
    """A JSON value; ``None`` when it cannot be read."""
    try:
        return _decode(data)
    except _UNREADABLE:
        return None


def unreadable(text: str) -> str:
    """Why a text is no JSON, in a few words; empty where it is."""
    try:
        _decode(text)
    except RecursionError:
        return "the JSON is nested too deeply"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        said = str(error)
    else:
        return ""
    stripped = text.strip()
    if not stripped:
        return "the answer is empty"
    if stripped.startswith("```"):
        return "the JSON stands in a code block"
    if stripped[0] in "{[":
        if "truncated" in said:
            return "the JSON breaks off"
        if "trailing characters" in said:
            return "text follows the JSON"
        return said.lower().replace("json is malformed", "the JSON is malformed")
    at = min((i for i in (stripped.find("{"), stripped.find("[")) if i >= 0), default=-1)
    if at > 0 and stripped[-1] in "}]" and loaded(stripped[at:]) is not None:
        return "text precedes the JSON"
    return "the answer is no JSON"


class Checker(msgspec.Struct, frozen=True):
    """A compiled schema. Without a ``validator`` anything is valid, unless ``why`` not judged."""

    validator: Any = None
    parts: int = 0
    recursive: bool = False
    why: str = ""

    def fits(self, value: Any, size: int, steps: int = _STEPS) -> bool | None:
        """Whether a value of ``size`` characters fits; ``None``: it cannot be checked."""
        if self.why or self.parts * size > steps:
            return None
        if self.validator is None:
            return True
        try:
            fits: bool = self.validator.is_valid(value)
        except Exception:  # whatever a schema of a stranger makes the library raise
            return None
        return fits

    def wrong(self, value: Any, size: int) -> str | None:
        """What is wrong with a value, empty where nothing is; ``None``: it cannot be checked.

        Named by its place and the schema's keyword: no word of the value is in it.
        """
        fits = self.fits(value, size)
        return "" if fits else None if fits is None else self.faults(value, quote=False, most=1)

    def faults(self, value: Any, *, quote: bool = True, most: int = _FAULTS) -> str:
        """What is wrong with a value that does not fit: where, what, and what is allowed.

        Without ``quote`` no word of the value is in it.
        """
        # Deciding is quick for schemas that contain themselves, naming the error is not.
        if self.recursive or self.validator is None:
            return "does not fit"
        try:
            errors = list(islice(self.validator.iter_errors(value), most))
            return "; ".join([_fault(error, quote) for error in errors]) or "does not fit"
        except Exception:  # as above
            return "does not fit"


class Expected(msgspec.Struct, frozen=True):
    """What a request's parameters say of its answer."""

    json: bool = False
    answer: Checker = Checker()
    forced: str = ""
    """The tool that the answer has to call."""
    tools: dict[str, Checker] = {}


NOTHING = Expected()


class Expectations:
    """What the latest requests expected, with their compiled schemas."""

    def __init__(self, *, kept: int = 64, most_parts: int = _UNFOLDED) -> None:
        self._kept = kept
        self._most_parts = most_parts
        self._expected: dict[bytes, Expected] = {}
        self._checkers: dict[bytes, Checker] = {}

    def of(self, key: bytes, params: Callable[[], Any]) -> Expected:
        """What the parameters named by ``key`` say; ``params`` reads them, if it must."""
        found = self._expected.get(key)
        if found is None:
            value = params()
            if not isinstance(value, dict) or not value:
                return NOTHING
            found = self._read(value)
            _room(self._expected, self._kept)
            self._expected[key] = found
        return found

    def _read(self, params: dict[str, Any]) -> Expected:
        json, schema = _format(params)
        tools = {name: self._checker(tool) for name, tool in _tools(params)}
        forced = _forced_name(params)
        checker = self._checker(schema) if schema is not None else Checker()
        return Expected(json, checker, forced, tools)

    def _checker(self, schema: Any) -> Checker:
        if schema is None:
            return Checker()
        try:
            key = blake2b(_encode(schema), digest_size=16).digest()
        except (TypeError, ValueError, RecursionError):
            return Checker(why="the schema cannot be read")
        found = self._checkers.get(key)
        if found is None:
            found = compiled(schema, self._most_parts)
            _room(self._checkers, self._kept)
            self._checkers[key] = found
        return found


def _room(kept: dict[bytes, Any], most: int) -> None:
    if len(kept) >= most:
        kept.pop(next(iter(kept)))


def compiled(schema: Any, most_parts: int = _UNFOLDED) -> Checker:
    """A schema made ready to check values; never fails, never fetches."""
    shape = _Unfolding(schema)
    parts = shape.of(schema, 0)
    if parts > most_parts:
        return Checker(why="the schema is too large")
    from jsonschema_rs import RegexOptions, validator_for

    try:
        validator = validator_for(
            schema,
            offline=True,
            validate_formats=False,
            pattern_options=RegexOptions(size_limit=1_000_000),
        )
    except Exception:  # whatever a schema of a stranger makes the library raise
        return Checker(why="the schema cannot be used")
    return Checker(validator, parts, shape.recursive)


def unfolded(schema: Any) -> int:
    """How many parts a schema has once its references are followed, each as often as it is used.

    A reference to what contains it counts once. Capped just above the largest number allowed,
    which is also what a schema counts whose references are no paths.
    """
    return _Unfolding(schema).of(schema, 0)


class _Unfolding:
    """Sizes of a schema's parts, and whether it contains itself."""

    def __init__(self, root: Any) -> None:
        self.recursive = False
        self._root = root
        self._sizes: dict[str, int] = {}
        self._open: set[str] = set()

    def of(self, node: Any, depth: int) -> int:
        if depth > _DEEP:
            return _UNFOLDED + 1
        total = 1
        inner: Any = node if isinstance(node, list) else ()
        if isinstance(node, dict):
            if any(isinstance(node.get(word), str) for word in _NO_PATHS[depth == 0 :]):
                return _UNFOLDED + 1
            reference = node.get("$ref")
            if isinstance(reference, str):
                total += self._at(reference, depth)
            inner = [v for k, v in node.items() if k not in ("$defs", "definitions")]
        for value in inner:
            if isinstance(value, dict | list):
                total += self.of(value, depth + 1)
            if total > _UNFOLDED:
                break
        return min(total, _UNFOLDED + 1)

    def _at(self, reference: str, depth: int) -> int:
        if reference in self._open:
            self.recursive = True
            return 1
        if reference not in self._sizes:
            node = _target(self._root, reference)
            if node is None:
                return _UNFOLDED + 1
            self._open.add(reference)
            self._sizes[reference] = self.of(node, depth + 1)
            self._open.discard(reference)
        return self._sizes[reference]


_NO_PATHS = ("$id", "$dynamicRef", "$recursiveRef")
"""Words that make references mean something else; the first one is usual at the top."""


def _target(root: Any, reference: str) -> Any:
    """What a local reference points to; ``None`` for any other reference."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    node = root
    for step in reference.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, list) and step.isdigit() and len(step) < 6:
            node = node[int(step)] if int(step) < len(node) else None
        else:
            return None
    return node


def _format(params: dict[str, Any]) -> tuple[bool, Any]:
    """Whether JSON is asked for, and the schema that it has to fit, in either dialect."""
    text, config = params.get("text"), params.get("output_config")
    for asked in (
        params.get("response_format"),
        text.get("format") if isinstance(text, dict) else None,
        params.get("output_format"),
        config.get("format") if isinstance(config, dict) else None,
    ):
        if not isinstance(asked, dict):
            continue
        if asked.get("type") == "json_object":
            return True, {"type": "object"}
        if asked.get("type") == "json_schema":
            inner = asked.get("json_schema")
            holder = inner if isinstance(inner, dict) else asked
            return True, holder.get("schema")
    return False, None


def _tools(params: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names of the request's tools with the schemas of their arguments, if they have one."""
    for field in ("tools", "functions"):
        listed = params.get(field)
        for tool in listed if isinstance(listed, list) else ():
            if not isinstance(tool, dict):
                continue
            inner = tool.get("function") or tool.get("custom")
            holder = inner if isinstance(inner, dict) else tool
            name = holder.get("name")
            if isinstance(name, str):
                yield name, holder.get("parameters", holder.get("input_schema"))


def _forced_name(params: dict[str, Any]) -> str:
    choice = params.get("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") not in ("tool", "function"):
        return ""
    inner = choice.get("function")
    name = (inner if isinstance(inner, dict) else choice).get("name")
    return name if isinstance(name, str) else ""


# -- faults in words --


def _fault(error: Any, quote: bool) -> str:
    """One fault. Of alternatives, none of which fits, the one that lists allowed values."""
    place = ".".join(map(str, error.instance_path)) or "value"
    if not quote:
        keyword = next((str(p) for p in reversed(error.schema_path) if isinstance(p, str)), "")
        return f"{'/'.join(map(str, error.instance_path)) or 'value'}: {keyword}"[:200]
    allowed = _allowed(error)
    if allowed is not None:
        return f"{_cut(place)}: {_not_allowed(error.instance, allowed)}"
    kind = error.kind
    if kind.name in ("anyOf", "oneOf", "not"):
        said = f"{_cut(_json(error.instance))} fits none of the alternatives ({kind.name})"
    elif kind.name == "required":
        said = f"{_json(kind.property)} is missing"
    elif kind.name == "type":
        said = f"{_cut(_json(error.instance))} is no {' or '.join(kind.types)}"
    else:
        said = error.message if len(error.message) <= 3 * _SHOWN else f"breaks {kind.name}"
    return f"{_cut(place)}: {said}"


def _allowed(error: Any) -> list[Any] | None:
    """The values that an ``enum`` or ``const`` allows, also as one of several alternatives."""
    kind = error.kind
    if kind.name == "enum":
        return list(kind.options)
    if kind.name == "const":
        return [kind.expected_value]
    if kind.name not in ("anyOf", "oneOf"):
        return None
    found: list[Any] = []
    for branch in kind.context:
        for inner in branch:
            if inner.kind.name == "enum" and inner.instance_path == error.instance_path:
                found += inner.kind.options
            elif inner.kind.name == "const" and inner.instance_path == error.instance_path:
                found.append(inner.kind.expected_value)
    return found or None


def _not_allowed(value: Any, allowed: list[Any]) -> str:
    said = f"{_cut(_json(value))} is not allowed"
    near = nearest(value, allowed)
    if near is not None:
        said += f", nearest is {_cut(_json(near))}"
    shown = ", ".join([_cut(_json(option)) for option in allowed[:8]])
    return f"{said} (one of {shown}{', ...' if len(allowed) > 8 else ''})"


def nearest(value: Any, allowed: list[Any]) -> Any:
    """The allowed value that was most likely meant; ``None`` without one that is close."""
    if isinstance(value, dict | list) or value is None:
        return None
    texts: dict[str, Any] = {}
    for option in allowed[:_OPTIONS]:
        if option is not None and not isinstance(option, dict | list):
            texts.setdefault(_folded(option), option)
    meant = _folded(value)
    if meant in texts:
        return texts[meant]
    close = get_close_matches(meant, texts, n=1, cutoff=0.6)
    return texts[close[0]] if close else None


def _folded(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    return "".join(c for c in text[:_SHOWN].casefold() if c.isalnum()) or text[:_SHOWN]


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return "the value"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
