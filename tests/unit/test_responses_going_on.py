"""A response whose process died is gone on with: from any event that it gave, to the same end."""

import json
from typing import Any

import pytest

from responses_wire import (
    block,
    call_piece,
    chunk,
    judged,
    run,
    sse_of,
    stop,
    stored,
    text_of,
    translator,
    without_ids,
)
from tocsin.core.wire.responses import Mismatch
from tocsin.core.wire.responses.translate import Api


def test_another_answer_is_a_mismatch_and_writes_nothing() -> None:
    told = translator("chat")
    events = told.begin() + told.started() + told.feed(sse_of(chunk(content="The tide rises")))
    again = translator("chat")
    again.restore(stored(events))
    choice = {"message": {"content": "The moon sets"}, "finish_reason": "stop"}
    with pytest.raises(Mismatch):
        again.whole(json.dumps({"choices": [choice]}).encode())
    assert again.number == len(events)
    final = judged(events + again.end("unknown"))
    assert text_of(final) == "The tide rises"


def test_an_upstream_that_kept_its_answer_is_gone_on_with() -> None:
    """Restored from our events, then told the rest by a stream of the same upstream."""
    item = {"type": "message", "id": "m", "role": "assistant", "content": []}
    place = {"output_index": 0, "item_id": "m", "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    first = translator("responses")
    events = first.begin() + first.feed(
        sse_of(
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.content_part.added", **place, "part": part},
            {"type": "response.output_text.delta", **place, "delta": "One, ", "logprobs": []},
        )
    )
    second = translator("responses")
    second.restore(stored(events))
    events += second.feed(
        sse_of({"type": "response.output_text.delta", **place, "delta": "two.", "logprobs": []})
    )
    assert text_of(judged(events + second.end("complete"))) == "One, two."


_THOUGHT = {"type": "thinking", "thinking": "Hm, hm.", "signature": "SIG"}
_USE = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "sea"}}
_REDACTED = {"type": "redacted_thinking", "data": "DATA"}
_WHOLE: dict[str, tuple[Api, list[Any], dict[str, Any]]] = {
    "chat": (
        "chat",
        [
            chunk(reasoning_content="Hm, "),
            chunk(reasoning_content="hm."),
            chunk(content="Let me "),
            chunk(content="look."),
            chunk(refusal="Not at the sun."),
            chunk(tool_calls=[call_piece(0, '{"at"', id="c1", name="look")]),
            chunk(tool_calls=[call_piece(0, ':"sea"}'), call_piece(1, "{}", id="c2", name="look")]),
            chunk("tool_calls"),
        ],
        {
            "choices": [
                {
                    "finish_reason": "tool_calls",
                    "message": {
                        "reasoning_content": "Hm, hm.",
                        "content": "Let me look.",
                        "refusal": "Not at the sun.",
                        "tool_calls": [
                            {"id": "c1", "function": {"name": "look", "arguments": '{"at":"sea"}'}},
                            {"id": "c2", "function": {"name": "look", "arguments": "{}"}},
                        ],
                    },
                }
            ]
        },
    ),
    "messages": (
        "messages",
        [
            *block(
                0,
                {"type": "thinking", "thinking": ""},
                {"type": "thinking_delta", "thinking": "Hm, "},
                {"type": "thinking_delta", "thinking": "hm."},
                {"type": "signature_delta", "signature": "SIG"},
            ),
            *block(1, _REDACTED),
            *block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Let me "}),
            *block(3, {"type": "text", "text": ""}, {"type": "text_delta", "text": "look."}),
            *block(
                4,
                {**_USE, "input": {}},
                {"type": "input_json_delta", "partial_json": '{"at":'},
                {"type": "input_json_delta", "partial_json": '"sea"}'},
            ),
            stop("tool_use"),
        ],
        {
            "content": [
                _THOUGHT,
                _REDACTED,
                {"type": "text", "text": "Let me "},
                {"type": "text", "text": "look."},
                _USE,
            ],
            "stop_reason": "tool_use",
        },
    ),
}


@pytest.mark.parametrize("name", _WHOLE)
def test_a_rich_answer_is_gone_on_with_from_every_event(name: str) -> None:
    api, stream, body = _WHOLE[name]
    expected, events = run(api, *stream)
    at_once = translator(api)
    first = at_once.begin() + at_once.started() + at_once.whole(json.dumps(body).encode())
    assert without_ids(judged(first + at_once.end("complete"))) == without_ids(expected)
    for cut in range(1, len(events)):
        told = translator(api)
        told.restore(stored(events[:cut]))
        rest = told.whole(json.dumps(body).encode()) + told.end("complete")
        assert without_ids(judged(events[:cut] + rest)) == without_ids(expected)
        # And by one Tocsin in front of another, which has the answer as a response.
        told = translator("responses")
        told.restore(stored(events[:cut]))
        rest = told.whole(json.dumps(expected).encode()) + told.end("complete")
        assert without_ids(judged(events[:cut] + rest)) == without_ids(expected)


def test_what_has_ended_stays_ended() -> None:
    _, events = run("chat", chunk("stop", content="x"))
    again = translator("chat")
    again.restore(stored(events))
    assert again.ended
    assert again.end("error") == []
    assert again.begin() == []
    assert text_of(again.response) == "x"
