"""What counts as a refusal, in words, and what as boilerplate."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsin.core.refusals import refused
from tocsin.domains.signals.boilerplate import boilerplate_share


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't assist with that.",
        "I’m sorry, but I can’t help with that request.",
        "Sorry, I cannot provide that information.",
        "As an AI language model, I don't have personal opinions.",
        "As an AI language model, I cannot answer this question as I have no personal experiences.",
        "I am an AI language model and cannot answer this question.",
        "This question is subjective and depends on the individual's personal beliefs.",
        "This depends on personal preference and cannot be answered by an AI.",
        "I must respectfully decline this request.",
        "Unfortunately, I am not able to provide medical advice. Please see a doctor.",
        "This request goes against our content guidelines, and I will not write it.",
        "I cannot create content of that kind. It is important to treat people with respect, "
        "whatever they believe, and such a text would do harm to those whom it is about. "
        "Stereotypes of this sort have a long history.",
        "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen.",
        "Ich kann diese Frage leider nicht beantworten.",
        "Je suis désolé, mais je ne peux pas vous aider avec cela.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Mi dispiace, ma non posso aiutarti con questa richiesta.",
        "Desculpe, mas não posso ajudar com isso.",
        "Sorry, maar ik kan je daar niet mee helpen.",
        "抱歉，我无法提供这些信息。",
        "申し訳ありませんが、そのご質問にはお答えできません。",
        "죄송하지만 그 요청은 도와드릴 수 없습니다.",
        "Извините, я не могу помочь с этим.",
    ],
)
def test_declining_is_a_refusal_in_many_languages(answer: str) -> None:
    assert refused(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "(B). Somewhat optimistic",
        "The train leaves at nine.",
        '"I cannot help you," said the old man, and closed the door.',
        'The old man looked up. "I can\'t help you with that," he said, and closed the door.',
        "I can't help but admire how quickly you learn.",
        "No, you cannot return the ticket once it is used.",
        "I could not find a flight on Monday; the next one leaves on Tuesday at 9:40.",
        "The text does not say when the bridge was built.",
        "I don't know the exact figure, it was about 400.",
        "I'm sorry for the delay! Your parcel arrives tomorrow.",
        "I'm sorry to hear that. Here are three things that help: rest, water, and sleep.",
        "We can't refund tickets that were used.",
        "To say I can't swim would be wrong.",
        "Das kann man nicht so sagen: die Brücke wurde 1890 gebaut.",
        "No puedo creer lo bonito que es este sitio.",
        "我认为这个方法不能解决问题，应该换一个。",
    ],
)
def test_what_only_sounds_like_declining_is_no_refusal(answer: str) -> None:
    assert not refused(answer)


def test_declining_a_part_and_answering_the_rest_is_no_refusal() -> None:
    rest = "the usual way is to book early, to travel on a Tuesday, and to take one bag. " * 5
    assert not refused("I can't browse the internet, but here is what I know: " + rest)
    assert not refused(
        "I'm unable to create files directly. Here is the code:\n```python\nx = 1\n```"
    )
    assert refused("I can't browse the internet, but I can help with other things.")


def test_a_disclaimer_before_an_answer_is_no_refusal() -> None:
    assert not refused(
        "As an AI language model, I don't have personal preferences. The most visited of the "
        "three museums is the one by the river, which opens at nine and has a large garden."
    )


def test_boilerplate_is_the_share_of_words_in_courtesies_and_disclaimers() -> None:
    plain = "The shop opens at nine and closes at six. It is closed on Sundays."
    assert boilerplate_share(plain, len(plain.split())) == 0.0
    padded = f"Certainly! {plain} I hope this helps! Let me know if you have any other questions."
    share = boilerplate_share(padded, len(padded.split()))
    assert 0.4 < share < 0.6
    filler = "I hope this helps! Please don't hesitate to ask."
    assert boilerplate_share(filler, len(filler.split())) == 1.0


@given(st.text(max_size=400))
@settings(max_examples=150, deadline=None)
def test_any_answer_can_be_judged(answer: str) -> None:
    assert refused(answer) in (True, False)
    assert 0.0 <= boilerplate_share(answer, len(answer.split())) <= 1.0


@pytest.mark.parametrize(
    "part",
    ["i can't ", "as an ai ", "i'm sorry ", "that is ", "a", " ", ". ", "sure! ", "important ",
     "question depends ", "ich kann nicht ", "je ne peux pas ", "no puedo ", "我", "i do not "],
)  # fmt: skip
def test_no_answer_takes_more_than_linear_time(part: str) -> None:
    answer = (part * 65_536)[:65_536]
    began = time.process_time()
    refused(answer)
    refused(answer[:1_000])
    boilerplate_share(answer, 10)
    assert time.process_time() - began < 1.0
