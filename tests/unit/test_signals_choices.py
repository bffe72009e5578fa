"""Which options a request lists, and which one an answer gives."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.domains.signals.choices import Choices, choices_in, pick_of

YES_NO = 'Is 17 a prime? Think step by step and then answer "[Yes]" or "[No]".'
LETTERED = "Which planet is the largest?\n(A). Mars\n(B). Jupiter\n(C). Venus\nAnswer:"
LABELS = 'Classify the ticket. Reply with "billing", "technical" or "other".'


@pytest.mark.parametrize(
    ("request_", "form", "names"),
    [
        (YES_NO, "bracketed", ("Yes", "No")),
        ("Is it far? Answer [near], [far] or [unknown].", "bracketed", ("near", "far", "unknown")),
        (LETTERED, "lettered", ("A", "B", "C")),
        ("Which one is right?\nA. red\nB. blue\nC. green", "lettered", ("A", "B", "C")),
        ("Which vein is it? (A) Portal (B) Renal (C) Splenic", "lettered", ("A", "B", "C")),
        ("What is the sum?\na) 3\nb) 4", "lettered", ("a", "b")),
        ("Pick the right answer.\n1. foo\n2. bar", "lettered", ("1", "2")),
        (LABELS, "words", ("billing", "technical", "other")),
        ("Answer yes or no: is the shop open?", "words", ("yes", "no")),
        ("Is the shop open (yes/no)?", "words", ("yes", "no")),
        ("True or false: the earth is flat.", "words", ("True", "false")),
        ('Antworte mit "Ja" oder "Nein".', "words", ("Ja", "Nein")),
        ("Réponds par oui ou non.", "words", ("oui", "non")),
        ("Responde sí o no.", "words", ("sí", "no")),
        ("Respond with exactly one of: red, pale blue, odd.", "words", ("red", "pale blue", "odd")),
        ("Classify it as good, bad, or neutral.", "words", ("good", "bad", "neutral")),
        ("Choose one of the following:\n- Foo\n- Bar baz\n\nText: x", "words", ("Foo", "Bar baz")),
    ],
)  # fmt: skip
def test_a_request_that_lists_options_is_recognised(
    request_: str, form: str, names: tuple[str, ...]
) -> None:
    found = choices_in(request_)
    assert found is not None
    assert (found.form, found.names) == (form, names)


@pytest.mark.parametrize(
    "request_",
    [
        "How are you?",
        'What is the difference between "affect" and "effect"?',
        "Fill in [name] or [date] where they are missing.",
        "See [1], [2] or [3] for more.",
        "Select all that apply: (A) red (B) blue (C) green",
        "1. Wash your hands\n2. Eat\n\nSummarise this.",
        "Action can be: (1) Search[entity], which searches, (2) Lookup[key], (3) Finish[answer].",
        "Write a function that prints 'a' or 'b' for each row of the table.",
        "To what extent do you agree or disagree? Write an essay.",
        "The builder must:\n(a) keep the site clean;\n(b) insure it.\nDo you understand? "
        + "x " * 400,
        "Read [the docs](http://a) or [the code](http://b).",
    ],
)
def test_a_request_that_asks_for_no_option_is_left_alone(request_: str) -> None:
    assert choices_in(request_) is None


def test_the_last_of_several_questions_counts() -> None:
    shots = "Which is red?\n(A) sky\n(B) blood\nThe answer is (B).\n\n"
    found = choices_in(shots + "Which is green?\n(A) grass\n(B) snow\n(C) coal\nAnswer:")
    assert found is not None
    assert found.texts == ("grass", "snow", ["coal", "Answer:"][0])


@pytest.mark.parametrize(
    ("answer", "index", "exact"),
    [
        ("[Yes]", 0, True),
        ("No divisor was found. Therefore the answer is [Yes].", 0, True),
        ("[No]. Wait, that is wrong. The correct answer is [Yes].", 0, True),
        ("**[No]**", 1, True),
        ("No", 1, False),
        ("Yes. It has no divisors.", 0, False),
        ("The answer is yes", 0, False),
    ],
)
def test_brackets_are_required_where_the_request_shows_them(
    answer: str, index: int, exact: bool
) -> None:
    choices = choices_in(YES_NO)
    assert choices is not None
    pick = pick_of(choices, answer)
    assert pick is not None
    assert (pick.index, pick.exact) == (index, exact)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "It cannot be told.",
        "17 has no divisors, which makes it a prime number.",
        'The answer is "[Yes]" if it is a prime or "[No]" if it is not.',
        "No one knows whether",
        "First divide by 2, then by 3 and then by 5 and go on like that. [Yes",
    ],
)
def test_an_answer_without_an_option_gives_none(answer: str) -> None:
    choices = choices_in(YES_NO)
    assert choices is not None
    pick = pick_of(choices, answer)
    assert pick is None or not pick.exact


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("(B)", 1),
        ("B", 1),
        ("B. Jupiter", 1),
        ("**B**", 1),
        ("b) Jupiter", 1),
        ("Jupiter", 1),
        ("It is Jupiter, by far.", 1),
        ("(A) is a rock and (C) is too hot, so the answer is (B).", 1),
        ("Answer: B. Jupiter\n\nOption A is too small. Option C is not the largest.", 1),
        ("Let me think. Mars is small. Therefore, option B is correct.", 1),
        ("The correct answer to this question is C.", 2),
        ("A", 0),
        ("I am a model and have no idea about planets.", None),
        ("A planet is a large body.", None),
        ("(A) and (B)", None),
        ("Possible answers are:\n(A). Mars\n(B). Jupiter\n(C). Venus", None),
        ("Some might choose (A), while others might choose (C).", None),
        ("This depends on what is meant by large.", None),
    ],
)
def test_a_lettered_option_is_found_by_its_letter_or_its_words(
    answer: str, index: int | None
) -> None:
    choices = choices_in(LETTERED)
    assert choices is not None
    pick = pick_of(choices, answer)
    assert (pick.index if pick else None) == index


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("billing", 0),
        ("Billing.", 0),
        ('"technical"', 1),
        ('{"label": "technical"}', 1),
        ("The category is: **other**", 2),
        ("It asks for a refund.\n\nbilling", 0),
        ("It could be billing or technical.", None),
        ("I would need to see the ticket.", None),
    ],
)
def test_an_option_in_words_is_found_where_it_is_the_answer(answer: str, index: int | None) -> None:
    choices = choices_in(LABELS)
    assert choices is not None
    pick = pick_of(choices, answer)
    assert (pick.index if pick else None) == index


@given(st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_request_and_any_answer_can_be_read(request_: str, answer: str) -> None:
    for choices in (choices_in(request_), choices_in(YES_NO), Choices("words", ("a", "b"))):
        if choices is not None:
            pick = pick_of(choices, answer)
            assert pick is None or 0 <= pick.index < len(choices.names)


@pytest.mark.parametrize(
    "part",
    ["[", "[a] or ", '"a" or ', "'", "(A) ", "A. x\nB. y\n", " ", "\n", "yes or ", "one of: a, ",
     "answer ", "- ", "1. ", "a,b/", "` or `", "option "],
)  # fmt: skip
def test_no_text_takes_more_than_linear_time(part: str) -> None:
    text = (part * 65_536)[:65_536]
    choices = choices_in(LETTERED)
    assert choices is not None
    began = time.process_time()
    choices_in(text[:16_384])
    pick_of(choices, text)
    pick_of(Choices("bracketed", ("Yes", "No")), text)
    assert time.process_time() - began < 1.0
