"""Answers that must be JSON, and schemas that mean harm."""

import time
from typing import Any

import pytest

from support.chats import asked, values
from tocsin.core.schemas import compiled, unfolded
from tocsin.domains.signals.form import FormEvaluator
from tocsin.domains.signals.schemas import Schemas

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL_OPENAI = {"type": "function", "function": {"name": "book", "parameters": SCHEMA}}
TOOL_ANTHROPIC = {"name": "book", "input_schema": SCHEMA}


def of(answer: Any, params: Any) -> dict[str, float | None]:
    entry = asked("Plan a trip.", answer, params=params)
    return values(FormEvaluator().evaluate(entry))


def called(arguments: str, name: str = "book") -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


@pytest.mark.parametrize(
    "params",
    [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "t", "schema": SCHEMA},
            }
        },
        {"text": {"format": {"type": "json_schema", "name": "t", "schema": SCHEMA}}},
        {"output_format": {"type": "json_schema", "schema": SCHEMA}},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ],
)
def test_an_answer_is_checked_against_the_schema_of_either_dialect(params: Any) -> None:
    assert of('{"city": "Oslo", "days": 3}', params)["schema_valid"] == 1.0
    assert of('{"city": "Oslo", "days": 0}', params)["schema_valid"] == 0.0
    assert of('{"city": "Oslo"}', params)["schema_valid"] == 0.0
    assert of("Three days in Oslo.", params)["schema_valid"] == 0.0
    assert of('```json\n{"city": "Oslo", "days": 3}\n```', params)["schema_valid"] == 0.0


def test_what_is_wrong_is_said_without_the_answers_words() -> None:
    params = {"output_format": {"type": "json_schema", "schema": SCHEMA}}
    entry = asked("Plan.", '{"city": "a secret", "days": "many"}', params=params)
    score = next(s for s in FormEvaluator().evaluate(entry) if s.name == "schema_valid")
    assert (score.label, score.explanation) == ("misfit", "days: type")


def test_json_mode_asks_for_an_object() -> None:
    params = {"response_format": {"type": "json_object"}}
    assert of('{"a": 1}', params)["schema_valid"] == 1.0
    assert of("[1]", params)["schema_valid"] == 0.0
    assert "schema_valid" not in of("Hello.", {"response_format": {"type": "text"}})
    assert "schema_valid" not in of("Hello.", {})


@pytest.mark.parametrize(
    ("tool", "choice"),
    [
        (TOOL_OPENAI, {"type": "function", "function": {"name": "book"}}),
        (TOOL_ANTHROPIC, {"type": "tool", "name": "book"}),
    ],
)
def test_a_forced_tool_is_an_answer_with_a_schema(tool: Any, choice: Any) -> None:
    params = {"tools": [tool], "tool_choice": choice}
    good = of(called('{"city": "Oslo", "days": 3}'), params)
    assert (good["schema_valid"], good["tool_arguments_valid"]) == (1.0, 1.0)
    assert of(called('{"city": "Oslo"}'), params)["schema_valid"] == 0.0
    assert of("I would rather talk.", params)["schema_valid"] == 0.0


def test_tool_calls_name_known_tools_with_fitting_arguments() -> None:
    params = {"tools": [TOOL_OPENAI, {"type": "web_search", "name": "web"}]}
    assert of(called('{"city": "Oslo", "days": 3}'), params)["tool_arguments_valid"] == 1.0
    assert of(called('{"city": 4, "days": 3}'), params)["tool_arguments_valid"] == 0.0
    assert of(called('{"city": "Oslo", '), params)["tool_arguments_valid"] == 0.0
    assert of(called("{}", name="fly"), params)["tool_arguments_valid"] == 0.0
    assert of(called("anything", name="web"), params)["tool_arguments_valid"] == 1.0
    assert "tool_arguments_valid" not in of(called("{}"), {})
    assert "schema_valid" not in of(called("{}"), {"response_format": {"type": "json_object"}})


def bomb(levels: int) -> dict[str, Any]:
    """A schema that doubles at each level."""
    twice = {
        f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]}
        for n in range(levels)
    }
    return {"$defs": {**twice, f"a{levels}": {"type": "object"}}, "$ref": "#/$defs/a0"}


def deep(levels: int) -> Any:
    schema: Any = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        bomb(40),
        deep(400),
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$schema": "http://127.0.0.1:9/meta", "type": "object"},
        {"properties": {"a": {"pattern": "(a{1000}){1000}"}}},
        {"properties": {"a": {"pattern": r"(a+)+\1"}}},
        {"type": "no such type"},
        [1],
        "text",
    ],
)
def test_a_hostile_or_broken_schema_is_not_judged(schema: Any) -> None:
    began = time.process_time()
    params = {"output_format": {"type": "json_schema", "schema": schema}}
    assert of('{"a": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"}', params)["schema_valid"] is None
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": "^(a+)+$"}}},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}},
        {"$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}}, "$ref": "#/$defs/x"},
        {"additionalProperties": {"oneOf": [{"$ref": "#"}, {"not": {"$ref": "#"}}]}},
    ],
)
def test_a_schema_that_goes_round_ends(schema: Any) -> None:
    began = time.process_time()
    inner = '{"a": ' * 60 + '"' + "a" * 2_000 + 'b"' + "}" * 60
    params = {"output_format": {"type": "json_schema", "schema": schema}}
    of(inner, params)
    of('{"a": "' + "a" * 2_000 + 'b"}', params)
    assert time.process_time() - began < 1.0


def test_unfolding_counts_each_use_of_a_reference() -> None:
    assert unfolded({"type": "object"}) == 1
    assert unfolded(bomb(3)) > 2**3
    assert unfolded(bomb(40)) > 50_000
    assert unfolded({"$ref": "#"}) < 5
    assert compiled(bomb(40)).why
    assert compiled(True).wrong({}, 2) == ""
    assert compiled(False).wrong({}, 2) != ""


def test_what_requests_expect_is_kept_in_bounded_memory() -> None:
    schemas = Schemas()
    for number in range(200):
        params = {"output_format": {"type": "json_schema", "schema": {"const": number}}}
        list(schemas.verdicts(asked("x", "1", params=params), "1"))
    assert len(schemas._expectations._expected) <= 64
    assert len(schemas._expectations._checkers) <= 64
