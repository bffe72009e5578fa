"""Grounding: what the context bears out passes, what it does not is named."""

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.interaction import Entry, Interaction
from tocsin.core.messages import parse_message
from tocsin.core.score import Score
from tocsin.domains.signals.grounding import GroundingEvaluator

FLIGHTS = json.dumps(
    [
        {"flight_number": "HAT069", "origin": "JFK", "destination": "SEA",
         "departure": "06:00:00", "available_seats": {"economy": 12}, "prices": {"economy": 121}},
        {"flight_number": "HAT083", "origin": "JFK", "destination": "SEA",
         "departure": "13:00:00", "available_seats": {"economy": 7}, "prices": {"economy": 100}},
    ]
)  # fmt: skip
POLICY = (
    "Context:\nAda Lovelace founded Analytic Engines in 1843 in London. Orders above $1,250.00 are "
    "refundable within 30 days. Gift cards are not refundable. The warehouse opens at 9 am and the "
    "tour takes 150 minutes. Revenue was 3,512,345 euros.\n\nQuestion: What are the rules?"
)


def entry(messages: Sequence[dict[str, Any]], answer: Any, **more: Any) -> Entry:
    """A recorded call with these messages and that answer."""
    given = tuple(parse_message(json.dumps(message).encode()) for message in messages)
    said = {"role": "assistant", "content": answer, **more}
    call = Interaction(
        id="call_1", source="gateway", dialect="openai", operation="chat", path="/v1/chat",
        started_at=0, duration_us=1, outcome="complete", feature="f", run_id="r", run_source="new",
        request_model="m", input_messages=len(given),
    )  # fmt: skip
    return Entry(interaction=call, input=given, output=parse_message(json.dumps(said).encode()))


def scores(*messages: dict[str, Any], answer: Any, **more: Any) -> dict[str, Score]:
    """What the evaluator says, by signal."""
    return {s.name: s for s in GroundingEvaluator().evaluate(entry(messages, answer, **more))}


def of_policy(answer: str) -> dict[str, Score]:
    return scores({"role": "user", "content": POLICY}, answer=answer)


def of_flights(answer: str) -> dict[str, Score]:
    return scores(
        {"role": "user", "content": "Find me a flight from New York to Seattle."},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "search", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": FLIGHTS},
        answer=answer,
    )  # fmt: skip


# -- numbers --


@pytest.mark.parametrize(
    "answer",
    [
        "Orders above 1250 dollars are refundable within thirty days.",
        "Orders above $1.250,00 are refundable within 30 days.",
        "The tour takes 2.5 hours.",
        "The tour takes two and a half hours: 150 minutes.",
        "The warehouse opens at 9:00 AM.",
        "Revenue was about 3.5 million euros.",
        "It was founded in 1843.",
    ],
)
def test_the_same_number_in_another_notation_is_supported(answer: str) -> None:
    assert of_policy(answer)["numbers_supported"].value == 1.0


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("Orders above $1,350.00 are refundable within 30 days.", "1,350.00"),
        ("Orders above €1,250.00 are refundable within 90 days.", "90 days"),
        ("The tour takes 250 minutes.", "250 minutes"),
        ("The warehouse opens at 8 am.", "8 am"),
        ("It was founded in 1834.", "1834"),
        ("Revenue was 3,512,354 euros.", "3,512,354"),
    ],
)
def test_a_number_that_is_not_there_is_named(answer: str, named: str) -> None:
    score = of_policy(answer)["numbers_supported"]
    assert score.value == 0.0
    assert named in score.explanation


def test_a_small_number_must_stand_by_the_same_words() -> None:
    good = of_flights("HAT069 has 12 economy seats available.")
    bad = of_flights("HAT069 has 9 economy seats available.")
    assert good["numbers_supported"].value == 1.0
    assert bad["numbers_supported"].value == 0.0


def test_sums_and_differences_of_numbers_beside_it_are_supported() -> None:
    answer = "HAT069 costs $121 and HAT083 costs $100, a difference of $21, $221 in total."
    assert of_flights(answer)["numbers_supported"].value == 1.0
    wrong = answer.replace("$221", "$231")
    assert of_flights(wrong)["numbers_supported"].value == 0.0


def test_the_sum_of_the_records_that_an_answer_names_is_supported() -> None:
    answer = "The total price of HAT069 and HAT083 is $221."
    assert of_flights(answer)["numbers_supported"].value == 1.0


def test_numbering_and_numbers_of_the_question_are_no_claims() -> None:
    answer = "Here they are:\n\n1. HAT069 leaves at 6:00 AM.\n2. HAT083 leaves at 1 PM."
    assert of_flights(answer)["numbers_supported"].value == 1.0
    asked = scores(
        {"role": "user", "content": f"{POLICY} I paid 987 dollars."},
        answer="You paid 987 dollars.",
    )
    assert asked["numbers_supported"].value == 1.0


def test_a_day_may_be_told_by_its_distance_from_another() -> None:
    said = "Context:\n8 May, 2023\nCaroline: I went to the group yesterday.\n\nQuestion: When?"
    good = scores({"role": "user", "content": said}, answer="Caroline went there on 7 May 2023.")
    bad = scores({"role": "user", "content": said}, answer="Caroline went there on 4 May 2023.")
    assert good["numbers_supported"].value == 1.0
    assert bad["numbers_supported"].value == 0.0


# -- names --


@pytest.mark.parametrize(
    "answer",
    [
        "The company was founded by Ada Lovelace.",
        "The founder, Lovelace, lived in London.",
        "It is called Analytic Engines (AE).",
        "That flight leaves London.",
    ],
)
def test_a_name_of_the_context_is_supported(answer: str) -> None:
    assert of_policy(answer)["names_supported"].value == 1.0


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("The company was founded by Grace Hopper.", "Grace Hopper"),
        ("The founder, Ada Hopper, lived there.", "Ada Hopper"),
        ("Melanie founded the company.", "Melanie"),
        ("It was founded in Paris in 1843.", "Paris"),
        ("Write to ada@example.com about it.", "ada@example.com"),
    ],
)
def test_a_name_that_nobody_told_is_named(answer: str, named: str) -> None:
    score = of_policy(answer)["names_supported"]
    assert score.value == 0.0
    assert named in score.explanation


def test_codes_are_checked_whole() -> None:
    assert of_flights("Your flight is HAT069.")["names_supported"].value == 1.0
    assert of_flights("Your flight is HAT068.")["names_supported"].value == 0.0


def test_a_code_may_be_glossed_with_its_place() -> None:
    assert of_flights("It goes to Seattle (SEA).")["names_supported"].value == 1.0


def test_labels_and_beginnings_of_sentences_are_no_names() -> None:
    answer = (
        "Departure details:\n\n- **Total Price:** $121\n- **Cabin:** economy\n\nPlease confirm."
    )
    assert "names_supported" not in of_flights(answer)


def test_german_nouns_are_no_names() -> None:
    answer = (
        "Die Bestellung ist mit der Karte bezahlt und die Rechnung für den Kunden ist nicht in der "
        "Mappe, weil das Lager für die Ware keine Kapazität hat und der Fahrer krank ist."
    )
    assert "names_supported" not in of_policy(answer)


# -- statements, negations, citations --


def test_statements_are_counted_one_by_one() -> None:
    found = of_policy(
        "Gift cards are not refundable. The moon consists mostly of green marmalade today."
    )
    assert found["supported"].value == 0.5
    assert "marmalade" in found["supported"].explanation


def test_a_statement_with_a_wrong_number_is_not_supported() -> None:
    found = of_policy("Orders above $1,250.00 are refundable within 60 days.")
    assert found["supported"].value == 0.0


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Gift cards are not refundable.", 1.0),
        ("Gift cards are refundable.", 0.0),
        ("Ada Lovelace did not found Analytic Engines in 1843 in London.", 0.0),
        ("Orders above $1,250.00 are refundable within 30 days.", 1.0),
        ("Orders above $1,250.00 are non-refundable within 30 days.", 0.0),
    ],
)
def test_a_turned_statement_is_found(answer: str, value: float) -> None:
    assert of_policy(answer)["negation_kept"].value == value


SOURCES = (
    "Answer from these sources.\n[1] The seal must be intact.\n[2] Returns take 30 days.\n"
    "See https://example.com/returns for more.\n\nQuestion: How?"
)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("The seal must be intact [1]. Returns take 30 days [2].", 1.0),
        ("The seal must be intact [1, 2].", 1.0),
        ("The seal must be intact [3].", 0.0),
        ("The seal must be intact [1-3].", 0.0),
        ("See [the page](https://example.com/returns).", 1.0),
        ("See https://example.com/refunds.", 0.0),
    ],
)
def test_citations_must_exist(answer: str, value: float) -> None:
    found = scores({"role": "user", "content": SOURCES}, answer=answer)
    assert found["citations_valid"].value == value


def test_an_index_in_code_is_no_citation() -> None:
    answer = "Use `items[3]` and\n```\nx = a[7]\n```\nas the seal must be intact."
    assert "citations_valid" not in scores({"role": "user", "content": SOURCES}, answer=answer)


# -- which context --


def test_without_a_context_nothing_is_said() -> None:
    assert scores({"role": "user", "content": "Who was Ada?"}, answer="Born in 1815.") == {}


def test_an_answer_that_asks_for_tools_is_not_judged() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert scores({"role": "user", "content": POLICY}, answer="Hm 9.", tool_calls=[call]) == {}


@pytest.mark.parametrize(
    "request_text",
    [
        "Context:\n\nQuestion: When was the company founded?",
        "<context></context>\nWhen was the company founded?",
        "<documents>\n</documents>\nWhen was the company founded?",
        "Search results: No results found.\nQuestion: When was the company founded?",
    ],
)
def test_an_assertion_without_context_counts_bad_and_an_admission_good(request_text: str) -> None:
    user = {"role": "user", "content": request_text}
    bold = scores(user, answer="The company was founded in 1843 by Ada Lovelace.")
    meek = scores(user, answer="The context does not say when the company was founded.")
    assert {name: s.value for name, s in bold.items()} == {"answered_without_context": 1.0}
    assert {name: s.value for name, s in meek.items()} == {"answered_without_context": 0.0}


def test_an_empty_result_of_a_tool_is_no_context() -> None:
    found = scores(
        {"role": "user", "content": "When was it founded?"},
        {"role": "tool", "tool_call_id": "c1", "content": '{"results": [], "count": 0}'},
        answer="It was founded in 1843 in London.",
    )
    assert found["answered_without_context"].value == 1.0


PRICE = [{"type": "text", "text": "It costs 42 euros."}]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t",
                                      "content": PRICE}]},
        {"role": "user", "content": [{"type": "document", "source": {
            "type": "text", "media_type": "text/plain", "data": "It costs 42 euros."}}]},
        {"role": "user", "content": [{"type": "search_result", "source": "x", "title": "Prices",
                                      "content": PRICE}]},
        {"role": "tool", "tool_call_id": "t", "content": PRICE},
        {"role": "assistant", "content": [{"type": "file_search_call", "results": [
            {"filename": "a.md", "text": "It costs 42 euros."}]}]},
    ],
)  # fmt: skip
def test_results_and_documents_of_every_dialect_are_context(message: dict[str, Any]) -> None:
    assert scores(message, answer="It costs 42 euros.")["numbers_supported"].value == 1.0
    assert scores(message, answer="It costs 43 euros.")["numbers_supported"].value == 0.0


def test_what_cannot_be_read_makes_a_bad_verdict_no_verdict() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    user = {"role": "user", "content": [{"type": "text", "text": POLICY}, picture]}
    found = scores(user, answer="It was founded in 1834. The tour takes 150 minutes.")
    assert found["numbers_supported"].value is None
    assert scores(user, answer="The tour takes 150 minutes.")["numbers_supported"].value == 1.0


def test_a_number_far_back_in_a_long_context_is_found() -> None:
    long = "Context:\nThe code is 736251 here.\n" + "Nothing to see. " * 20_000
    found = scores({"role": "user", "content": long}, answer="The code is 736251.")
    assert found["numbers_supported"].value == 1.0


# -- manners --

BLOCKS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(BLOCKS, st.text(max_size=200), st.sampled_from(["user", "tool", "system", "assistant", "x"]))
def test_no_message_makes_it_fail_and_the_same_entry_gives_the_same_scores(
    content: Any, answer: str, role: str
) -> None:
    one = entry([{"role": role, "content": content}, {"role": "tool", "content": "7 of 9"}], answer)
    evaluator = GroundingEvaluator()
    first = list(evaluator.evaluate(one))
    assert list(evaluator.evaluate(one)) == first
    assert list(GroundingEvaluator().evaluate(one)) == first
    assert all(s.value is None or 0.0 <= s.value <= 1.0 for s in first)


@pytest.mark.parametrize(
    "piece",
    ["[1", "((", "1,", "1:", "A ", "a.", "not ", "<context>", '{"a":[', "\n- ", "9 ", "$", "A1"],
)  # fmt: skip
def test_time_grows_no_faster_than_the_text(piece: str) -> None:
    def spent(size: int) -> float:
        text = (piece * size)[:size]
        began = time.process_time()
        of = entry([{"role": "tool", "tool_call_id": "c", "content": text}], text[:16_000])
        GroundingEvaluator().evaluate(of)
        return time.process_time() - began

    spent(1_000)
    assert spent(64_000) < 2.0
