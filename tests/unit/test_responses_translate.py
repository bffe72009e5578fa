"""Single answers as events: what each upstream says, and how a response ends."""

from typing import Any

import pytest

from responses_wire import (
    block,
    call_piece,
    chunk,
    data_of,
    judged,
    kinds,
    run,
    sse_of,
    stop,
    stored,
    text_of,
    translator,
)
from tocsin.core.interaction import Usage
from tocsin.core.meaning import Check
from tocsin.core.outcome import OUTCOMES, Outcome
from tocsin.core.wire.reading import MAX_OUTPUT
from tocsin.core.wire.responses import Translator, sse
from tocsin.core.wire.responses.translate import Api

# -- the order of events --


def test_the_order_of_events_is_the_one_that_clients_know() -> None:
    call = call_piece(0, id="c1", name="look")
    _, events = run(
        "chat",
        chunk(content="Let me "),
        chunk(content="see."),
        chunk(tool_calls=[call]),
        chunk(tool_calls=[call_piece(0, '{"a"')]),
        chunk(tool_calls=[call_piece(0, ":1}")]),
        chunk("tool_calls"),
    )
    assert kinds(events) == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]


def test_background_work_is_queued_first() -> None:
    told = translator("chat", background=True)
    events = told.begin(queued=True)
    assert kinds(events) == ["created", "queued"]
    assert {body["response"]["status"] for body in data_of(events)} == {"queued"}
    assert told.begin() == []
    assert data_of(told.started())[0]["response"]["status"] == "in_progress"
    assert told.started() == []


def test_numbers_go_on_from_where_others_began() -> None:
    told = translator("chat")
    others = Translator("chat", told.response, lambda prefix: prefix, first=2)
    assert [body["sequence_number"] for body in data_of(others.started())] == [2]
    ended = data_of(others.end("complete"))
    assert [(body["type"], body["sequence_number"]) for body in ended] == [
        ("response.completed", 3)
    ]


def test_the_response_can_be_looked_at_while_it_grows() -> None:
    told = translator("chat")
    told.begin()
    told.feed(sse_of(chunk(content="half a ")))
    told.feed(sse_of(chunk(content="sentence")))
    assert text_of(told.response) == "half a sentence"
    assert told.response["output"][0]["status"] == "in_progress"
    # Looking changes nothing.
    told.feed(sse_of(chunk("stop", content=".")))
    assert text_of(told.response) == "half a sentence."


def test_an_event_goes_out_as_it_is_stored() -> None:
    (event,) = stored([("response.created", b'{"a":1}')])
    assert sse(event) == b'id: 0\nevent: response.created\ndata: {"a":1}\n\n'


# -- chat completions --


def test_a_refusal_is_a_part_of_its_own() -> None:
    final, events = run("chat", chunk(refusal="I can"), chunk("stop", refusal="not."))
    assert final["output"][0]["content"] == [{"type": "refusal", "refusal": "I cannot."}]
    assert "refusal.delta" in kinds(events)
    assert "refusal.done" in kinds(events)


def test_thoughts_are_a_reasoning_item_before_the_answer() -> None:
    for field in ("reasoning_content", "reasoning"):
        final, events = run("chat", chunk(**{field: "Hmm."}), chunk("stop", content="Yes."))
        assert [item["type"] for item in final["output"]] == ["reasoning", "message"]
        assert final["output"][0]["content"] == [{"type": "reasoning_text", "text": "Hmm."}]
        assert "reasoning_text.delta" in kinds(events)


def test_calls_that_are_interleaved_are_told_apart() -> None:
    final, _ = run(
        "chat",
        chunk(tool_calls=[call_piece(0, '{"a":', id="c1", name="f")]),
        chunk(tool_calls=[call_piece(1, '{"b":', id="c2", name="g")]),
        chunk(tool_calls=[call_piece(0, "1}"), call_piece(1, "2}")]),
        chunk("tool_calls"),
    )
    said = [(item["call_id"], item["arguments"]) for item in final["output"]]
    assert said == [("c1", '{"a":1}'), ("c2", '{"b":2}')]


def test_calls_that_all_have_the_same_index_are_told_apart_by_their_ids() -> None:
    final, _ = run(
        "chat",
        chunk(tool_calls=[call_piece(0, '{"a":1}', id="c1", name="f")]),
        chunk(tool_calls=[call_piece(0, '{"a":2}', id="c2", name="f")]),
        chunk("tool_calls"),
    )
    assert [item["call_id"] for item in final["output"]] == ["c1", "c2"]


def test_a_call_is_whole_as_soon_as_the_next_begins() -> None:
    told = translator("chat")
    told.begin()
    told.feed(sse_of(chunk(tool_calls=[call_piece(0, "{}", id="c1", name="f")])))
    events = told.feed(sse_of(chunk(tool_calls=[call_piece(1, "", id="c2", name="f")])))
    assert kinds(events)[:2] == ["function_call_arguments.done", "output_item.done"]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    call = call_piece(0, "", id="c1", name="now")
    final, _ = run("chat", chunk(tool_calls=[call]), chunk("tool_calls"))
    assert final["output"][0]["arguments"] == "{}"


def test_arguments_that_were_cut_are_left_as_they_are() -> None:
    call = call_piece(0, '{"a', id="c1", name="f")
    final, _ = run("chat", chunk(tool_calls=[call]), chunk("length"), outcome="truncated")
    assert final["output"][0]["arguments"] == '{"a'
    assert final["output"][0]["status"] == "incomplete"


def test_tools_that_take_text_are_called_with_text() -> None:
    custom = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "sql", "input": "sel"}}
    more = {"index": 0, "custom": {"input": "ect 1"}}
    tools = [{"type": "custom", "name": "sql"}]
    final, events = run(
        "chat", chunk(tool_calls=[custom]), chunk(tool_calls=[more]), chunk("stop"), tools=tools
    )
    assert final["output"][0]["type"] == "custom_tool_call"
    assert final["output"][0]["input"] == "select 1"
    assert "custom_tool_call_input.done" in kinds(events)


def test_log_probabilities_come_along() -> None:
    entry = {"token": "Hi", "bytes": [72, 105], "logprob": -0.5}
    said = chunk(content="Hi")
    said["choices"][0]["logprobs"] = {"content": [{**entry, "top_logprobs": [entry]}]}
    final, _ = run("chat", said, chunk("stop"))
    assert final["output"][0]["content"][0]["logprobs"] == [{**entry, "top_logprobs": [entry]}]


def test_citations_come_along() -> None:
    cited = {"start_index": 0, "end_index": 2, "title": "T", "url": "https://x.test"}
    annotation = {"type": "url_citation", "url_citation": cited}
    final, events = run("chat", chunk(content="Hi", annotations=[annotation]), chunk("stop"))
    assert final["output"][0]["content"][0]["annotations"] == [{"type": "url_citation", **cited}]
    assert "output_text.annotation.added" in kinds(events)


def test_usage_has_every_detail() -> None:
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    final, _ = run("chat", chunk("stop", content="x"), {"choices": [], "usage": usage})
    assert final["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 12,
    }
    bare, _ = run("chat", chunk("stop", content="x"))
    # Tokens that nobody counted are not none.
    assert bare["usage"] is None


def test_the_model_that_answered_is_named() -> None:
    final, _ = run("chat", {"model": "m-2026", **chunk("stop", content="x")})
    assert final["model"] == "m-2026"


# -- Anthropic's messages --


def test_thinking_is_a_summary_with_its_proof_sealed() -> None:
    final, events = run(
        "messages",
        *block(
            0,
            {"type": "thinking", "thinking": ""},
            {"type": "thinking_delta", "thinking": "Let me "},
            {"type": "thinking_delta", "thinking": "see."},
            {"type": "signature_delta", "signature": "SIG=="},
        ),
        *block(1, {"type": "redacted_thinking", "data": "DATA"}),
        *block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Yes."}),
        stop("end_turn"),
    )
    thought, hidden, message = final["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "Let me see."}]
    assert thought["encrypted_content"].endswith("signed.SIG==")
    assert hidden["summary"] == []
    assert hidden["encrypted_content"].endswith("redacted.DATA")
    assert message["content"][0]["text"] == "Yes."
    assert "reasoning_summary_text.delta" in kinds(events)
    assert "reasoning_summary_part.done" in kinds(events)


def test_text_blocks_are_parts_of_one_message() -> None:
    text = {"type": "text", "text": ""}
    final, _ = run(
        "messages",
        *block(0, text, {"type": "text_delta", "text": "One. "}),
        *block(1, text, {"type": "text_delta", "text": "Two."}),
        stop("end_turn"),
    )
    (message,) = final["output"]
    assert [part["text"] for part in message["content"]] == ["One. ", "Two."]


def test_a_tool_that_takes_text_gets_it_out_of_the_json_around_it() -> None:
    tools = [{"type": "custom", "name": "sql"}]
    use = {"type": "tool_use", "id": "t1", "name": "sql", "input": {}}
    final, _ = run(
        "messages",
        *block(
            0,
            use,
            {"type": "input_json_delta", "partial_json": '{"input":"sel'},
            {"type": "input_json_delta", "partial_json": 'ect 1"}'},
        ),
        stop("tool_use"),
        tools=tools,
    )
    assert final["output"][0]["type"] == "custom_tool_call"
    assert final["output"][0]["input"] == "select 1"


def test_a_call_without_input_is_whole_when_another_follows() -> None:
    final, _ = run(
        "messages",
        *block(0, {"type": "tool_use", "id": "t1", "name": "now", "input": {}}),
        *block(1, {"type": "tool_use", "id": "t2", "name": "now", "input": {}}),
        stop("max_tokens"),
        outcome="truncated",
    )
    said = [(item["arguments"], item["status"]) for item in final["output"]]
    assert said == [("{}", "completed"), ("", "incomplete")]


def test_counts_of_anthropic_are_added_up() -> None:
    start = {
        "type": "message_start",
        "message": {
            "id": "msg_u",
            "model": "claude",
            "usage": {"input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 1},
        },
    }
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    count = {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}
    final, _ = run("messages", start, {**last, "usage": count})
    assert final["usage"]["input_tokens"] == 3
    assert final["usage"]["input_tokens_details"]["cached_tokens"] == 2
    assert final["usage"]["output_tokens"] == 9
    assert final["usage"]["output_tokens_details"]["reasoning_tokens"] == 4


# -- responses --


def test_items_of_other_kinds_pass_through() -> None:
    action = {"type": "search", "query": "tides"}
    search = {"type": "web_search_call", "id": "ws_u", "status": "in_progress", "action": action}
    done = {**search, "status": "completed"}
    place = {"output_index": 0, "item_id": "ws_u"}
    told = translator("responses")
    events = told.begin() + told.started()
    events += told.feed(
        sse_of(
            {"type": "response.created", "response": {"id": "resp_u", "output": []}},
            {"type": "response.output_item.added", "output_index": 0, "item": search},
            {"type": "response.web_search_call.searching", **place},
            {"type": "response.output_item.done", "output_index": 0, "item": done},
            {
                "type": "response.completed",
                "response": {"id": "resp_u", "status": "completed", "output": [done]},
            },
        )
    )
    assert told.upstream_id == "resp_u"
    assert told.terminal
    final = judged(events + told.end("complete"))
    (item,) = final["output"]
    assert item["id"] == data_of(events)[3]["item_id"] != "ws_u"
    assert item["action"]["query"] == "tides"
    assert final["id"] == "resp_1"


def test_text_of_an_upstream_that_announces_no_part_is_announced() -> None:
    item = {"type": "message", "id": "m", "role": "assistant", "content": []}
    final, events = run(
        "responses",
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.output_text.delta", "output_index": 0, "item_id": "m", "delta": "Hi"}
        | {"content_index": 0, "logprobs": []},
    )
    assert text_of(final) == "Hi"
    assert "content_part.added" in kinds(events)


def test_what_an_upstream_only_says_at_the_end_is_said() -> None:
    item = {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "All of it.", "annotations": []}],
    }
    end = {"id": "r", "status": "completed", "output": [item]}
    final, events = run("responses", {"type": "response.completed", "response": end})
    assert text_of(final) == "All of it."
    assert "output_text.delta" in kinds(events)


def test_a_background_answer_that_is_not_ready_says_nothing() -> None:
    told = translator("responses")
    told.begin()
    assert told.whole(b'{"id":"resp_u","status":"queued","output":[]}') == []
    assert not told.terminal


# -- errors and ends --


@pytest.mark.parametrize(
    ("api", "event"),
    [
        ("chat", {"error": {"message": "too busy", "code": "rate_limit_exceeded"}}),
        (
            "messages",
            {"type": "error", "error": {"type": "rate_limit_error", "message": "too busy"}},
        ),
        ("responses", {"type": "error", "code": "rate_limit_exceeded", "message": "too busy"}),
    ],
)
def test_an_error_in_the_stream_ends_in_a_failed_response(api: Api, event: dict[str, Any]) -> None:
    final, _ = run(api, event, outcome="error")
    assert final["status"] == "failed"
    assert final["error"] == {"code": "rate_limit_exceeded", "message": "too busy"}


@pytest.mark.parametrize("api", ["chat", "messages", "responses"])
def test_a_json_error_in_place_of_a_stream_is_read(api: Api) -> None:
    told = translator(api)
    events = told.begin() + told.feed(b'{"error":{"message":"no ') + told.feed(b'such model"}}')
    events += told.finish()
    assert told.error is not None
    assert told.error.message == "no such model"
    assert judged(events + told.end("error"))["error"]["message"] == "no such model"


def test_a_stream_that_ends_early_keeps_its_text() -> None:
    told = translator("chat")
    events = told.begin() + told.feed(sse_of(chunk(content="It was a dark")))
    events += told.end("unknown")
    final = judged(events)
    assert text_of(final) == "It was a dark"
    assert final["output"][0]["status"] == "incomplete"
    assert final["status"] == "failed"
    assert final["tocsin"]["outcome"] == "unknown"


_STATUS: dict[Outcome, tuple[str, str, str | None]] = {
    "complete": ("completed", "response.completed", None),
    "unverified": ("completed", "response.completed", None),
    "refused": ("completed", "response.completed", None),
    "truncated": ("incomplete", "response.incomplete", "max_output_tokens"),
    "invalid": ("incomplete", "response.incomplete", None),
    "cancelled": ("cancelled", "response.incomplete", None),
    "denied": ("failed", "response.failed", None),
    "timeout": ("failed", "response.failed", None),
    "unknown": ("failed", "response.failed", None),
    "error": ("failed", "response.failed", None),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_has_a_status_that_the_api_knows(outcome: Outcome) -> None:
    told = translator("chat")
    check = Check(name="schema", verdict="fail", detail="$.a: is missing")
    events = told.begin() + told.feed(sse_of(chunk("stop", content="some text")))
    events += told.end(outcome, [check], facts={"operation": "resp_1"}, completed_at=9)
    final = judged(events)
    status, kind, reason = _STATUS[outcome]
    assert (final["status"], events[-1][0]) == (status, kind)
    assert (final["incomplete_details"] or {}).get("reason") == reason
    assert (final["error"] is not None) == (status == "failed")
    assert final["tocsin"]["outcome"] == outcome
    assert final["tocsin"]["operation"] == "resp_1"
    assert final["tocsin"]["checks"] == [
        {"name": "schema", "verdict": "fail", "detail": "$.a: is missing"}
    ]
    assert final["completed_at"] == (9 if status == "completed" else None)
    assert text_of(final) == "some text"
    # It ends once.
    assert told.ended
    assert told.end("error") == []


@pytest.mark.parametrize(
    ("api", "event"),
    [("chat", chunk("content_filter", content="x")), ("messages", stop("refusal"))],
)
def test_a_filter_that_steps_in_is_named(api: Api, event: dict[str, Any]) -> None:
    final, _ = run(api, event, outcome="refused")
    assert final["status"] == "incomplete"
    assert final["incomplete_details"] == {"reason": "content_filter"}


def test_codes_that_the_api_does_not_know_are_kept_beside_it() -> None:
    told = translator("chat")
    events = told.begin() + told.end(
        "denied", error=("budget_exceeded", "The day's money is gone.")
    )
    final = judged(events)
    assert final["error"] == {"code": "rate_limit_exceeded", "message": "The day's money is gone."}
    assert final["tocsin"]["error_code"] == "budget_exceeded"


def test_usage_can_be_told_by_somebody_else() -> None:
    told = translator("chat")
    told.usage = Usage(input_tokens=1, output_tokens=2)
    assert judged(told.begin() + told.end("complete"))["usage"]["total_tokens"] == 3


@pytest.mark.parametrize("start", [b"data: ", b'{"a":"'])
def test_a_piece_that_is_too_large_is_an_error(start: bytes) -> None:
    told = translator("chat")
    events = told.begin() + told.feed(start) + told.feed(b"x" * (MAX_OUTPUT + 1))
    final = judged(events + told.end("error"))
    assert final["tocsin"]["error_code"] == "too_large"
