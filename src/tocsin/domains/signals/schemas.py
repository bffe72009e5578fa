"""Answers that must be JSON: the schemas that requests give, checked in bounded time.

Schemas come from whoever calls, so they are hostile: references to other documents are never
followed, patterns run in linear time (those that need more are not judged), and a schema that
unfolds to more steps than ``_STEPS`` for its answer is not judged, nor one whose references cannot
be followed by their paths.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from tocsin.core.interaction import Entry
from tocsin.core.messages import Hash, ToolCall
from tocsin.core.wire import text_of
from tocsin.domains.signals.text import MAX_ANSWER, loaded, params_of

_KEPT = 64
"""Compiled schemas, and requests' expectations, that are kept."""
_LARGEST = 1024 * 1024
"""Characters of an answer that is checked."""
_UNFOLDED = 50_000
"""Parts that a schema may have once its references are followed."""
_STEPS = 100_000_000
"""Parts of a schema times characters of an answer: one step takes some 10 ns."""
_DEEP = 100

_encode = msgspec.json.Encoder(order="deterministic").encode


class Verdict(msgspec.Struct, frozen=True):
    """What a schema says of an answer; ``value`` is ``None`` where it could not be checked."""

    signal: str
    value: float | None
    label: str | None = None
    explanation: str = ""


class Checker(msgspec.Struct, frozen=True):
    """A compiled schema. Without a ``validator`` anything is valid, unless ``why`` not judged."""

    validator: Any = None
    parts: int = 0
    recursive: bool = False
    why: str = ""

    def wrong(self, value: Any, size: int) -> str | None:
        """What is wrong with a value, empty where nothing is; ``None``: it cannot be checked."""
        if self.why or self.parts * size > _STEPS:
            return None
        if self.validator is None:
            return ""
        try:
            if self.validator.is_valid(value):
                return ""
            # Deciding is quick for schemas that contain themselves, naming the error is not.
            error = None if self.recursive else next(self.validator.iter_errors(value), None)
        except Exception:  # whatever a schema of a stranger makes the library raise
            return None
        if error is None:
            return "does not fit"
        keyword = next((str(p) for p in reversed(error.schema_path) if isinstance(p, str)), "")
        return f"{'/'.join(map(str, error.instance_path)) or 'value'}: {keyword}"[:200]


class Expected(msgspec.Struct, frozen=True):
    """What a request's parameters say of its answer."""

    json: bool = False
    answer: Checker = Checker()
    forced: str = ""
    """The tool that the answer has to call."""
    tools: dict[str, Checker] = {}


_NOTHING = Expected()


class Schemas:
    """Checks answers. Keeps what the latest requests expected and their compiled schemas."""

    def __init__(self) -> None:
        self._expected: dict[Hash, Expected] = {}
        self._checkers: dict[bytes, Checker] = {}

    def verdicts(self, entry: Entry, answer: str) -> Iterator[Verdict]:
        """What the request's schemas say of an answer; nothing where it has none."""
        calls = entry.output.calls if entry.output is not None else ()
        expected = self._of(entry)
        if expected.json and (answer.strip() or not calls):
            if len(answer) >= MAX_ANSWER and entry.output is not None:
                answer = text_of(entry.output.raw)
            yield _valid_text(expected.answer, answer)
        elif expected.forced:
            yield _forced(expected, calls)
        if calls and expected.tools:
            yield _valid_calls(expected, calls)

    def _of(self, entry: Entry) -> Expected:
        key = entry.interaction.params
        if key is None:
            return _NOTHING
        found = self._expected.get(key)
        if found is None:
            params = params_of(entry)
            if not params:
                return _NOTHING
            found = self._read(params)
            if len(self._expected) >= _KEPT:
                self._expected.pop(next(iter(self._expected)))
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
            found = compiled(schema)
            if len(self._checkers) >= _KEPT:
                self._checkers.pop(next(iter(self._checkers)))
            self._checkers[key] = found
        return found


def compiled(schema: Any) -> Checker:
    """A schema made ready to check values; never fails, never fetches."""
    shape = _Unfolding(schema)
    parts = shape.of(schema, 0)
    if parts > _UNFOLDED:
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


def _valid_text(checker: Checker, answer: str) -> Verdict:
    if len(answer) > _LARGEST:
        return Verdict("schema_valid", None, explanation="the answer is too large")
    value = loaded(answer)
    if value is None and answer.strip() != "null":
        return Verdict("schema_valid", 0.0, "no_json", "the answer is no JSON")
    wrong = checker.wrong(value, len(answer))
    if wrong is None:
        return Verdict("schema_valid", None, explanation=checker.why or "too large to check")
    return Verdict("schema_valid", float(not wrong), "misfit" if wrong else "fits", wrong)


def _forced(expected: Expected, calls: tuple[ToolCall, ...]) -> Verdict:
    wanted = [call for call in calls if call.name == expected.forced]
    if not wanted:
        return Verdict("schema_valid", 0.0, "no_call", f"{expected.forced} was not called"[:200])
    return _worst("schema_valid", [_wrong_call(expected, call) for call in wanted])


def _valid_calls(expected: Expected, calls: tuple[ToolCall, ...]) -> Verdict:
    return _worst("tool_arguments_valid", [_wrong_call(expected, call) for call in calls])


def _worst(signal: str, found: list[str | None]) -> Verdict:
    wrong = next((w for w in found if w), "")
    if wrong:
        return Verdict(signal, 0.0, "misfit", wrong[:200])
    if None in found:
        return Verdict(signal, None, explanation="too large to check")
    return Verdict(signal, 1.0, "fits")


def _wrong_call(expected: Expected, call: ToolCall) -> str | None:
    checker = expected.tools.get(call.name)
    if checker is None:
        return f"{call.name[:80]}: no such tool"
    if checker.validator is None and not checker.why:
        return ""
    if len(call.arguments) > _LARGEST:
        return None
    value = loaded(call.arguments or "{}")
    if not isinstance(value, dict):
        return f"{call.name[:80]}: the arguments are no JSON object"
    wrong = checker.wrong(value, len(call.arguments))
    return f"{call.name[:80]}: {wrong}" if wrong else wrong


def readable(text: str) -> bool:
    """Whether a text is JSON."""
    return loaded(text) is not None


def looks_like_json(text: str) -> bool:
    """Whether a text begins as a JSON object or array does."""
    head = text[1:64].lstrip()
    return head[:1] in ('"', "{", "[", "}", "]")
