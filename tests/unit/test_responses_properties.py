"""Whatever an upstream says, and however it is cut: the events are a stream that the official
client takes, and they end in the response that the whole body gives."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from responses_wire import judged, stored, text_of, translator, without_ids
from tocsin.core.interaction import Dialect, Usage
from tocsin.core.messages import ToolCall
from tocsin.core.wire.render import Answer, json_body, sse_events
from tocsin.core.wire.responses import Mismatch, Written
from tocsin.core.wire.responses.translate import Api

_DIALECTS: dict[Api, Dialect] = {"chat": "openai", "messages": "anthropic"}
_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)
_CALLS = st.builds(
    ToolCall,
    id=st.uuids().map(lambda made: f"call_{made.hex}"),
    name=st.sampled_from(["look", "write_file"]),
    arguments=st.dictionaries(_WORDS, _WORDS | st.integers(0, 9), max_size=3).map(
        lambda made: json.dumps(made, ensure_ascii=False, separators=(",", ":"))
    ),
)
_ANSWERS = st.builds(
    Answer,
    text=_WORDS,
    tool_calls=st.lists(_CALLS, max_size=3, unique_by=lambda call: call.id).map(tuple),
    finish_reason=st.sampled_from(["", "length", "content_filter"]),
    usage=st.none()
    | st.builds(
        Usage,
        input_tokens=st.integers(0, 10**6),
        output_tokens=st.integers(0, 10**6),
        reasoning_tokens=st.none() | st.integers(0, 99),
    ),
)


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


def _streamed(api: Api, answer: Answer, places: list[int]) -> list[Written]:
    told = translator(api)
    events = told.begin() + told.started()
    for piece in _cut(b"".join(sse_events(_DIALECTS[api], answer, "m")), places):
        events += told.feed(piece)
    return events + told.end(_outcome(answer))


def _at_once(api: Api, answer: Answer) -> list[Written]:
    told = translator(api)
    events = told.begin() + told.started()
    events += told.whole(json_body(_DIALECTS[api], answer, "m"))
    return events + told.end(_outcome(answer))


def _outcome(answer: Answer) -> Any:
    return {"": "complete", "length": "truncated"}.get(answer.finish_reason, "refused")


def _plain(answer: Answer, api: Api, response: dict[str, Any]) -> dict[str, Any]:
    if api == "messages" and answer.usage is None:
        # A whole message always has a usage; a stream's may lack one.
        response = {**response, "usage": None}
    return without_ids(response)


@pytest.mark.parametrize("api", ["chat", "messages"])
@settings(max_examples=50, deadline=None)
@given(answer=_ANSWERS, places=st.lists(st.integers(0, 10**6), max_size=20))
@example(answer=Answer(text="ü" * 3, finish_reason="length"), places=[150, 151, 152])
def test_a_stream_cut_anywhere_ends_in_the_response_of_the_whole_body(
    api: Api, answer: Answer, places: list[int]
) -> None:
    streamed = judged(_streamed(api, answer, places))
    at_once = judged(_at_once(api, answer))
    assert _plain(answer, api, streamed) == _plain(answer, api, at_once)
    assert text_of(streamed) == answer.text
    calls = [item for item in streamed["output"] if item["type"] == "function_call"]
    assert [(c["call_id"], c["name"], json.loads(c["arguments"])) for c in calls] == [
        (c.id, c.name, json.loads(c.arguments)) for c in answer.tool_calls
    ]


@pytest.mark.parametrize("api", ["chat", "messages"])
@settings(max_examples=50, deadline=None)
@given(answer=_ANSWERS, place=st.integers(1, 10**6))
def test_a_stream_that_breaks_off_is_gone_on_with_where_it_ended(
    api: Api, answer: Answer, place: int
) -> None:
    """Also in the middle of what one piece adds: between an item's beginning and its first word."""
    events = _streamed(api, answer, [])[:-1]
    given_out = events[: 1 + place % len(events)]
    told = translator(api)
    told.restore(stored(given_out))
    rest = told.whole(json_body(_DIALECTS[api], answer, "m")) + told.end(_outcome(answer))
    again = judged(given_out + rest)
    assert _plain(answer, api, again) == _plain(answer, api, judged(_at_once(api, answer)))


@pytest.mark.parametrize("api", ["chat", "messages"])
@settings(max_examples=50, deadline=None)
@given(answer=_ANSWERS, place=st.integers(1, 10**6))
def test_events_read_back_make_the_same_response_as_it_stands(
    api: Api, answer: Answer, place: int
) -> None:
    told = translator(api)
    events = told.begin() + told.started()
    stream = b"".join(sse_events(_DIALECTS[api], answer, "m"))
    events += told.feed(stream[: place % (len(stream) + 1)])
    events += told.finish()
    again = translator(api)
    again.restore(stored(events))
    assert again.response == told.response
    assert again.number == told.number
    last, expected = again.end("unknown"), told.end("unknown")
    assert last[:-1] == expected[:-1]
    assert again.response["output"] == told.response["output"]


@settings(max_examples=50, deadline=None)
@given(answer=_ANSWERS, places=st.lists(st.integers(0, 10**6), max_size=20))
def test_a_response_that_an_upstream_streams_is_the_same_with_other_ids(
    answer: Answer, places: list[int]
) -> None:
    """One Tocsin in front of another."""
    first = _streamed("chat", answer, [])
    original = judged(first)
    data = b"".join(b"event: %b\ndata: %b\n\n" % (kind.encode(), body) for kind, body in first)
    told = translator("responses")
    events = told.begin() + told.started()
    for piece in _cut(data, places):
        events += told.feed(piece)
    events += told.end(_outcome(answer))
    passed_on = judged(events)
    assert without_ids(passed_on) == without_ids(original)
    told = translator("responses")
    events = told.begin() + told.started() + told.whole(json.dumps(original).encode())
    assert without_ids(judged(events + told.end(_outcome(answer)))) == without_ids(original)


@settings(max_examples=50, deadline=None)
@given(answer=_ANSWERS, other=_ANSWERS)
def test_another_answer_is_never_joined_to_what_was_given_out(
    answer: Answer, other: Answer
) -> None:
    events = _streamed("chat", answer, [])[:-1]
    told = translator("chat")
    told.restore(stored(events))
    try:
        rest = told.whole(json_body("openai", other, "m"))
    except Mismatch:
        assert told.number == len(events)
        return
    final = judged(events + rest + told.end(_outcome(other)))
    assert text_of(final) == other.text


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), api=st.sampled_from(["chat", "messages", "responses"]))
def test_bytes_that_mean_nothing_raise_nothing(data: bytes, api: Api) -> None:
    told = translator(api)
    events = told.begin() + told.feed(b"data: " + data + b"\n\n") + told.feed(data)
    judged(events + told.end("error"))


_FIELDS = (
    *("type", "index", "delta", "content", "text", "item", "id", "output_index", "part"),
    *("item_id", "content_index", "response", "output", "status", "choices", "tool_calls"),
    *("function", "name", "arguments", "finish_reason", "usage", "error", "message"),
    *("content_block", "input", "thinking", "signature", "call_id", "summary", "logprobs"),
)
_TYPES = st.sampled_from(
    [
        *("response.output_item.added", "response.output_item.done", "response.completed"),
        *("response.content_part.added", "response.content_part.done", "response.failed"),
        *("response.output_text.delta", "response.output_text.done", "error"),
        *("response.function_call_arguments.delta", "message_start", "message_delta"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["", "x", "text", "message"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=5)
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(
    bodies=st.lists(st.tuples(_TYPES, _JSON), max_size=6),
    api=st.sampled_from(["chat", "messages", "responses"]),
)
def test_json_of_no_known_shape_raises_nothing(bodies: list[tuple[str, Any]], api: Api) -> None:
    told = translator(api)
    events = told.begin()
    for kind, body in bodies:
        value = {"type": kind, **body} if isinstance(body, dict) else body
        events += told.feed(b"data: " + json.dumps(value).encode() + b"\n\n")
    events += told.end("error")
    numbers = [json.loads(body)["sequence_number"] for _, body in events]
    assert numbers == list(range(len(events)))
    other = translator(api)
    other.whole(json.dumps(bodies[0][1] if bodies else None).encode())
    other.end("error")
