"""Users who ask again, and users who say that an answer was wrong."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.chats import chat, message, said, values
from tocsin.core.messages import Message
from tocsin.domains.signals.users import UsersEvaluator, corrects, same_question

QUESTION = "How do I change the date of my flight to Oslo?"


def of(*turns: str) -> dict[str, float | None]:
    """Turns of user and assistant in turn; the call answers the last one."""
    roles = ("user", "assistant")
    history = [said(roles[n % 2], text) for n, text in enumerate(turns)]
    return values(UsersEvaluator().evaluate(chat(*history, answer="Well.")))


@pytest.mark.parametrize(
    "again",
    [
        QUESTION,
        "how do i change the date of my flight to oslo",
        "How can I change the date of my flight to Oslo, please?",
        "How do I change the date for my flight to Oslo??",
    ],
)
def test_the_same_question_in_nearly_the_same_words_is_a_re_ask(again: str) -> None:
    assert of(QUESTION, "It depends.", again)["reask"] == 1.0


@pytest.mark.parametrize(
    "other",
    [
        "How do I change the date of my flight to Rome?",
        "What luggage may I take on board with me?",
        "Thanks, and what does it cost to do so?",
    ],
)
def test_another_question_is_no_re_ask(other: str) -> None:
    assert of(QUESTION, "Under Bookings.", other)["reask"] == 0.0


def test_numbers_make_another_question() -> None:
    assert not same_question(
        "what is the root of 1764 in numbers", "what is the root of 1849 in numbers"
    )


def test_only_the_three_turns_before_count() -> None:
    between = ("a", "What is the luggage limit?", "b", "Is there food on board?", "c")
    assert of(QUESTION, *between, QUESTION)["reask"] == 1.0
    assert of(QUESTION, *between, "Who flies the plane?", "d", QUESTION)["reask"] == 0.0


def test_short_turns_and_first_turns_are_not_judged() -> None:
    assert of(QUESTION) == {}
    assert "reask" not in of("Continue", "One.", "Continue")
    assert of(QUESTION, "It depends.", "Go on")["corrected"] == 0.0


def test_a_call_that_brings_tool_results_is_not_the_users_turn() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    asked: tuple[Message, ...] = (said("user", QUESTION), said("assistant", "Ok."))
    tool = (
        said("user", QUESTION),
        message({"role": "assistant", "content": None, "tool_calls": [call]}),
        message({"role": "tool", "tool_call_id": "c1", "content": "found"}),
    )
    assert values(UsersEvaluator().evaluate(chat(*asked, *tool, answer="x"))) == {}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "found"}
    anthropic = (*asked, message({"role": "user", "content": [result]}))
    assert values(UsersEvaluator().evaluate(chat(*anthropic, answer="x"))) == {}


@pytest.mark.parametrize(
    "text",
    [
        "That's wrong.",
        "No, I meant the flight on Monday.",
        "this is not what I asked for",
        "You misunderstood me, I want to cancel.",
        "It still doesn't work",
        "You forgot the luggage.",
        "Das ist falsch.",
        "Nein, ich meinte den Montag.",
        "Non, ce n'est pas ça.",
        "Eso no es correcto.",
        "No, quise decir el lunes.",
        "Questo è sbagliato.",
        "Não é isso.",
        "Dat klopt niet.",
        "不对，我说的是星期一。",
        "それは間違っています。",
    ],
)
def test_a_correction_is_heard_in_many_languages(text: str) -> None:
    assert corrects(text)
    assert of(QUESTION, "Under Bookings.", text)["corrected"] == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "Thanks!",
        "No, that's all, thank you.",
        "No problem.",
        "Is it wrong to book two seats?",
        'What does "that is wrong" mean in French?',
        "Why is the sky blue?",
        "And what about Monday?",
        "Das ist gut, danke.",
        "No sé, ¿qué me recomiendas?",
    ],
)
def test_what_is_no_correction_is_none(text: str) -> None:
    assert not corrects(text)


@given(st.text(max_size=200), st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_turns_can_be_compared(one: str, other: str) -> None:
    assert same_question(one, one)
    assert same_question(one, other) == same_question(other, one)
    corrects(one)


@pytest.mark.parametrize("part", ["a ", "no, ", "that is ", "you you're ", "a", " ", "\n", "是"])
def test_no_turn_takes_more_than_linear_time(part: str) -> None:
    text = (part * 16_384)[:16_384]
    began = time.process_time()
    corrects(text)
    same_question(text, text[1:] + "b")
    assert time.process_time() - began < 1.0
