"""What the form of an answer tells."""

from typing import Any

import pytest

from support.chats import asked, chat, message, said, values
from tocsin.domains.signals.form import FormEvaluator, repeated_share

PROSE = (
    "The museum by the river opens at nine and closes at six, and on Fridays it stays open until "
    "ten. It has three floors, a garden and a good restaurant on the roof."
)
FRAGE = "Wann öffnet das Museum am Fluss, und wie lange hat es am Freitag geöffnet?"


def of(request: str, answer: Any = None, **fields: Any) -> dict[str, float | None]:
    return values(FormEvaluator().evaluate(asked(request, answer, **fields)))


def test_a_plain_answer_has_nothing_wrong_with_it() -> None:
    found = of("When does the museum by the river open, and for how long?", PROSE)
    assert found["refused"] == found["empty"] == found["truncated"] == found["boilerplate"] == 0.0
    assert found["language_match"] == 1.0
    assert found["answer_words"] == 33
    assert found["verbosity"] == pytest.approx(33 / 12)
    assert found["repetition"] == 0.0
    assert found["has_list"] == found["has_code"] == found["has_json"] == found["has_table"] == 0.0
    assert "choice_followed" not in found
    assert "schema_valid" not in found


@pytest.mark.parametrize("outcome", ["error", "denied", "cancelled", "timeout", "unknown"])
def test_a_call_without_an_answer_has_no_scores(outcome: str) -> None:
    assert of("Hello?", None, outcome=outcome) == {}


def test_an_empty_answer_is_empty_and_a_tool_call_is_not() -> None:
    assert of("Hello?", None)["empty"] == 1.0
    assert of("Hello?", " \n")["empty"] == 1.0
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    found = of("Hello?", {"role": "assistant", "content": None, "tool_calls": [call]})
    assert found["empty"] == 0.0
    assert "refused" not in found
    assert "answer_words" not in found


def test_an_option_in_another_form_breaks_the_format_but_tells_which_came_first() -> None:
    request = 'Is 17 a prime? Answer "[Yes]" or "[No]".'
    assert of(request, "[Yes]")["choice_followed"] == 1.0
    assert of(request, "[No]")["first_choice"] == 0.0
    loose = of(request, "Yes")
    assert (loose["choice_followed"], loose["first_choice"]) == (0.0, 1.0)
    none = of(request, "It depends on what is meant.")
    assert none["choice_followed"] == 0.0
    assert "first_choice" not in none


def test_options_of_the_system_prompt_count_where_the_user_gives_none() -> None:
    entry = chat(
        said("system", "Classify each message. Answer with 'spam' or 'ham'."),
        said("user", "You have won a prize, call now!"),
        answer="spam",
    )
    assert values(FormEvaluator().evaluate(entry))["choice_followed"] == 1.0


def test_a_refusal_that_still_gives_an_option_is_none() -> None:
    request = "Pick the best option.\n(A) Very good\n(B) Very bad\n(C) Refused\nAnswer:"
    given = of(request, "(A). As an AI language model, I don't have personal opinions.")
    assert (given["refused"], given["choice_followed"]) == (0.0, 1.0)
    declined = of(request, "As an AI language model, I don't have personal opinions.")
    assert (declined["refused"], declined["choice_followed"]) == (1.0, 0.0)


def test_a_refusal_is_told_by_the_finish_reason_and_the_refusal_field() -> None:
    filtered = of("Tell me.", None, outcome="refused", finish_reason="content_filter")
    assert filtered["refused"] == 1.0
    assert "empty" not in filtered
    declined = {"role": "assistant", "content": None, "refusal": "I can't help with that."}
    assert of("Tell me.", declined)["refused"] == 1.0
    assert of("Tell me.", {"role": "assistant", "content": PROSE, "refusal": None})["refused"] == 0


@pytest.mark.parametrize(
    ("answer", "fields", "cut"),
    [
        (PROSE, {"outcome": "truncated"}, 1.0),
        (PROSE, {"finish_reason": "length"}, 1.0),
        (PROSE, {"finish_reason": "stop"}, 0.0),
        ("Here it is:\n```python\nx = 1\n", {"finish_reason": "stop"}, 1.0),
        ('{"a": 1, "b": [2, ', {"finish_reason": "stop"}, 1.0),
        ("[Yes], it is a prime", {"finish_reason": "stop"}, 0.0),
        (PROSE + " " + PROSE + " It costs (", {}, 1.0),
        (PROSE + " " + PROSE + " It costs (", {"finish_reason": "stop"}, 0.0),
        (PROSE[:-1], {}, 0.0),
    ],
)
def test_an_answer_is_cut_short(answer: str, fields: dict[str, Any], cut: float) -> None:
    assert of("When does it open?", answer, **fields)["truncated"] == cut


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("Three things:\n- one\n- two", "has_list"),
        ("1. one\n2. two", "has_list"),
        ("So:\n```js\nlet a = 1\n```", "has_code"),
        ('{"a": 1}', "has_json"),
        ('Here:\n```json\n{"a": 1}\n```', "has_json"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "has_table"),
        ("<table><tr><td>1</td></tr></table>", "has_table"),
    ],
)
def test_the_shape_of_an_answer_is_seen(answer: str, name: str) -> None:
    assert of("Show me.", answer)[name] == 1.0


def test_repetition_is_the_share_of_what_stood_before() -> None:
    assert repeated_share(PROSE, PROSE.split()) == 0.0
    twice = f"{PROSE} {PROSE}"
    assert 0.4 < repeated_share(twice, twice.split()) < 0.6
    loop = "no " * 200
    assert repeated_share(loop, loop.split()) > 0.98
    unspaced = "今日は天気がいいですね。" * 20
    assert repeated_share(unspaced, unspaced.split()) > 0.8


@pytest.mark.parametrize(
    ("request_", "answer", "value"),
    [
        (FRAGE, "Das Museum öffnet um neun und schließt um sechs, am Freitag erst um zehn.", 1.0),
        (FRAGE, PROSE, 0.0),
        ("何時に開きますか？教えてください。", PROSE, 0.0),
        ("何時に開きますか？教えてください。", "博物館は九時に開き、六時に閉まります。", 1.0),
        ("¿A qué hora abre el museo y cuánto cuesta la entrada?", PROSE, 0.0),
        ("Please translate this into German: " + PROSE, FRAGE, None),
        ("Say it in Spanish, please: when does the museum by the river open?",
         "El museo abre a las nueve y cierra a las seis de la tarde.", None),
        ("When does the museum by the river open, and for how long?", "9 to 6", None),
        ("When does the museum by the river open, and for how long?",
         "```python\nfor i in range(10):\n    print(i)\n```", None),
    ],
)  # fmt: skip
def test_an_answer_is_held_to_the_language_of_its_request(
    request_: str, answer: str, value: float | None
) -> None:
    assert of(request_, answer).get("language_match") == value


def test_a_system_prompt_that_names_a_language_settles_it() -> None:
    prompt = said("system", "Always answer in English, whatever the customer writes.")
    entry = chat(prompt, said("user", FRAGE), answer=PROSE)
    assert "language_match" not in values(FormEvaluator().evaluate(entry))


def test_slices_are_the_language_the_prompt_and_the_tool() -> None:
    judge = FormEvaluator()
    call = {"id": "c1", "type": "function", "function": {"name": "hours", "arguments": "{}"}}
    entry = chat(
        said("system", "You know the museum."),
        said("user", FRAGE),
        message({"role": "assistant", "content": None, "tool_calls": [call]}),
        message({"role": "tool", "tool_call_id": "c1", "content": "9 to 6"}),
        answer=PROSE,
    )
    found = judge.slices(entry)
    assert found["language"] == "de"
    assert found["tool"] == "hours"
    other = chat(said("system", "You know the zoo."), said("user", FRAGE), answer=PROSE)
    assert len(found["prompt"]) == 8
    assert judge.slices(other)["prompt"] != found["prompt"]
    named = chat(said("system", "x"), said("user", "y"), attributes={"prompt": "v7"})
    assert "prompt" not in judge.slices(named)
    assert judge.slices(chat()) == {}
