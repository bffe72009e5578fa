"""What answers are checked for, and what they are called then."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.chats import chat
from tocsin.config.checks import function_problems, problems, warnings
from tocsin.config.model import Config
from tocsin.core.call import Call
from tocsin.core.meaning import Check, Meaning
from tocsin.core.messages import Message, parse_message
from tocsin.core.outcome import OUTCOMES
from tocsin.core.schemas import nearest, unreadable
from tocsin.domains.signals.form import FormEvaluator
from tocsin.runtime.meaning import Judge, headers_of
from tocsin.worker.judging import _said
from unit.calls import call, message

LEVELS = {"enum": ["LOW", "MEDIUM", "HIGH"]}
TICKET: dict[str, Any] = {
    "type": "object",
    "properties": {"level": LEVELS, "days": {"type": "integer"}},
    "required": ["level", "days"],
    "additionalProperties": False,
}
GOOD = '{"level": "LOW", "days": 1}'


def asked(feature: str = "default", **params: Any) -> Call:
    made = call([message("user", "Rate this.")], feature=feature)
    return made.evolve(params=json.dumps({"model": "m", **params}).encode())


def output(content: Any, **more: Any) -> Message:
    return parse_message(json.dumps(message("assistant", content, **more)).encode())


def tool_call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def judged(
    answer: Any, made: Call | None = None, *, judge: Judge | None = None, **more: Any
) -> Meaning:
    said = answer if isinstance(answer, Message) else output(answer)
    return (judge or Judge()).of(made or asked(), "complete", reason="stop", output=said, **more)


def with_schema(schema: Any) -> Call:
    return asked(output_format={"type": "json_schema", "schema": schema})


def found(meaning: Meaning, name: str) -> Check:
    return next(check for check in meaning.checks if check.name == name)


def judge_with(own: Any = None, store: Any = None, /, **checks: Any) -> Judge:
    config = {"features": {"f": {"checks": checks}}, "store": store or {}}
    return Judge(Config.model_validate(config), own or {})


# -- schemas --


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "the answer is empty"),
        ("Three days.", "the answer is no JSON"),
        (f"```json\n{GOOD}\n```", "the JSON stands in a code block"),
        (f"Here it is: {GOOD}", "text precedes the JSON"),
        (f"{GOOD}\nI hope this helps!", "text follows the JSON"),
        (GOOD[:-6], "the JSON breaks off"),
        ('{"level": "LOW", "days": 1,}', "the json is malformed: trailing comma"),
        ('{"level": "LOW"}', 'value: "days" is missing'),
        ('{"level": "LOW", "days": "1"}', 'days: "1" is no integer'),
        ('{"level": "LOW", "days": 1, "note": ""}', "note"),
        ('{"level": "Low", "days": 1}', 'level: "Low" is not allowed, nearest is "LOW"'),
        ('{"level": "URGENT", "days": 1}', 'level: "URGENT" is not allowed (one of "LOW"'),
        ("[]", "value: [] is no object"),
        ("null", "value: null is no object"),
    ],
)
def test_what_is_wrong_with_an_answer_is_named(answer: str, why: str) -> None:
    meaning = judged(answer, with_schema(TICKET))
    assert meaning.outcome == "invalid"
    assert why.lower() in found(meaning, "schema").detail.lower()
    assert found(meaning, "schema").said == "validator"


def test_all_faults_of_a_small_answer_are_named() -> None:
    detail = found(judged('{"level": "low", "days": "x"}', with_schema(TICKET)), "schema").detail
    assert 'days: "x" is no integer' in detail
    assert 'nearest is "LOW"' in detail


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [LEVELS, {"type": "null"}]},
        {"oneOf": [{"const": "LOW"}, {"const": "MEDIUM"}]},
        {"$ref": "#/$defs/l", "$defs": {"l": LEVELS}},
    ],
)
def test_a_drifted_value_is_named_also_among_alternatives(schema: Any) -> None:
    detail = found(judged('"Medium"', with_schema(schema)), "schema").detail
    assert '"Medium" is not allowed, nearest is "MEDIUM"' in detail


def test_the_nearest_value_is_the_one_that_was_meant() -> None:
    assert nearest("in progress", ["IN_PROGRESS", "DONE"]) == "IN_PROGRESS"
    assert nearest("3", [1, 2, 3]) == 3
    assert nearest("cancelled", ["canceled", "open"]) == "canceled"
    assert nearest("purple", ["red", "green"]) is None
    assert nearest(None, ["null"]) is None


def test_a_mode_without_schema_asks_for_an_object_alone() -> None:
    made = asked(response_format={"type": "json_object"})
    assert judged('{"anything": 1}', made).outcome == "complete"
    assert judged("[1]", made).outcome == "invalid"
    assert judged("hello", made).outcome == "invalid"
    assert judged("hello", asked(response_format={"type": "text"})).outcome == "complete"
    assert judged("hello", asked(text={"format": {"type": "text"}})).outcome == "complete"


def test_what_cannot_be_checked_is_neither_passed_nor_failed() -> None:
    large = judged(output("x" * 1_100_000), with_schema(TICKET))
    assert (large.outcome, found(large, "schema").verdict) == ("complete", "unsure")
    clipped = judged("{}", with_schema(TICKET), clipped=True)
    assert (clipped.outcome, found(clipped, "schema").verdict) == ("complete", "unsure")
    huge = with_schema({**TICKET, "description": "x" * 5_000_000})
    assert found(judged("no JSON", huge), "schema").verdict == "unsure"
    remote = judged("{}", with_schema({"$ref": "https://example.com/schema.json"}))
    assert (remote.outcome, found(remote, "schema").verdict) == ("complete", "unsure")
    assert "schema" in found(remote, "schema").detail


def test_a_hostile_schema_does_not_hold_the_loop_up() -> None:
    part: Any = {"type": "string"}
    for _ in range(12):
        part = {"anyOf": [part, {"properties": {"a": part}}]}
    node = {"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"items": {"$ref": "#"}}]}
    deep = '{"a":' * 400 + "1" + "}" * 400
    for schema in (part, node, {"pattern": "(a+)+$"}):
        started = time.perf_counter()
        judged(deep if schema is not part else '{"a": 1}', with_schema(schema))
        assert time.perf_counter() - started < 1.0


# -- tools --

TOOLS = [{"type": "function", "function": {"name": "rate", "parameters": TICKET}}]


def calling(*calls: dict[str, Any], **params: Any) -> Meaning:
    return judged(output(None, tool_calls=list(calls)), asked(**params))


@pytest.mark.parametrize(
    ("name", "arguments", "verdict", "why"),
    [
        ("rate", GOOD, "pass", ""),
        ("rate", '{"level": "Low", "days": 1}', "fail", 'nearest is "LOW"'),
        ("rate", "{", "fail", "the JSON breaks off"),
        ("rate", "[1]", "fail", "no JSON object"),
        ("rate", "", "fail", '"level" is missing'),
        ("Rate", GOOD, "fail", "there is no tool Rate, nearest is rate"),
    ],
)
def test_arguments_are_held_to_their_tool(
    name: str, arguments: str, verdict: str, why: str
) -> None:
    meaning = calling(tool_call(name, arguments), tools=TOOLS)
    check = found(meaning, "tool_arguments")
    assert check.verdict == verdict
    assert why in check.detail
    assert meaning.outcome == ("complete" if verdict == "pass" else "invalid")


def test_one_wrong_call_among_several_is_enough() -> None:
    calls = [tool_call("rate", GOOD)] * 3
    assert calling(*calls, tools=TOOLS).outcome == "complete"
    assert calling(*calls, tool_call("rate", "{}"), tools=TOOLS).outcome == "invalid"


def test_tools_that_nobody_declared_are_not_judged() -> None:
    meaning = calling(tool_call("rate", "{}"))
    assert (meaning.outcome, found(meaning, "tool_arguments").verdict) == ("complete", "unsure")


def test_a_tool_that_had_to_be_called_was_called() -> None:
    choice = {"type": "function", "function": {"name": "rate"}}
    made = asked(tools=TOOLS, tool_choice=choice)
    assert judged("I would rather talk.", made).outcome == "invalid"
    assert calling(tool_call("rate", GOOD), tools=TOOLS, tool_choice=choice).outcome == "complete"


def test_the_other_dialects_declare_their_tools_too() -> None:
    anthropic = [{"name": "rate", "input_schema": TICKET}]
    block = {"type": "tool_use", "id": "t", "name": "rate", "input": {"level": "LOW", "days": "1"}}
    assert judged(output([block]), asked(tools=anthropic)).outcome == "invalid"
    responses = [{"type": "function", "name": "rate", "parameters": TICKET}]
    assert calling(tool_call("rate", GOOD), tools=responses).outcome == "complete"
    assert calling(tool_call("rate", "{}"), tools=responses).outcome == "invalid"


def test_a_schema_does_not_apply_to_an_answer_that_calls_tools() -> None:
    made = {"tools": TOOLS, "response_format": {"type": "json_object"}}
    meaning = calling(tool_call("rate", GOOD), **made)
    assert [check.name for check in meaning.checks] == ["finish", "tool_arguments"]


# -- refusals --

REFUSAL = "I'm sorry, but I can't help with that."


def test_the_wire_is_believed_before_the_words() -> None:
    meaning = judged(output(None, refusal="No."))
    assert (meaning.outcome, found(meaning, "refusal").said) == ("refused", "wire")
    block = judged(output([{"type": "refusal", "refusal": "No."}]), with_schema(TICKET))
    assert (block.outcome, [c.name for c in block.checks]) == ("refused", ["refusal", "finish"])
    null = judged(output("Fine.", refusal=None))
    assert null.outcome == "complete"


def test_words_that_decline_are_a_guess() -> None:
    meaning = judged(REFUSAL)
    assert (meaning.outcome, found(meaning, "refusal").said) == ("refused", "heuristic")
    assert judged("Your order cannot be cancelled after it has shipped.").outcome == "complete"


def test_what_is_exact_comes_before_what_is_guessed() -> None:
    both = judged(REFUSAL, with_schema(TICKET))
    assert both.outcome == "invalid"
    assert {c.name for c in both.checks if c.verdict == "fail"} == {"schema", "refusal"}
    soft = judge_with(must_match=["yes"], outcome="unverified")
    assert judged(REFUSAL, asked("f"), judge=soft).outcome == "refused"
    assert judged("no", asked("f"), judge=soft).outcome == "unverified"
    hard = judge_with(must_match=["yes"])
    assert judged(REFUSAL, asked("f"), judge=hard).outcome == "invalid"


# -- outcomes --


@pytest.mark.parametrize("outcome", [o for o in OUTCOMES if o != "complete"])
def test_only_what_the_wire_calls_complete_is_looked_into(outcome: Any) -> None:
    made = with_schema(TICKET)
    meaning = Judge().of(made, outcome, reason="why", output=output("no JSON"))
    assert meaning.outcome == outcome
    assert [check.said for check in meaning.checks] == ["wire"]
    assert meaning.checks[0].detail == "why"


def test_a_judge_that_breaks_leaves_the_answer_alone() -> None:
    class Breaks(Judge):
        def _of(self, *_: Any) -> Meaning:
            raise RuntimeError("bug")

    meaning = judged("Fine.", judge=Breaks())
    assert meaning.outcome == "complete"
    assert [(c.name, c.verdict) for c in meaning.checks] == [
        ("checks", "unsure"),
        ("finish", "pass"),
    ]


def test_headers_hold_names_and_verdicts_that_any_http_takes() -> None:
    checks = (
        Check(name="schema", verdict="fail", detail="words\r\nx: y"),
        Check(name="größe: x,y=z", verdict="unsure"),
    )
    assert headers_of("invalid", checks) == (
        (b"tocsin-outcome", b"invalid"),
        (b"tocsin-checks", b"schema=fail, gr__e__x_y_z=unsure"),
    )


# -- a feature's own checks --


def test_lengths_are_counted_in_characters() -> None:
    judge = judge_with(min_chars=3, max_chars=5)
    verdicts = {
        text: judged(text, asked("f"), judge=judge).outcome for text in ("ab", "äöü", "abcdef")
    }
    assert verdicts == {"ab": "invalid", "äöü": "complete", "abcdef": "invalid"}
    empty = judged("", asked("f"), judge=judge)
    assert found(empty, "length").detail == "0 characters, at least 3 are asked for"


def test_an_answer_that_only_asks_for_tools_has_no_text_to_check() -> None:
    judge = judge_with(min_chars=3, must_cite=True)
    said = output("", tool_calls=[tool_call("rate", GOOD)])
    assert judged(said, asked("f", tools=TOOLS), judge=judge).outcome == "complete"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Der Hund und die Katze sind nicht im Haus, aber sie werden auch nicht gesucht.", "pass"),
        ("The dog and the cat are not in the house, but they are not looked for either.", "fail"),
        ("Собака и кошка не дома, но их никто и не ищет уже много долгих дней.", "fail"),
        ("OK", "unsure"),
        ("4711", "unsure"),
    ],
)
def test_a_language_is_told_where_there_is_enough_of_it(text: str, verdict: str) -> None:
    meaning = judged(text, asked("f"), judge=judge_with(language="de"))
    check = found(meaning, "language")
    assert (check.verdict, check.said) == (verdict, "heuristic")
    assert meaning.outcome == ("invalid" if verdict == "fail" else "complete")


def test_patterns_are_looked_for_in_a_bounded_part() -> None:
    judge = judge_with(must_match=["END"], must_not_match=["SECRET"])
    assert judged("the END", asked("f"), judge=judge).outcome == "complete"
    leak = judged("SECRET END", asked("f"), judge=judge)
    assert found(leak, "pattern").detail == "'SECRET' is found at 0: 'SECRET'"
    far = judged("x" * 300_000 + "END", asked("f"), judge=judge)
    assert (far.outcome, found(far, "pattern").verdict) == ("complete", "unsure")


def test_a_citation_is_not_condemned_where_the_context_cannot_be_seen() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    made = call([message("user", [{"type": "text", "text": "Who?"}, picture])], feature="f")
    meaning = judged("Ann [3].", made, judge=judge_with(must_cite=True))
    assert (meaning.outcome, found(meaning, "cites").verdict) == ("complete", "unsure")
    continued = call([message("user", "Who?")], feature="f", response_ref="resp_1")
    assert judged("Ann [3].", continued, judge=judge_with(must_cite=True)).outcome == "complete"


def odd_functions() -> Iterator[tuple[Any, str, str]]:
    async def coroutine(text: str, call: Call) -> None:
        """Not what a check is."""

    yield (lambda text, call: None), "pass", ""
    yield (lambda text, call: ""), "pass", ""
    yield (lambda text, call: f"{call.feature}: {text}"), "fail", "f: hi"
    yield (lambda text, call: True), "unsure", "returned bool"
    yield (lambda text: None), "unsure", "crashed: TypeError"
    yield coroutine, "unsure", "returned coroutine"
    yield (lambda text, call: "x" * 9000), "fail", "..."


@pytest.mark.parametrize(("function", "verdict", "why"), list(odd_functions()))
def test_a_function_says_what_is_wrong_or_nothing(function: Any, verdict: str, why: str) -> None:
    judge = judge_with({"mine": function}, functions=["mine"])
    check = found(judged("hi", asked("f"), judge=judge), "mine")
    assert check.verdict == verdict
    assert why in check.detail
    assert len(check.detail) <= 500


def test_where_no_content_is_kept_no_detail_quotes_an_answer() -> None:
    own = {"mine": lambda text, call: text}
    judge = judge_with(
        own,
        {"content": "hashes"},
        functions=["mine"],
        must_not_match=["s[a-z]+t"],
        must_cite=True,
    )
    made = with_schema({"enum": ["a"]}).evolve(feature="f")
    for words in ('"secret [9]"', "secret [9]"):
        meaning = judged(words, made, judge=judge)
        assert meaning.outcome == "invalid"
        assert "secret" not in repr(meaning)
        assert "[9]" not in repr(meaning)


def test_a_configuration_is_taken_over_at_once() -> None:
    judge = judge_with(min_chars=10)
    assert judged("short", asked("f"), judge=judge).outcome == "invalid"
    judge.configure(Config.model_validate({"features": {"f": {"checks": {"max_chars": 10}}}}), {})
    assert judged("short", asked("f"), judge=judge).outcome == "complete"
    judge.warm()


# -- who reads it --


def test_signals_score_an_answer_whatever_the_checks_called_it() -> None:
    guess = found(judged(REFUSAL), "refusal")
    guessed = chat(answer=REFUSAL, outcome="refused", checks=(guess,))
    scores = {score.name: score for score in FormEvaluator().evaluate(guessed)}
    assert (scores["refused"].value, scores["refused"].label) == (1.0, None)
    assert "boilerplate" in scores
    by_wire = chat(answer="", outcome="refused")
    scores = {score.name: score for score in FormEvaluator().evaluate(by_wire)}
    assert scores["refused"].label == "finish_reason"
    for outcome in ("invalid", "unverified"):
        known = chat(answer="Fine, that works.", outcome=outcome)
        assert {"refused", "empty", "answer_words"} <= {
            score.name for score in FormEvaluator().evaluate(known)
        }


@pytest.mark.parametrize(
    ("outcome", "reason", "text"),
    [
        ("invalid", "stop", "yes"),
        ("refused", "stop", "yes"),
        ("refused", "content_filter", ""),
        ("error", None, ""),
    ],
)
def test_a_judge_model_is_read_unless_the_wire_says_it_did_not_answer(
    outcome: Any, reason: str | None, text: str
) -> None:
    reply = chat(answer="yes", outcome=outcome, finish_reason=reason)
    assert _said(reply)[0] == text


# -- settings --


@pytest.mark.parametrize(
    ("checks", "setting", "words"),
    [
        ({"min_chars": 9, "max_chars": 3}, "min_chars", "every answer would fail"),
        ({"language": "german"}, "language", "ISO 639-1"),
        ({"must_match": ["a"], "must_not_match": ["a"]}, "must_not_match", "every answer would"),
        ({"functions": ["schema"]}, "functions", "needs another name"),
    ],
)
def test_checks_that_nobody_can_have_meant_are_problems(
    checks: Any, setting: str, words: str
) -> None:
    config = Config.model_validate({"features": {"f": {"checks": checks}}})
    (problem,) = problems(config)
    assert problem.path[:4] == ("features", "f", "checks", setting)
    assert words in problem.message


def test_a_table_without_checks_and_a_function_that_is_not_there_are_told() -> None:
    config = Config.model_validate({"features": {"f": {"checks": {"outcome": "unverified"}}}})
    assert "checks nothing" in warnings(config, {})[0].message
    config = Config.model_validate({"features": {"f": {"checks": {"functions": ["polte"]}}}})
    (problem,) = function_problems(config, ["polite"])
    assert "did you mean `polite`" in problem.message
    assert function_problems(config, ["polte"]) == []
    assert warnings(config, {}) == []


def test_why_a_text_is_no_json() -> None:
    assert unreadable(GOOD) == ""
    assert unreadable("[" * 5000) == "the JSON is nested too deeply"
